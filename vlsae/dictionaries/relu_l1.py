"""ReLU autoencoder with an L1 penalty (arXiv 2309.08600; weighted by decoder norms: transformer-circuits, April 2024).

Shapes: n rows of all streams, d width, h concepts.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from vlsae.bounds import OneOf, Range
from vlsae.dictionaries.base import OptionalCount
from vlsae.dictionaries.centered import DECODER_NORMS
from vlsae.dictionaries.penalized import PenalizedDictionary


class ReLUL1(PenalizedDictionary):
    """``a = ReLU(W_e (x − b_d) + b_e)`` with the penalty ``Σ_i a_i ‖W_d[:, i]‖``.

    ``decoder_norm=unit`` keeps the columns of ``W_d`` at length 1 instead of weighing by lengths. Other options as
    in PenalizedDictionary.
    """

    kind: ClassVar[str] = "relu_l1"

    def __init__(
        self,
        width: int,
        n_concepts: OptionalCount = None,
        k: OptionalCount = None,
        *,
        decoder_norm: Annotated[str, OneOf(*DECODER_NORMS)] = "free",
        sparsity: Annotated[float, Range(0, None)] = 5.0,
        **options: Any,
    ) -> None:
        super().__init__(width, n_concepts, k, decoder_norm=decoder_norm, sparsity=sparsity, **options)

    def _penalty(self, active: Tensor, code: Tensor) -> Tensor:
        return code @ torch.linalg.vector_norm(self._columns(), dim=0).to(code)
