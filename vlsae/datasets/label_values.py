"""Columns of labels as what they are: truth values, whole numbers, numbers, or words."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vlsae.datasets.values import whole_text
from vlsae.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

_WHOLE = re.compile(r"-?(0|[1-9]\d{0,17})")
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d{1,3})?")

Label = bool | int | float | str


def label_value(value: Any, name: str) -> Label | None:
    """Return one cell of a column of labels, None where it is empty.

    Raises ``UserError`` for what is no label: a list, an object, a number that is not finite.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name} is {value}; expected a finite number or text")
    if isinstance(value, str):
        return whole_text(value.strip(), name)
    if not isinstance(value, (bool, int, float)):
        raise UserError(f"{name} {value!r} is {type(value).__name__}; expected text or a number")
    return value


def typed(values: Sequence[Label | None]) -> list[Any]:
    """Return a column of labels in one type: int or float where every value reads as a number, bool or else text.

    A number with a leading zero is a code and stays text.
    """
    present = [value for value in values if value is not None]
    if present and all(isinstance(value, bool) for value in present):
        return list(values)
    if present and all(_reads_as(value, _WHOLE, int) for value in present):
        return [None if value is None else int(value) for value in values]
    if present and all(_reads_as(value, _NUMBER, (int, float)) for value in present):
        return [None if value is None else float(value) for value in values]
    return [None if value is None else str(value) for value in values]


def label_struct(columns: Mapping[str, Sequence[Any]]) -> pa.StructArray:
    """Return the column ``labels`` of a table from columns of labels; one without any value is of text.

    A column of no type would be cut wrongly where a table is stored in pieces.
    """
    import pyarrow as pa

    arrays = [pa.array(values) for values in columns.values()]
    typed_arrays = [array.cast(pa.string()) if pa.types.is_null(array.type) else array for array in arrays]
    return pa.StructArray.from_arrays(typed_arrays, list(columns))


def _reads_as(value: Label, pattern: re.Pattern[str], kind: Any) -> bool:
    if isinstance(value, str):
        return pattern.fullmatch(value) is not None and math.isfinite(float(value))
    return isinstance(value, kind) and not isinstance(value, bool)
