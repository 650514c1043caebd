"""Checking and reading what the alignment quality index is computed from: rows and their labels, in float64.

n rows, d width, K classes.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from vlsae.errors import UserError

#: Rows that a message lists before it only counts.
LISTED = 8

#: Values read at once where rows are taken in chunks: small, so that memory stays far below the rows' own.
CHUNK_ELEMENTS = 1 << 15


class Labelled(NamedTuple):
    """Rows ``x (n, d)`` in float64, the ``classes (K,)`` in ascending order, and each row's ``codes (n,)`` in 0…K-1."""

    x: np.ndarray
    codes: np.ndarray
    classes: np.ndarray


def labelled(x: Any, labels: Any) -> Labelled:
    """Return checked rows and class codes, rescaled by a power of two where squares would leave the range of float64.

    For quantities that do not depend on the scale. Raises ``ValueError`` for wrong shapes and rows that are not finite.
    """
    values = rows(x)
    names = integers("labels", labels, len(values))
    classes, codes = np.unique(names, return_inverse=True)
    return Labelled(_within_range(values), codes.reshape(-1), classes)


def rows(x: Any, name: str = "x") -> np.ndarray:
    """Return ``x (n, d)``, n, d ≥ 1, as float64 without a copy where it is that already; refuse rows not finite."""
    values = real(x, name)
    if values.ndim != 2 or 0 in values.shape:
        raise UserError(f"{name} has shape {values.shape}; (n, d) with at least one row and column was expected.")
    check_finite(values, name)
    return values


def real(x: Any, name: str) -> np.ndarray:
    """Return an array or tensor of real numbers as float64, of any shape."""
    if hasattr(x, "detach"):  # a tensor: NumPy cannot read those with a gradient, on a device or in bfloat16
        x = x.detach().cpu().double().numpy()
    values = np.asarray(x)
    if values.dtype.kind not in "fiub":
        raise UserError(f"{name} must hold real numbers; got {values.dtype}.")
    return values.astype(np.float64, copy=False)


def check_finite(values: np.ndarray, name: str) -> None:
    """Raise ``ValueError`` (AQI-D12) that names the rows of ``values (n, …)`` which hold a value that is not finite."""
    # Largest and smallest tell without an array of flags: NaN passes through both.
    if values.size == 0 or (np.isfinite(values.max()) and np.isfinite(values.min())):
        return
    bad = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
    more = f" and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
    listed = ", ".join(str(row) for row in bad[:LISTED])
    raise UserError(
        f"AQI-D12: values that are not finite in {name}, {'row' if len(bad) == 1 else 'rows'} {listed}{more}.",
        "Every row must be finite: mend or leave out these rows.",
    )


def integers(name: str, values: Any, n: int) -> np.ndarray:
    """Return one integer a row, ``(n,)``: labels, strata, folds, blocks."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    array = np.asarray(values)
    if array.shape != (n,):
        raise UserError(f"{name} has shape {array.shape}; one integer for each of the {n} rows of x was expected.")
    if array.dtype.kind not in "iub":
        raise UserError(f"{name} must be integers; got {array.dtype}.")
    return array.astype(np.int64, copy=False) if array.dtype.kind != "u" else array


def groups(name: str, values: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the values that occur, ascending, and each row's place among them, ``(n,)``."""
    names, codes = np.unique(integers(name, values, n), return_inverse=True)
    return names, codes.reshape(-1)


def two_classes(data: Labelled) -> bool:
    """Return whether there are two classes; false for one, whose results are undefined; three are refused."""
    if len(data.classes) > 2:
        listed = ", ".join(str(name) for name in data.classes[:LISTED])
        raise UserError(
            f"labels hold {len(data.classes)} classes ({listed}); two were expected.",
            "delta_squared_pairs compares each two of several classes.",
        )
    return len(data.classes) == 2


def chunks(n: int, width: int) -> list[slice]:
    """Return slices that cover n rows, each of about :data:`CHUNK_ELEMENTS` values."""
    size = max(1, CHUNK_ELEMENTS // max(1, width))
    return [slice(first, min(first + size, n)) for first in range(0, n, size)]


def _within_range(values: np.ndarray) -> np.ndarray:
    largest = max(float(values.max()), -float(values.min()))
    if largest == 0 or 1e-100 < largest < 1e100:
        return values
    return np.ldexp(values, -math.frexp(largest)[1])
