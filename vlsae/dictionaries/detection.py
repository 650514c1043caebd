"""Detection: does a name tell on which rows a concept fires? (Paulo et al., 2024, "Automatically interpreting millions
of features", section 3.3)

n rows, h concepts, T names.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse, stats

#: Rows of either kind, active and silent, that a concept needs to be tested.
FEWEST_ROWS = 10
#: Equal parts of a concept's active rows, from weak to strong.
PARTS = 5


def detection(active: sparse.csr_matrix, predicted: Any) -> np.ndarray:
    """Return the AUROC of each name's prediction for whether each concept fires, ``(h, T)``.

    ``active (n, h)`` is sparse and holds what fires; ``predicted (n, T)`` is sparse and of ones (the row matches the
    name: the AUROC is then the mean of sensitivity and specificity) or dense and graded. All active rows count alike,
    weak and strong. NaN where a concept has fewer than ten active or silent rows.
    """
    fires = _ones(active)
    n = fires.shape[0]
    positives = np.asarray(fires.sum(axis=0)).ravel()[:, None]
    negatives = n - positives
    if sparse.issparse(predicted):
        both = np.asarray((fires.T @ predicted).todense(), dtype=np.float64)
        called = np.asarray(predicted.sum(axis=0)).ravel()[None, :]
        with np.errstate(divide="ignore", invalid="ignore"):
            value = (1 + both / positives - (called - both) / negatives) / 2
    else:
        sums = np.asarray(fires.T @ stats.rankdata(predicted, axis=0))
        with np.errstate(divide="ignore", invalid="ignore"):
            value = (sums - positives * (positives + 1) / 2) / (positives * negatives)
    value[(np.minimum(positives, negatives) < FEWEST_ROWS).ravel()] = np.nan
    return value


def rates(codes: sparse.csr_matrix, matches: sparse.csr_matrix, names: np.ndarray) -> np.ndarray:
    """Return how often the rows of each concept match its name, ``(h, 1 + 5)``: silent rows, then fifths of the active.

    ``codes (n, h)``, ``matches (n, T)`` of ones, ``names (h,)`` the column of each concept's name. Fifths go from the
    weakest activations to the strongest; NaN where a concept has too few rows.
    """
    codes = sparse.csc_matrix(codes)
    n, h = codes.shape
    counts = np.diff(codes.indptr)
    concepts = np.repeat(np.arange(h), counts)
    order = np.lexsort((codes.indices, codes.data, concepts))
    place = np.arange(len(order)) - np.repeat(codes.indptr[:-1], counts)
    hits = np.asarray(sparse.csr_matrix(matches)[codes.indices[order], names[concepts]]).ravel()
    part = 1 + (place * PARTS) // np.maximum(np.repeat(counts, counts), 1)
    cells = concepts * (PARTS + 1) + part
    sums = np.bincount(cells, weights=hits, minlength=h * (PARTS + 1)).reshape(h, -1)
    sizes = np.bincount(cells, minlength=h * (PARTS + 1)).reshape(h, -1).astype(np.float64)
    called = np.asarray(matches.sum(axis=0)).ravel()[names]
    sums[:, 0], sizes[:, 0] = called - sums[:, 1:].sum(axis=1), n - counts
    with np.errstate(divide="ignore", invalid="ignore"):
        found = sums / sizes
    found[np.minimum(counts, n - counts) < FEWEST_ROWS] = np.nan
    return found


def _ones(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    fires = sparse.csr_matrix(matrix, copy=True)
    fires.eliminate_zeros()
    fires.data = np.ones(len(fires.data), np.float64)
    return fires
