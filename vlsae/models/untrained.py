"""Another model with weights as before training: what of its representations training brought."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from vlsae.bounds import Range
from vlsae.errors import UserError
from vlsae.models.altered import Altered
from vlsae.models.base import Model

if TYPE_CHECKING:
    from torch import nn


class Untrained(Altered):
    """The model ``exact`` with weights drawn anew by ``seed``: each module's own initialisation in PyTorch.

    Gains of normalisations that have none of their own become 1. Architecture and tokenizer stay.
    """

    refusal = ("drawn anew", "Leave out the untrained control: probe.untrained=false.")

    def __init__(self, *, exact: Model, seed: Annotated[int, Range(0, 2**32 - 1)] = 0) -> None:
        super().__init__(exact)
        self.seed = seed

    @property
    def alteration(self) -> str:
        return f"untrained {self.seed}"

    def alter(self, module: nn.Module) -> None:
        import torch

        with torch.random.fork_rng([]):
            torch.manual_seed(self.seed)
            for name, part in module.named_modules():
                _reset(name, part)


def _reset(name: str, part: nn.Module) -> None:
    own = dict(part.named_parameters(recurse=False))
    reset = getattr(part, "reset_parameters", None)
    if callable(reset):
        reset()
        return
    for parameter, value in own.items():
        if value.ndim > 1:
            raise UserError(
                f"{name}.{parameter} belongs to {type(part).__name__}, which cannot be initialised anew.",
                "Leave out the untrained control: probe.untrained=false.",
            )
        value.fill_(0.0 if parameter.endswith("bias") else 1.0)
