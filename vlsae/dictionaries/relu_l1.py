"""ReLU autoencoder with an L1 penalty (arXiv 2309.08600; weighted by decoder norms: transformer-circuits, April 2024).

Shapes: n rows of all streams, d width, h concepts.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from vlsae.bounds import OneOf, Range
from vlsae.dictionaries.base import Count, OptionalCount
from vlsae.dictionaries.penalized import PenalizedDictionary


class ReLUL1(PenalizedDictionary):
    """``a = ReLU(W_e (x − b_d) + b_e)`` with the penalty ``Σ_i a_i ‖W_d[:, i]‖``.

    ``decoder_norm=unit`` keeps the columns of ``W_d`` at length 1 instead of weighing by lengths. ``sparsity`` and
    ``adapt``: the penalty's weight, which follows the active concepts to k. Other options as in TopK.
    """

    kind: ClassVar[str] = "relu_l1"

    def __init__(
        self,
        width: int,
        n_concepts: OptionalCount = None,
        k: OptionalCount = None,
        *,
        expansion: Count = 8,
        center: Annotated[str, OneOf("median", "mean", "zero")] = "median",
        input_norm: Annotated[str, OneOf("none", "rms")] = "rms",
        dead_after: Count = 1_000_000,
        auxiliary_weight: Annotated[float, Range(0, None)] = 0.0,
        sparsity: Annotated[float, Range(0, None)] = 5.0,
        adapt: Annotated[float, Range(0, None)] = 0.01,
        decoder_norm: Annotated[str, OneOf("free", "unit")] = "free",
    ) -> None:
        super().__init__(
            width,
            n_concepts,
            k,
            expansion=expansion,
            center=center,
            input_norm=input_norm,
            dead_after=dead_after,
            auxiliary_weight=auxiliary_weight,
            sparsity=sparsity,
            adapt=adapt,
            decoder_norm=decoder_norm,
        )

    def settings(self) -> dict[str, Any]:
        """Return the constructor's arguments that give a dictionary of this form."""
        return {**super().settings(), "decoder_norm": self.decoder_norm}

    def _penalty(self, active: Tensor, code: Tensor) -> Tensor:
        return code @ torch.linalg.vector_norm(self._columns(), dim=0).to(code)
