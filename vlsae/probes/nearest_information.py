"""Information between numbers and classes by distances to nearest neighbours, in bits. n rows, d columns."""

from __future__ import annotations

from typing import Any

import numpy as np

from vlsae.errors import UserError
from vlsae.probes.inputs import integers, matrix


def mi_nearest(t: Any, labels: Any, k: int = 3) -> float:
    """Return I(T; Y) in bits of ``t (n, d)`` and classes ``labels (n,)`` (Ross, 2014, eq. 2).

    After Kraskov et al. (2004): ψ(n) + ⟨ψ(k_i)⟩ - ⟨ψ(n_y)⟩ - ⟨ψ(m_i)⟩. m_i rows, itself counted, lie closer to row i
    than its k-th neighbour of the same class; k_i is k, or all others of a smaller class. Distances are the largest of
    the coordinates'. Rows alone in their class are left out. It cannot exceed about log₂ n, and is noisy above d ≈ 10.
    Raises ``ValueError`` for k < 1 and where no class has two rows.
    """
    from scipy.spatial import cKDTree
    from scipy.special import digamma

    t = matrix(t, "t")
    labels = integers(labels, "labels", len(t), "t")
    if k < 1:
        raise UserError(f"k must be at least 1; got {k!r}.")
    numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)[1:]
    kept = counts[numbers] > 1
    if not kept.any():
        raise UserError("labels must name at least 1 class of at least 2 rows.")
    t, numbers = t[kept], numbers[kept]
    radius, neighbours = np.empty(len(t)), np.empty(len(t))
    for number in np.unique(numbers):
        rows = np.flatnonzero(numbers == number)
        own = min(k, len(rows) - 1)
        distances = cKDTree(t[rows]).query(t[rows], own + 1, p=np.inf)[0]
        # Strictly closer: the neighbour itself does not count.
        radius[rows], neighbours[rows] = np.nextafter(distances[:, -1], 0), own
    closer = cKDTree(t).query_ball_point(t, radius, p=np.inf, return_length=True)
    terms = digamma(len(t)) + digamma(neighbours) - digamma(counts[counts > 1][_renumbered(numbers)]) - digamma(closer)
    return float(terms.mean() / np.log(2))


def _renumbered(numbers: np.ndarray) -> np.ndarray:
    return np.asarray(np.unique(numbers, return_inverse=True)[1])
