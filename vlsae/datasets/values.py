"""Values of a table's cells: ids and other words, splits, and text that is whole."""

from __future__ import annotations

from typing import Any

from vlsae.datasets.base import SPLITS
from vlsae.errors import UserError

#: What the splits go by.
SPLIT_NAMES = {**{name: name for name in SPLITS}, "val": "validation", "valid": "validation", "dev": "validation"}


def word(value: Any, name: str) -> str | None:
    """Return an id or another short value as text, None where the cell is empty; ``UserError`` for other types."""
    if value is None or value == "":
        return None
    if isinstance(value, float) and value.is_integer():  # how tables with gaps keep whole numbers
        value = int(value)
    if not isinstance(value, (str, int)):
        raise UserError(f"{name} {value!r} is {type(value).__name__}; expected text or an integer")
    return whole_text(str(value), name)


def split_name(value: str | None) -> str | None:
    """Return our name of a split, None for none; ``UserError`` for a name that means no split."""
    if value is None:
        return None
    if value.strip().lower() not in SPLIT_NAMES:
        raise UserError(
            f"split {value!r}; expected {', '.join(SPLIT_NAMES)} (dataset.columns.split='' leaves the column unread)"
        )
    return SPLIT_NAMES[value.strip().lower()]


def whole_text(text: str, name: str) -> str:
    """Return a text; ``UserError`` where it cannot be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{name} {text!r} holds half a surrogate pair, which is no character") from None
    return text
