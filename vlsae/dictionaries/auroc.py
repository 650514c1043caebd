"""AUROC of every concept for every factor at once, by ranks, exact with ties and silent concepts.

n rows, h concepts, F factors. AUROC is the chance that a row with the factor scores above one without, ties counting
half (Mann and Whitney, 1947).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse, stats

from vlsae.statistics import placements

#: Columns of a dense score matrix that are ranked at once, in elements.
ELEMENTS_AT_ONCE = 1 << 22


def auroc(scores: Any, factors: np.ndarray) -> np.ndarray:
    """Return the AUROC of each factor and concept, ``(F, h)``; NaN where a factor is always or never there.

    ``scores (n, h)``, dense or SciPy sparse (what is not stored is zero); ``factors (n, F)`` bool.
    """
    present = np.asarray(factors, dtype=np.float64)
    if sparse.issparse(scores):
        sums = _sparse_rank_sums(sparse.csc_matrix(scores), present)
    else:
        sums = _dense_rank_sums(np.asarray(scores), present)
    return _from_rank_sums(sums, present)


def influences(scores: np.ndarray, present: np.ndarray) -> tuple[float, np.ndarray]:
    """Return a score's AUROC and each row's influence on it, ``(n,)`` with mean zero (DeLong et al., 1988).

    ``scores (n,)``, ``present (n,)`` bool. To first order, rows weighted by w move the AUROC by mean(w · influence).
    """
    n, positives = len(scores), int(present.sum())
    share = np.empty(n)
    share[present], share[~present] = placements(scores[present], scores[~present])
    value = float(share[present].mean())
    return value, (share - value) * np.where(present, n / positives, n / (n - positives))


def _from_rank_sums(sums: np.ndarray, present: np.ndarray) -> np.ndarray:
    positives = present.sum(axis=0)[:, None]
    negatives = len(present) - positives
    with np.errstate(divide="ignore", invalid="ignore"):
        return (sums - positives * (positives + 1) / 2) / (positives * negatives)


def _dense_rank_sums(scores: np.ndarray, present: np.ndarray) -> np.ndarray:
    n, h = scores.shape
    sums = np.empty((present.shape[1], h))
    size = max(1, ELEMENTS_AT_ONCE // max(1, n))
    for first in range(0, h, size):
        columns = slice(first, first + size)
        sums[:, columns] = present.T @ stats.rankdata(scores[:, columns], axis=0)
    return sums


def _sparse_rank_sums(scores: sparse.csc_matrix, present: np.ndarray) -> np.ndarray:
    """Rank the stored entries of each column; all others share the rank of the tie at zero."""
    scores = scores.copy()
    scores.sum_duplicates()
    scores.eliminate_zeros()
    n, h = scores.shape
    counts = np.diff(scores.indptr)
    columns = np.repeat(np.arange(h), counts)
    below = np.bincount(columns[scores.data < 0], minlength=h)
    zeros = n - counts
    tied = below + (zeros + 1) / 2
    order = np.lexsort((scores.data, columns))
    place = np.arange(len(order)) - np.repeat(scores.indptr[:-1], counts) + 1.0
    place = _mean_of_ties(place, columns[order], scores.data[order])
    ranks = np.empty(len(order))
    ranks[order] = place
    ranks += np.where(scores.data > 0, zeros[columns], 0)
    # What a rank differs from the tie's is sparse again, so one sparse product sums the ranks of all factors.
    excess = sparse.csc_matrix((ranks - tied[columns], scores.indices, scores.indptr), shape=(n, h))
    return np.asarray((excess.T @ present).T) + present.sum(axis=0)[:, None] * tied


def _mean_of_ties(place: np.ndarray, columns: np.ndarray, values: np.ndarray) -> np.ndarray:
    if not len(place):
        return place
    new = np.ones(len(place), dtype=bool)
    new[1:] = (columns[1:] != columns[:-1]) | (values[1:] != values[:-1])
    group = np.cumsum(new) - 1
    return (np.bincount(group, weights=place) / np.bincount(group))[group]
