"""Similarity of two representations of the same n rows: CKA, HSIC with linear kernels, RSA."""

from __future__ import annotations

from typing import Any

import numpy as np

from vlsae.errors import UserError
from vlsae.probes.distances import squared_distances
from vlsae.probes.inputs import centered, matrix, same_rows
from vlsae.probes.products import squared_product, unit_scale

#: An unbiased HSIC below this share of the products it is made of is zero, but for rounding.
VANISHED = 1e-13

#: Distances closer than this share of the largest one are ties.
TIED = 1e-12


def cka(x: Any, y: Any) -> float:
    """Return the linear centred kernel alignment of ``x (n, p)`` and ``y (n, q)``, in [0, 1] (Kornblith et al., 2019).

    ‖x̄ᵀȳ‖²_F/(‖x̄ᵀx̄‖_F·‖ȳᵀȳ‖_F). NaN where all rows of one are equal. Raises ``ValueError`` for different n.
    """
    x, y = (unit_scale(centered(rows)) for rows in _pair(x, y))
    with np.errstate(invalid="ignore"):
        return float(squared_product(x, y) / np.sqrt(np.float64(squared_product(x, x)) * squared_product(y, y)))


def hsic_unbiased(x: Any, y: Any) -> float:
    """Return the unbiased HSIC estimate with linear kernels of ``x (n, p)``, ``y (n, q)`` (Song et al., 2012, eq. 5).

    Raises ``ValueError`` for fewer than four rows.
    """
    return _hsic(*(centered(rows) for rows in _pair(x, y, smallest=4)))[0]


def cka_unbiased(x: Any, y: Any) -> float:
    """Return the CKA of ``x (n, p)``, ``y (n, q)`` from unbiased HSIC; it may be negative.

    NaN where one has no structure to compare: all rows equal, or all equally far apart. Raises ``ValueError`` for
    fewer than four rows.
    """
    x, y = (unit_scale(centered(rows)) for rows in _pair(x, y, smallest=4))
    of_x, size_x = _hsic(x, x)
    of_y, size_y = _hsic(y, y)
    if of_x <= VANISHED * size_x or of_y <= VANISHED * size_y:
        return float("nan")
    return float(_hsic(x, y)[0] / np.sqrt(of_x * of_y))


def rsa(x: Any, y: Any) -> float:
    """Return Spearman's ρ between the Euclidean distances within ``x (n, p)`` and ``y (n, q)`` (Kriegeskorte, 2008).

    Distances that differ by rounding only are ties. NaN for fewer than three rows and where all distances of one are
    equal.
    """
    ranks = [distance_ranks(rows) for rows in _pair(x, y)]
    a, b = (r - r.mean() if len(r) else r for r in ranks)
    with np.errstate(invalid="ignore"):
        return float(np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b)))


def _hsic(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return the unbiased HSIC of centred rows, and the size of its largest term.

    Unbiased HSIC does not change when a constant is added to all rows, and with centred rows the rows of their
    product with a zeroed diagonal sum to minus that diagonal: no n × n matrix is needed.
    """
    n = len(x)
    own_x, own_y = np.einsum("ij,ij->i", x, x), np.einsum("ij,ij->i", y, y)
    both, product = np.dot(own_x, own_y), squared_product(x, y)
    terms = product - both + own_x.sum() * own_y.sum() / ((n - 1) * (n - 2)) - 2 * both / (n - 2)
    return float(terms / (n * (n - 3))), float(max(product, both) / (n * (n - 3)))


def distance_ranks(x: np.ndarray) -> np.ndarray:
    """Return the mid-ranks ``(n (n - 1)/2,)`` of the distances between rows."""
    from scipy.stats import rankdata

    x = unit_scale(centered(x))
    distances = np.sqrt(squared_distances(x, x)[np.triu_indices(len(x), 1)])
    if len(distances) == 0:
        return distances
    # Neighbours in order that lie closer than rounding share a step, and so a rank.
    order = np.argsort(distances, kind="stable")
    steps = np.concatenate([[0], np.cumsum(np.diff(distances[order]) > TIED * distances.max())])
    tied = np.empty(len(distances), dtype=np.int64)
    tied[order] = steps
    return np.asarray(rankdata(tied))


def _pair(x: Any, y: Any, smallest: int = 1) -> tuple[np.ndarray, np.ndarray]:
    x, y = matrix(x, "x"), matrix(y, "y")
    same_rows(len(x), y, "y", "x")
    if len(x) < smallest:
        raise UserError(f"x and y must have at least {smallest} rows; got {len(x)}.")
    return x, y
