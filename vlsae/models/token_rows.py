"""From a site's hidden states to its rows: which positions are kept, and how they are pooled."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vlsae.errors import UserError, unknown
from vlsae.models.base import ROLES, Rows, TokenSelection
from vlsae.models.positions import Positions

POOLINGS = ("default", "cls", "mean", "last", "eot", "tokens")
INCLUDES = ("content", "answer", "all")


def check_selection(selection: TokenSelection) -> None:
    """Refuse a token selection whose words are not known."""
    if selection.pooling not in POOLINGS:
        raise unknown("pooling", selection.pooling, POOLINGS)
    if selection.include not in INCLUDES:
        raise unknown("choice of tokens", selection.include, INCLUDES)


class TokenRows:
    """Turns hidden states ``(b, s, d)`` of one stream into rows.

    ``positions`` describes ``(b, s)``; ``class_index`` is the position of the class token, None where there is none;
    ``text_default`` is the pooling that ``default`` means for texts.
    """

    def __init__(
        self,
        stream: str,
        selection: TokenSelection,
        positions: Callable[[int, int], Positions],
        class_index: int | None,
        text_default: str = "eot",
    ) -> None:
        self.positions, self.class_index, self.include = positions, class_index, selection.include
        default = text_default if stream == "language" else "mean" if class_index is None else "cls"
        self.pooling = default if selection.pooling == "default" else selection.pooling
        lacks_class = self.pooling == "cls" and class_index is None
        lacks_text = stream != "language" and (self.pooling in ("eot", "last") or self.include == "answer")
        if lacks_class or lacks_text:
            token = "a class token" if lacks_class else "an end-of-text token" if self.pooling == "eot" else "text"
            raise UserError(
                f"Pooling {self.pooling!r} of {self.include} tokens needs {token}, and the {stream} tower has none.",
                "Use pooling=default (each tower's own summary), mean or tokens, or sites of the other stream only.",
            )

    def __call__(self, hidden: Tensor) -> Rows:
        """Return the rows of hidden states ``(b, s, d)``; values stay on their device, row numbers go to the CPU.

        Raises:
            UserError: tokens are pooled or kept, and an item has none.
        """
        from vlsae.representations.pooling import pool

        where = self.positions(*hidden.shape[:2])
        kept = self.kept(where)
        rows = pool(
            hidden,
            kept.to(hidden.device),
            pooling=self.pooling,
            class_index=self.class_index,
            end_index=None if where.end is None else where.end.to(hidden.device),
        )
        sample, position = rows.sample.cpu(), rows.position.cpu()
        # A class token is a view, which would keep the whole sequence's hidden states alive.
        values = rows.values.clone() if self.pooling == "cls" else rows.values
        if self.pooling != "tokens":
            return Rows(values, sample, position)
        role = torch.where(where.special, ROLES.index("special"), ROLES.index(where.role))
        if where.answer is not None:
            role = role.masked_fill(where.answer, ROLES.index("answer"))
        return Rows(values, sample, position, where.token[sample, position], role[sample, position])

    def kept(self, where: Positions) -> Tensor:
        """Return which positions are pooled or kept ``(b, s)``; ``UserError`` where an item that needs one has none."""
        kept = _kept(where, self.include)
        filled = kept.any(dim=1)
        if self.pooling in ("mean", "last", "tokens") and not bool(filled.all()):
            kind = "answer" if self.include == "answer" else "content"
            raise UserError(
                f"Text {int((~filled).nonzero()[0])} of the batch has no {kind} token.",
                "Leave such texts out, or use pooling=eot or include=all.",
            )
        return kept


def _kept(where: Positions, include: str) -> Tensor:
    if include == "answer":
        return where.real & where.answer if where.answer is not None else torch.zeros_like(where.real)
    return where.real if include == "all" else where.content
