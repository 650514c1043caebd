"""Another model with its weights rounded to few bits: what of its representations hangs on precision."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, Any

from vlsae.bounds import OneOf
from vlsae.errors import UserError
from vlsae.models.base import Batch, Model, Rows, Site, TokenSelection

if TYPE_CHECKING:
    from torch import Tensor


class Rounded(Model):
    """The model ``exact`` with weights of ``bits``: 16 is bfloat16, 8 whole numbers with a scale a row of a matrix.

    Weights are rounded and then computed with as before, on every device alike.
    """

    def __init__(self, *, exact: Model, bits: Annotated[int, OneOf(16, 8, 4)] = 8) -> None:
        self.exact, self.bits = exact, bits

    def __getattr__(self, name: str) -> Any:
        if name == "exact":
            raise AttributeError(name)
        return getattr(self.exact, name)

    @property
    def reads_answers(self) -> bool:  # type: ignore[override]
        """Whether ``prepare`` takes answers."""
        return self.exact.reads_answers

    @property
    def joint(self) -> bool:  # type: ignore[override]
        """Whether a text is read together with its image."""
        return self.exact.joint

    def sites(self) -> dict[str, Site]:
        return self.exact.sites()

    def digest(self) -> str:
        return hashlib.sha256(f"{self.exact.digest()}:{self.bits} bits".encode()).hexdigest()

    def load(self, device: str = "cpu", dtype: str = "float32", **more: Any) -> None:
        """Load the weights and round them."""
        import torch

        self.exact.load(device, dtype, **more)
        module = getattr(self.exact, "module", None)
        if not isinstance(module, torch.nn.Module):
            raise UserError(f"The weights of {type(self.exact).__name__} cannot be rounded.", "Leave probe.bits empty.")
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(rounded(parameter, self.bits))

    def prepare(self, *arguments: Any, **named: Any) -> Batch:
        return self.exact.prepare(*arguments, **named)

    def represent(self, batch: Batch, sites: Iterable[str], tokens: TokenSelection | None = None) -> dict[str, Rows]:
        return self.exact.represent(batch, sites, tokens)

    def input_counts(self) -> dict[str, int]:
        return self.exact.input_counts()

    def edit(self, site: str, function: Callable[[Any], Any]) -> AbstractContextManager[None]:
        return self.exact.edit(site, function)


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
