"""Steering: x' = x + decode(edited code) − decode(code), so that an edit of nothing changes nothing.

r rows, d width, h concepts. Strength counts in units of the concept's mean activity where it is active.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlsae.errors import UserError, unknown

ACTIONS = ("raise", "lower", "remove", "swap")

#: What moves rows ``(r, d)`` of a stream.
Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Edit:
    """What is done to one concept of a code; ``unit`` is its mean activity, ``other`` what ``swap`` puts in its place.

    ``raise`` adds strength · unit; ``lower`` takes as much away, down to zero; ``remove`` takes away the share
    ``strength`` of what is there, all of it from 1 on; ``swap`` moves that share to the other concept.
    """

    action: str
    concept: int
    unit: float
    other: int | None = None

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise unknown("action", self.action, ACTIONS)
        if self.action == "swap" and self.other is None:
            raise UserError("action=swap needs a second concept.", "Name it: task.other=CONCEPT")

    def apply(self, code: Tensor, strength: float) -> Tensor:
        """Return the edited code ``(r, h)``; activities keep their sign."""
        edited = code.clone()
        own = code[:, self.concept]
        share = min(strength, 1.0)
        if self.action == "raise":
            edited[:, self.concept] = own + strength * self.unit
        elif self.action == "lower":
            edited[:, self.concept] = own.sign() * (own.abs() - strength * self.unit).clamp(min=0)
        else:
            edited[:, self.concept] = own * (1 - share)
            if self.action == "swap" and self.other is not None:
                edited[:, self.other] += own * share
        return edited


@torch.no_grad()
def steered(dictionary: Any, x: Tensor, stream: str, edit: Callable[[Tensor], Tensor], auxiliary: Any = None) -> Tensor:
    """Return ``x + decode(edit(code)) − decode(code)`` of rows ``(r, d)``; rows whose code stays are left bit for bit.

    ``auxiliary`` maps the rows to the dictionary's input and back, where it reads them through one.
    """
    inner = x if auxiliary is None else auxiliary.encode(x, stream)
    code = dictionary.encode(inner, stream).to_dense()
    edited = edit(code)
    before, after = dictionary.decode(code, stream), dictionary.decode(edited, stream)
    if auxiliary is not None:
        before, after = auxiliary.decode(before, stream), auxiliary.decode(after, stream)
    changed = (edited != code).any(dim=1, keepdim=True)
    return torch.where(changed, x + (after - before).to(x.dtype), x)


def concept_change(dictionary: Any, stream: str, edit: Edit, strength: float, auxiliary: Any = None) -> Change:
    """Return the change that an edit of one concept makes."""
    return lambda x: steered(dictionary, x, stream, lambda code: edit.apply(code, strength), auxiliary)


def along(direction: Tensor, like: Change) -> Change:
    """Return the change along a direction ``(d,)`` that moves each row as far as another change does."""
    unit = direction / direction.norm()

    def change(x: Tensor) -> Tensor:
        distance = (like(x) - x).norm(dim=1, keepdim=True)
        return x + distance * unit.to(x.dtype)

    return change


def random_directions(width: int, count: int, seed: int) -> list[Tensor]:
    """Return random directions ``(d,)``, evenly spread over all."""
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(count, width, generator=generator))
