"""A dataset of your own: striped pictures, drawn when they are asked for.

    vlsae extract --plugin own_dataset.py dataset=stripes
    vlsae probe --plugin own_dataset.py dataset=stripes --layer 6

Pictures from files are opened in ``images`` in the same way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated

import datasets as hf
import numpy as np

from vlsae.bounds import Range
from vlsae.datasets.base import Dataset
from vlsae.plugins import register

COLOURS = {"red": (200, 40, 40), "green": (40, 160, 60), "blue": (50, 70, 200)}
DIRECTIONS = ("horizontal", "vertical")


@register("dataset", "stripes")
class Stripes(Dataset):
    """``n`` pictures of stripes with a caption each; labels are colour, direction and the number of stripes."""

    has_images = True

    def __init__(
        self, *, n: Annotated[int, Range(1, None)] = 1000, size: Annotated[int, Range(8, None)] = 64, seed: int = 0
    ) -> None:
        self.n, self.size, self.seed = n, size, seed

    @cached_property
    def table(self) -> hf.Dataset:
        """Everything but the pixels, one row a sample."""
        generator = np.random.default_rng(self.seed)
        colours = generator.choice(list(COLOURS), self.n).tolist()
        directions = generator.choice(DIRECTIONS, self.n).tolist()
        stripes = generator.integers(2, 7, self.n).tolist()
        kinds = list(zip(directions, colours, stripes))
        ids = [f"stripes-{row:06d}" for row in range(self.n)]
        return hf.Dataset.from_dict(
            {
                "sample_id": ids,
                "texts": [[f"{count} {direction} {colour} stripes"] for direction, colour, count in kinds],
                "labels": [dict(zip(("direction", "colour", "stripes"), kind)) for kind in kinds],
                "source": ["stripes"] * self.n,
                "group": ids,  # samples of one group fall into one split: here each is its own
            }
        )

    def images(self, indices: Sequence[int]) -> np.ndarray:
        """Draw some pictures, ``(n, size, size, 3)`` uint8."""
        return np.stack([self._draw(**self.table[int(row)]["labels"]) for row in indices])

    def digest(self) -> str:
        """What decides the content: change the text when you change the drawing, and old runs stay apart."""
        return hashlib.sha256(f"stripes 1, {self.n}, {self.size}, {self.seed}".encode()).hexdigest()

    def _draw(self, direction: str, colour: str, stripes: int) -> np.ndarray:
        inside = np.arange(self.size) * 2 * stripes // self.size % 2 == 0
        pixels = np.full((self.size, self.size, 3), 255, np.uint8)
        pixels[inside] = COLOURS[colour]
        return pixels if direction == "horizontal" else pixels.transpose(1, 0, 2)
