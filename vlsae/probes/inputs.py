"""Arrays as the probes take them: NumPy or torch in, checked float64 or int64 NumPy out."""

from __future__ import annotations

from typing import Any

import numpy as np

from vlsae.errors import UserError

#: Rows that a message lists before it only counts.
LISTED = 8

#: A column whose spread is below this share of its largest value differs from a constant by rounding only.
ROUNDING = 1e-14


def float_array(x: Any, name: str) -> np.ndarray:
    """Return ``x``, of any shape with rows first, in float64; raises ``ValueError`` that names the rows at fault."""
    array = _numpy(x)
    if array.dtype.kind not in "fiub":
        raise UserError(f"{name} must hold real numbers; got {array.dtype}.")
    if array.ndim == 0 or 0 in array.shape:
        raise UserError(f"{name} must hold at least one value in every dimension; got shape {array.shape}.")
    array = array.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))
    if len(bad):
        raise UserError(f"{name} holds values that are not finite in {listed_rows(bad)}.", "Mend or leave out these.")
    return array


def matrix(x: Any, name: str, columns: str = "d") -> np.ndarray:
    """Return ``x (n, d)`` in float64; raises ``ValueError`` for another shape and values that are not finite."""
    array = _numpy(x)
    if array.ndim != 2:
        raise UserError(f"{name} must have shape (n, {columns}); got {array.shape}.")
    return float_array(array, name)


def same_rows(n: int, array: np.ndarray, name: str, other: str) -> None:
    """Raise ``ValueError`` where ``array`` does not have the ``n`` rows of the argument ``other``."""
    if len(array) != n:
        raise UserError(f"{name} must have as many rows as {other}, {n}; got {len(array)}.")


def integers(values: Any, name: str, n: int | None = None, rows_of: str = "x") -> np.ndarray:
    """Return integer ``values (n,)`` in int64; raises ``ValueError`` for other types and shapes."""
    array = _numpy(values)
    if array.ndim != 1 or len(array) == 0:
        raise UserError(f"{name} must be integers of shape (n,), n ≥ 1; got shape {array.shape}.")
    if array.dtype.kind not in "iub":
        raise UserError(f"{name} must be integers; got {array.dtype}.")
    if n is not None:
        same_rows(n, array, name, rows_of)
    return array.astype(np.int64)


def above_zero(value: float, name: str) -> float:
    """Return ``value`` as a float; raises ``ValueError`` unless it is finite and above 0."""
    number = float(value)
    if not (np.isfinite(number) and number > 0):
        raise UserError(f"{name} must be finite and above 0; got {value!r}.")
    return number


def one_of(name: str, value: str, valid: tuple[str, ...]) -> None:
    """Raise ``ValueError`` where ``value`` is not among the valid ones."""
    if value not in valid:
        raise UserError(f"{name} must be one of {', '.join(valid)}; got {value!r}.")


def listed_rows(rows: np.ndarray) -> str:
    """Return the words that name rows in a message."""
    more = f" and {len(rows) - LISTED} more" if len(rows) > LISTED else ""
    return f"{'row' if len(rows) == 1 else 'rows'} {', '.join(str(row) for row in rows[:LISTED])}{more}"


def varying(x: np.ndarray) -> np.ndarray:
    """Return which columns ``(d,)`` of ``x (n, d)`` hold more than one value, rounding aside."""
    return np.ptp(x, axis=0) > ROUNDING * np.abs(x).max(axis=0)


def centered(x: np.ndarray) -> np.ndarray:
    """Return ``x (n, d)`` less its column means, exactly zero in constant columns."""
    return np.where(varying(x), x - x.mean(axis=0), 0.0)


def one_hot(numbers: np.ndarray, size: int) -> np.ndarray:
    """Return ``(n, size)`` with a one at each row's number."""
    return np.eye(size)[numbers]


def _numpy(x: Any) -> np.ndarray:
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        # NumPy has no bfloat16; every floating type goes through float64, which holds it exactly.
        x = x.double() if x.is_floating_point() else x
        return np.asarray(x.numpy())
    try:
        return np.asarray(x)
    except ValueError as error:
        raise UserError(f"Rows of different lengths make no array: {error}.") from error
