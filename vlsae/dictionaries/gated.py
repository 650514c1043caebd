"""Gated autoencoder: one half decides which concepts fire, the other how strongly (arXiv 2404.16014, section 3).

Shapes: n rows of all streams, d width, h concepts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlsae.bounds import OneOf
from vlsae.dictionaries.base import OptionalCount, one_of
from vlsae.dictionaries.linear import linear, mean_squared_error
from vlsae.dictionaries.penalized import BIAS_STARTS, PenalizedDictionary


class Gated(PenalizedDictionary):
    """``π = W_e (x − b_d) + b_e``, ``a = 1[π > 0] · ReLU(exp(r) · W_e (x − b_d) + b_m)``, unit columns of ``W_d``.

    The penalty is ``Σ_i ReLU(π_i)``; the gate learns also from ``‖x − x̂(ReLU π)‖²`` through a frozen decoder.
    ``sparsity`` and ``adapt``: the penalty's weight, which follows the active concepts to k. ``bias_start``: b_e starts
    at ``zero``, or where the first rows have ``k`` active concepts. Other options as in TopK.
    """

    kind: ClassVar[str] = "gated"

    def __init__(
        self,
        width: int,
        n_concepts: OptionalCount = None,
        k: OptionalCount = None,
        *,
        bias_start: Annotated[str, OneOf(*BIAS_STARTS)] = "zero",
        **options: Any,
    ) -> None:
        super().__init__(width, n_concepts, k, **options)
        self.bias_start = one_of("bias_start", bias_start, BIAS_STARTS)
        self.log_gain = nn.Parameter(torch.zeros(self.n_concepts))
        self.magnitude_bias = nn.Parameter(torch.zeros(self.n_concepts))

    def initialize(self, batch: Mapping[str, Tensor]) -> None:
        """Measure the rows' size and centre, and where asked for the gate's bias that leaves k active concepts."""
        super().initialize(batch)
        if self.bias_start == "k":
            self._start_bias(batch)

    def _activate(self, x: Tensor, stream: str) -> Tensor:
        return self._magnitude(linear(self._centered(x), self.encoder))

    def _coded(self, x: Tensor, training: bool = False) -> tuple[Tensor, Tensor]:
        """Return the gate's activations ``ReLU(π)`` and the codes."""
        gate = linear(self._centered(x), self.encoder)
        return F.relu(gate), self._magnitude(gate) * (gate > 0)

    def _magnitude(self, gate: Tensor) -> Tensor:
        shared = gate - self.encoder.bias
        return F.relu(self.log_gain.exp().to(gate) * shared + self.magnitude_bias.to(gate))

    def _penalty(self, active: Tensor, code: Tensor) -> Tensor:
        return active.sum(dim=1)

    def _terms(
        self, x: Tensor, active: Tensor, code: Tensor, sizes: list[int], parts: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        frozen = F.linear(active.to(x.dtype), self._columns().detach(), self.decoder.bias.detach())
        errors = map(mean_squared_error, frozen.split(sizes), x.split(sizes))
        return {**super()._terms(x, active, code, sizes, parts), "loss/gate": torch.stack(list(errors)).sum()}
