"""Euclidean distances between rows, a tile at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

#: Largest number of distances held at once.
TILE = 1 << 22

#: Below this share of the norms, a distance from norms and products has lost too many digits.
CANCELLED = 1e-6


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return ``‖a_i - b_j‖²``, ``(n, m)``, of rows ``a (n, d)``, ``b (m, d)``.

    From norms and one matrix product; where that cancels, from the difference itself, so equal rows give exactly 0.
    """
    norms = np.einsum("id,id->i", a, a)[:, None] + np.einsum("jd,jd->j", b, b)
    squared = norms - 2 * (a @ b.T)
    rows, columns = np.nonzero(squared <= CANCELLED * norms)
    block = max(1, TILE // a.shape[1])
    for first in range(0, len(rows), block):
        i, j = rows[first : first + block], columns[first : first + block]
        difference = a[i] - b[j]
        squared[i, j] = np.einsum("pd,pd->p", difference, difference)
    return squared


def distance_tiles(x: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield ``(rows, squared distances (rows, n))`` from some rows of ``x (n, d)`` to all, the diagonal exactly 0."""
    # Far from the origin norms and products cancel; distances do not know where the origin is.
    x = x - x.mean(axis=0)
    block = max(1, TILE // len(x))
    for first in range(0, len(x), block):
        rows = slice(first, min(first + block, len(x)))
        yield rows, squared_distances(x[rows], x)
