"""A linear basis: signed codes by one matrix, rows back by another, each stream about its own mean.

Shapes: n rows, d width, h components, k kept ones.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from vlsae.dictionaries.base import STREAMS, Dictionary, OptionalCount, SparseCode
from vlsae.dictionaries.selection import top_k


class LinearBasis(Dictionary):
    """``a = (x − μ_m) Aᵀ``, the k components of largest magnitude kept, ``x̂ = code S + μ_m``; ``a`` may be negative.

    ``analysis (h, d)``, ``synthesis (h, d)`` and the streams' means ``offset (2, d)`` come from a fit. ``k`` defaults
    to all components.
    """

    kind: ClassVar[str] = "linear_basis"
    offset: Tensor

    def __init__(self, width: int, n_concepts: OptionalCount = None, k: OptionalCount = None) -> None:
        h = width if n_concepts is None else n_concepts
        super().__init__(width, h, h if k is None else k)
        self.analysis = nn.Parameter(torch.eye(h, width), requires_grad=False)
        self.synthesis = nn.Parameter(torch.eye(h, width), requires_grad=False)
        self.register_buffer("offset", torch.zeros(2, width))

    @classmethod
    def of(cls, analysis: Tensor, synthesis: Tensor, offset: Tensor, k: int | None) -> LinearBasis:
        """Return the dictionary of fitted matrices, in float32."""
        h, width = analysis.shape
        dictionary = cls(width, h, k)
        dictionary.analysis.copy_(analysis)
        dictionary.synthesis.copy_(synthesis)
        dictionary.offset.copy_(offset)
        return dictionary.eval()

    def activations(self, x: Tensor, stream: str) -> Tensor:
        """Return the signed coordinates ``(n, h)``."""
        return (self.checked(x, stream) - self.offset[STREAMS.index(stream)]) @ self.analysis.T

    def encode(self, x: Tensor, stream: str) -> SparseCode:
        """Return the k coordinates of largest magnitude of each row."""
        values = self.activations(x, stream)
        indices = top_k(values.abs(), self.k)
        return SparseCode.from_top(indices, values.gather(1, indices), self.n_concepts)

    def decode(self, code: SparseCode | Tensor, stream: str) -> Tensor:
        """Return the rows ``(n, d)`` of codes."""
        return self.dense(code, stream) @ self.synthesis + self.offset[STREAMS.index(stream)]
