"""The second pass of VCD (Leng et al. 2024): the same prefix with a picture that noise has made hard to see.

b prompts, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from vlsae.enhancement.decoding import Open
from vlsae.enhancement.hallucination import vcd_noise_schedule
from vlsae.errors import UserError

#: Noise is drawn from seeds of its own, apart from those by which tokens are drawn.
_APART = 7_919


class NoisyPass:
    """Answers each prompt twice side by side, the second time with noise on its preprocessed picture.

    ``step`` of a 1,000-step process says how much; ``numbers`` and ``seed`` fix each item's own noise.
    """

    cached = True
    copies = 2

    def __init__(self, pixels: str, step: int, numbers: Sequence[int], seed: int) -> None:
        schedule = vcd_noise_schedule()
        if not 0 <= step < len(schedule):
            raise UserError(f"The noise's step is {step}; it must lie in 0…{len(schedule) - 1}.")
        self.pixels, self.numbers, self.seed = pixels, list(numbers), seed
        self.kept = float(schedule[step])

    def inputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the inputs with every prompt a second time, behind the first ones, with a noisy picture."""
        noisy = {**inputs, self.pixels: self._noisy(inputs)}
        return {
            name: torch.cat([value, noisy[name]]) if isinstance(value, Tensor) else value
            for name, value in inputs.items()
        }

    @contextmanager
    def attached(self, module: Any, is_open: Open) -> Iterator[None]:
        """Nothing is followed: both passes are rows of one batch."""
        yield

    def logits(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits ``(b, v)`` with the clear and with the noisy picture."""
        clear, noisy = scores.chunk(2)
        return clear, noisy

    def _noisy(self, inputs: Mapping[str, Any]) -> Tensor:
        pixels = inputs[self.pixels]
        parts = pixels.split(_rows_each(inputs, len(self.numbers), len(pixels)))
        return torch.cat([self._with_noise(part, number) for part, number in zip(parts, self.numbers, strict=True)])

    def _with_noise(self, pixels: Tensor, number: int) -> Tensor:
        generator = torch.Generator().manual_seed((self.seed * _APART + number) % 2**63)
        noise = torch.randn(pixels.shape, generator=generator).to(pixels)
        return self.kept**0.5 * pixels + (1 - self.kept) ** 0.5 * noise


def _rows_each(inputs: Mapping[str, Any], prompts: int, rows: int) -> list[int]:
    """Return how many rows of the pixels belong to each prompt: patches, where a grid says so, else equally many."""
    grid = inputs.get("image_grid_thw")
    if grid is not None:
        return grid.prod(dim=1).tolist()
    return [rows // prompts] * prompts
