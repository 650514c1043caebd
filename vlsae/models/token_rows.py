"""From a site's hidden states to its rows: which positions are kept, and how they are pooled."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vlsae.errors import UserError, unknown
from vlsae.models.base import ROLES, Rows, TokenSelection
from vlsae.models.positions import Positions

POOLINGS = ("default", "cls", "mean", "eot", "tokens")
INCLUDES = ("content", "all")


def check_selection(selection: TokenSelection) -> None:
    """Refuse a token selection whose words are not known."""
    if selection.pooling not in POOLINGS:
        raise unknown("pooling", selection.pooling, POOLINGS)
    if selection.include not in INCLUDES:
        raise unknown("choice of tokens", selection.include, INCLUDES)


class TokenRows:
    """Turns hidden states ``(b, s, d)`` of one stream into rows.

    ``positions`` describes ``(b, s)``; ``class_index`` is the position of the class token, None where there is none.
    """

    def __init__(
        self,
        stream: str,
        selection: TokenSelection,
        positions: Callable[[int, int], Positions],
        class_index: int | None,
    ) -> None:
        self.positions, self.class_index, self.include = positions, class_index, selection.include
        default = "eot" if stream == "language" else "mean" if class_index is None else "cls"
        self.pooling = default if selection.pooling == "default" else selection.pooling
        lacks_class, lacks_end = self.pooling == "cls" and class_index is None, self.pooling == "eot" != default
        if lacks_class or lacks_end:
            token = "a class token" if lacks_class else "an end-of-text token"
            raise UserError(
                f"Pooling {self.pooling!r} needs {token}, and the {stream} tower has none.",
                "Use pooling=default (each tower's own summary), mean or tokens, or sites of the other stream only.",
            )

    def __call__(self, hidden: Tensor) -> Rows:
        """Return the rows of hidden states ``(b, s, d)``; values stay on their device, row numbers go to the CPU.

        Raises:
            UserError: tokens are pooled or kept, and an item has none.
        """
        from vlsae.representations.pooling import pool

        where = self.positions(*hidden.shape[:2])
        kept = where.real if self.include == "all" else where.content
        filled = kept.any(dim=1)
        if self.pooling in ("mean", "tokens") and not bool(filled.all()):
            raise UserError(
                f"Text {int((~filled).nonzero()[0])} of the batch has no content token.",
                "Leave empty texts out, or use pooling=eot or include=all.",
            )
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
        return Rows(values, sample, position, where.token[sample, position], role[sample, position])
