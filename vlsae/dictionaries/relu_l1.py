"""ReLU autoencoder with an L1 penalty (arXiv 2309.08600; weighted by decoder norms: transformer-circuits, April 2024).

Shapes: n rows of all streams, d width, h concepts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from vlsae.bounds import OneOf, Range
from vlsae.dictionaries.base import OptionalCount, one_of
from vlsae.dictionaries.centered import DECODER_NORMS
from vlsae.dictionaries.penalized import BIAS_STARTS, PenalizedDictionary


class ReLUL1(PenalizedDictionary):
    """``a = ReLU(W_e (x − b_d) + b_e)`` with the penalty ``Σ_i a_i ‖W_d[:, i]‖``.

    ``decoder_norm=unit`` keeps the columns of ``W_d`` at length 1 instead of weighing by lengths. ``bias_start``: b_e
    starts at ``zero``, or where the first rows have ``k`` active concepts. ``sparsity=None`` starts λ at
    ``√(d/k) / 2``: of rows of root mean square 1 with k equal active concepts, a sixteenth of the variance is then
    lost to shrinking. Other options as in PenalizedDictionary.
    """

    kind: ClassVar[str] = "relu_l1"

    def __init__(
        self,
        width: int,
        n_concepts: OptionalCount = None,
        k: OptionalCount = None,
        *,
        decoder_norm: Annotated[str, OneOf(*DECODER_NORMS)] = "free",
        sparsity: Annotated[float | None, Range(0, None)] = 5.0,
        bias_start: Annotated[str, OneOf(*BIAS_STARTS)] = "zero",
        **options: Any,
    ) -> None:
        start = 1.0 if sparsity is None else sparsity
        super().__init__(width, n_concepts, k, decoder_norm=decoder_norm, sparsity=start, **options)
        self.bias_start = one_of("bias_start", bias_start, BIAS_STARTS)
        if sparsity is None:
            self.sparsity = sparsity
            self.sparsity_weight.fill_(math.sqrt(self.width / self.k) / 2)

    def initialize(self, batch: Mapping[str, Tensor]) -> None:
        """Measure the rows' size and centre, and where asked for the bias that leaves k active concepts."""
        super().initialize(batch)
        if self.bias_start == "k":
            self._start_bias(batch)

    def _penalty(self, active: Tensor, code: Tensor) -> Tensor:
        return code @ torch.linalg.vector_norm(self._columns(), dim=0).to(code)
