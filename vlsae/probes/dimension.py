"""Dimension of a cloud of rows: participation ratio, and TwoNN (Facco et al., 2017). n rows, d columns."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from vlsae.probes.distances import distance_tiles
from vlsae.probes.inputs import centered, matrix
from vlsae.probes.products import unit_scale

#: The share of neighbour ratios, from the smallest, that the line is fitted to.
FITTED_SHARE = 0.9


class TwoNN(NamedTuple):
    """Intrinsic dimension by maximum likelihood, ``mle``, and as the slope of a line, ``fit``; ``duplicates``: rows
    left out because they repeat another."""

    mle: float
    fit: float
    duplicates: int


def participation_ratio(x: Any) -> float:
    """Return (Σλ)²/Σλ² of the eigenvalues of the covariance of ``x (n, d)``; NaN where no row differs."""
    x = unit_scale(centered(matrix(x, "x")))
    gram = x.T @ x if x.shape[1] <= x.shape[0] else x @ x.T
    with np.errstate(invalid="ignore"):
        return float(np.trace(gram) ** 2 / (gram**2).sum())


def twonn(x: Any) -> TwoNN:
    """Return the intrinsic dimension of ``x (n, d)`` from the ratios μ = r₂/r₁ of its N distinct rows.

    ``mle`` = (N - 1)/Σ ln μ; ``fit``: slope through 0 of -ln(1 - i/N) on ln μ over the lowest 90 %. Fewer than three
    distinct rows: NaN; all ratios 1: inf.
    """
    x = matrix(x, "x")
    distinct = np.unique(x, axis=0)
    n = len(distinct)
    if n < 3:
        return TwoNN(np.nan, np.nan, len(x) - n)
    log_ratio = np.sort(_log_ratios(unit_scale(centered(distinct))))
    used = int(FITTED_SHARE * n)
    heights = -np.log1p(-np.arange(1, used + 1) / n)
    low = log_ratio[:used]
    with np.errstate(divide="ignore"):
        mle = (n - 1) / log_ratio.sum()
        fit = np.dot(low, heights) / np.dot(low, low) if low.any() else np.inf
    return TwoNN(float(mle), float(fit), len(x) - n)


def _log_ratios(x: np.ndarray) -> np.ndarray:
    """Return ln(r₂/r₁) ``(n,)`` of the distances to each row's two nearest others."""
    logs = np.empty(len(x))
    for rows, squared in distance_tiles(x):
        squared[np.arange(len(squared)), np.arange(rows.start, rows.stop)] = np.inf
        nearest = np.partition(squared, 1, axis=1)[:, :2]
        logs[rows] = 0.5 * np.log(nearest[:, 1] / nearest[:, 0])
    return logs
