"""An objective of your own: a dictionary whose concepts may be active with either sign.

    vlsae train --plugin own_objective.py objective=signed_top_k objective.k=16

Its run has all that a dictionary's run has: concepts, names, evaluation, report.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from vlsae.dictionaries.base import Dictionary, OptionalCount, SparseCode
from vlsae.plugins import register
from vlsae.training.objective import Loss, Objective


@register("objective", "signed_top_k")
class SignedTopK(Dictionary, Objective):
    """``z = W_e x + b_e``, of which the k entries furthest from 0 are kept; ``x̂ = W_d z + b_d`` for both streams."""

    kind: ClassVar[str] = "signed_top_k"  # the class's name in saved files

    def __init__(self, width: int, n_concepts: OptionalCount = None, k: OptionalCount = None) -> None:
        super().__init__(width, n_concepts, k)
        self.encoder = nn.Linear(width, self.n_concepts)
        self.decoder = nn.Linear(self.n_concepts, width)

    def activations(self, x: Tensor, stream: str) -> Tensor:
        """Return ``W_e x + b_e``, ``(n, h)``."""
        return self.encoder(self.checked(x, stream))

    def encode(self, x: Tensor, stream: str) -> SparseCode:
        """Return the k entries of each row that lie furthest from 0."""
        values = self.activations(x, stream)
        indices = values.abs().topk(self.k, dim=1).indices
        return SparseCode.from_top(indices, values.gather(1, indices), self.n_concepts)

    def decode(self, code: SparseCode | Tensor, stream: str) -> Tensor:
        """Return the rows ``(n, d)`` of codes."""
        return self.decoder(self.dense(code, stream))

    def loss(self, batch: Mapping[str, Tensor], step: int = 0) -> Loss:
        """Return the sum of the streams' mean squared errors; each part is logged."""
        parts = {}
        for stream, x in self.checked_batch(batch).items():
            parts[f"loss/{stream}"] = (self.decode(self.encode(x, stream), stream) - x).square().mean()
        return Loss(torch.stack(list(parts.values())).sum(), parts)
