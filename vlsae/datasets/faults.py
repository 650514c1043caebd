"""Rows that cannot be used: the first is raised with its place, or all are left out and counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from vlsae.bounds import OneOf
from vlsae.datasets.base import Skipped
from vlsae.errors import UserError

OnError = Annotated[str, OneOf("raise", "skip")]


def settle(problems: Sequence[Skipped], on_error: str) -> None:
    """Raise ``UserError`` for the first bad row, with the number of the others, unless such rows are left out."""
    if not problems or on_error != "raise":
        return
    first, more = problems[0], len(problems) - 1
    others = f" ({more} more {'row is' if more == 1 else 'rows are'} bad)" if more else ""
    raise UserError(f"{first.row}: {first.reason}{others}.", "Mend it, or leave such rows out: dataset.on_error=skip")


def first_left_out(problems: Sequence[Skipped]) -> str:
    """Return the words on the first row that was left out, for the error that nothing remains."""
    if not problems:
        return ""
    return f"; the first of {len(problems)} left out is {problems[0].row}: {problems[0].reason}"
