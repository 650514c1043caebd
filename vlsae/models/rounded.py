"""Another model with its weights rounded to few bits: what of its representations hangs on precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from vlsae.bounds import OneOf
from vlsae.models.altered import Altered
from vlsae.models.base import Model

if TYPE_CHECKING:
    from torch import Tensor, nn


class Rounded(Altered):
    """The model ``exact`` with weights of ``bits``: 16 is bfloat16, 8 whole numbers with a scale a row of a matrix.

    Weights are rounded and then computed with as before, on every device alike.
    """

    refusal = ("rounded", "Leave probe.bits empty.")

    def __init__(self, *, exact: Model, bits: Annotated[int, OneOf(16, 8, 4)] = 8) -> None:
        super().__init__(exact)
        self.bits = bits

    @property
    def alteration(self) -> str:
        return f"{self.bits} bits"

    def alter(self, module: nn.Module) -> None:
        for parameter in module.parameters():
            parameter.copy_(rounded(parameter, self.bits))


def rounded(weight: Tensor, bits: int) -> Tensor:
    """Return a weight at ``bits`` bits: bfloat16, or −2^(bits−1)+1…2^(bits−1)−1 times a row's largest; vectors stay."""
    import torch

    if bits == 16:
        return weight.to(torch.bfloat16).to(weight.dtype)
    if weight.ndim < 2:
        return weight
    rows = weight.flatten(1)
    scale = rows.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny) / (2 ** (bits - 1) - 1)
    return (torch.round(rows / scale) * scale).reshape(weight.shape)
