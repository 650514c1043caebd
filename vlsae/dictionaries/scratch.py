"""Memory for a large tensor that each training step makes anew and needs no longer than the step."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Scratch(nn.Module):
    """Memory that is kept from step to step, until the module it belongs to leaves training.

    The C library gives pieces of more than 32 MB back to the system at once, which clears them page by page when they
    are asked for again: a tenth of a step, where they are the scores of 2,048 rows and 12,288 concepts.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: Tensor | None = None

    def of(self, n: int, width: int, like: Tensor) -> Tensor:
        """Return memory ``(n, width)`` in the dtype and on the device of ``like``, to be overwritten."""
        kept = self._kept
        fits = kept is not None and (kept.dtype, kept.device, kept.shape[1]) == (like.dtype, like.device, width)
        if kept is None or not fits or len(kept) < n:
            kept = self._kept = like.new_empty(n, width)
        return kept[:n]

    def train(self, mode: bool = True) -> Scratch:
        """Give the memory back where training ends."""
        if not mode:
            self._kept = None
        return super().train(mode)

    def __deepcopy__(self, memo: dict[int, Any]) -> Scratch:
        return Scratch().train(self.training)
