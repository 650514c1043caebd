"""Distances of all pairs of rows, tile by tile: memory grows with the tile, never with n².

b rows of a tile, d width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

#: A squared distance below this share of ‖x‖² + ‖y‖² has lost digits in ‖x‖² + ‖y‖² - 2x·y and is computed anew.
CANCELLED = 1e-3


class Tile(NamedTuple):
    """Squared distances ``(b, c)`` between rows ``first (b,)`` of class i and rows ``second (c,)`` of class j."""

    i: int
    j: int
    first: np.ndarray
    second: np.ndarray
    squared: np.ndarray

    @property
    def same_rows(self) -> bool:
        """Whether both sides are the same rows, so that each pair is there twice and each row with itself."""
        return self.i == self.j and self.first[0] == self.second[0]


def tiles(x: np.ndarray, codes: np.ndarray, centroids: np.ndarray, tile: int, within: bool = True) -> Iterator[Tile]:
    """Yield every pair of rows ``x (n, d)`` once, by pairs of classes ``codes (n,)``; ``within`` adds i = j.

    Distances are taken about the midpoint of the two ``centroids (K, d)``, so that neither an offset of all rows nor
    tight classes far apart cost digits.
    """
    members = [np.flatnonzero(codes == k) for k in range(len(centroids))]
    parts = [[rows[at : at + tile] for at in range(0, len(rows), tile)] for rows in members]
    for i, firsts in enumerate(parts):
        for j in range(i if within else i + 1, len(parts)):
            centre = centroids[i] + (centroids[j] - centroids[i]) / 2
            for number, first in enumerate(firsts):
                left = x[first]
                left -= centre
                for second in parts[j][number:] if i == j else parts[j]:
                    yield Tile(i, j, first, second, _squared(left, x[second] - centre))


def exact(x: np.ndarray, row: int, other: int) -> float:
    """Return the squared distance of two rows by their differences."""
    return float(((x[row] - x[other]) ** 2).sum())


def _squared(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the squared distances ``(b, c)`` of rows ``(b, d)`` and ``(c, d)``."""
    left_norms, right_norms = np.einsum("ij,ij->i", left, left), np.einsum("ij,ij->i", right, right)
    squared = (-2 * left) @ right.T
    squared += left_norms[:, None]
    squared += right_norms
    if squared.min(initial=np.inf) > CANCELLED * (left_norms.max(initial=0) + right_norms.max(initial=0)):
        return squared
    # A few rows at a time: flags and pairs of a whole tile would be as large as the tile.
    step = max(1, len(left) // 8)
    for at in range(0, len(left), step):
        part = squared[at : at + step]
        a, b = np.nonzero(part <= CANCELLED * (left_norms[at : at + step, None] + right_norms))
        for pairs in range(0, len(a), step):
            chosen = slice(pairs, pairs + step)
            apart = left[at + a[chosen]] - right[b[chosen]]
            part[a[chosen], b[chosen]] = np.einsum("ij,ij->i", apart, apart)
    return squared
