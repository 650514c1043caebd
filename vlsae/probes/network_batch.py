"""Several small networks of one shape, trained side by side as one batch of matrix products.

Shapes: B networks, n rows, d inputs, w units of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import nn

from vlsae.errors import unknown

if TYPE_CHECKING:
    from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "elu": nn.functional.elu,
    "softsign": nn.functional.softsign,
    "softplus": nn.functional.softplus,
    "linear": lambda x: x,
}


class NetworkBatch(nn.Module):
    """B fully connected networks of ``widths`` (inputs first, outputs last) with one activation.

    ``start`` says how weights are drawn: ``truncated`` normal of deviation 1/√fan-in with biases 0, or ``uniform`` in
    ±1/√fan-in, biases too. Each network has draws of its own; they follow ``seed``.
    """

    def __init__(
        self, networks: int, widths: Sequence[int], activation: str, seed: int, start: str = "uniform"
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise unknown("activation", activation, ACTIVATIONS)
        self.activation = activation
        generator = torch.Generator().manual_seed(seed)
        weights, biases = [], []
        for fan_in, fan_out in pairwise(widths):
            weight, bias = torch.zeros(networks, fan_in, fan_out), torch.zeros(networks, 1, fan_out)
            spread = fan_in**-0.5
            if start == "truncated":
                nn.init.trunc_normal_(weight, std=spread, a=-2 * spread, b=2 * spread, generator=generator)
            else:
                weight.uniform_(-spread, spread, generator=generator)
                bias.uniform_(-spread, spread, generator=generator)
            weights.append(weight)
            biases.append(bias)
        self.weights, self.biases = nn.ParameterList(weights), nn.ParameterList(biases)

    def layers(self, x: Tensor) -> list[Tensor]:
        """Return each hidden layer's activations ``(B, n, w)`` and the outputs, of rows ``(n, d)`` or ``(B, n, d)``."""
        found, own = [], x if x.ndim == 3 else x.expand(len(self.weights[0]), *x.shape)
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            own = torch.baddbmm(bias, own, weight)
            if number < len(self.weights) - 1:
                own = ACTIVATIONS[self.activation](own)
            found.append(own)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs ``(B, n, w)``."""
        return self.layers(x)[-1]
