"""Generalized discrimination value: how well classes separate in a layer (Schilling et al., 2021).

Shapes: n rows, d columns, K classes.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np

from vlsae.errors import UserError, VlsaeWarning
from vlsae.probes.distances import distance_tiles
from vlsae.probes.inputs import above_zero, integers, matrix, one_hot, varying


class GDV(NamedTuple):
    """``value``: 0 none, -1 perfect separation; mean distances over √D within ``intra (K,)`` and between classes
    ``inter (K, K)``, NaN on its diagonal; ``classes (K,)`` ascending, ``counts (K,)`` their rows."""

    value: float
    intra: np.ndarray
    inter: np.ndarray
    classes: np.ndarray
    counts: np.ndarray


def gdv(x: Any, labels: Any, scale: float = 0.5) -> GDV:
    """Return the GDV of ``x (n, d)`` with ``labels (n,)``: mean intra- less mean inter-class distance, over √D.

    Columns are centred and brought to standard deviation ``scale``; the D columns that vary count. A class of one row
    has no distance within: it is left out with a warning, its entries are NaN. No column that varies: NaN.
    Raises ``ValueError`` for fewer than two classes of at least two rows.
    """
    x = matrix(x, "x")
    labels = integers(labels, "labels", len(x))
    scale = above_zero(scale, "scale")
    classes, counts = np.unique(labels, return_counts=True)
    used = counts > 1
    if used.sum() < 2:
        words = ", ".join(f"{c} ({n})" for c, n in list(zip(classes, counts))[:8])
        raise UserError(f"labels must name at least 2 classes of at least 2 rows each; got class (rows) {words}.")
    if not used.all():
        alone = ", ".join(str(c) for c in classes[~used])
        warnings.warn(f"Classes of one row are left out of the GDV: {alone}.", VlsaeWarning, stacklevel=2)
    kept = np.isin(labels, classes[used])
    intra, inter = _mean_distances(x[kept], np.searchsorted(classes[used], labels[kept]), scale)
    value = intra.mean() - np.nanmean(inter) if np.isfinite(intra).all() else np.nan
    all_intra = np.full(len(classes), np.nan)
    all_intra[used] = intra
    all_inter = np.full((len(classes), len(classes)), np.nan)
    all_inter[np.ix_(used, used)] = inter
    return GDV(float(value), all_intra, all_inter, classes, counts)


def _mean_distances(x: np.ndarray, numbers: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Return mean distances over √D, within ``(K,)`` and between ``(K, K)`` the classes ``numbers (n,)``."""
    counts = np.bincount(numbers)
    x = x[:, varying(x)]
    if x.shape[1] == 0:
        return np.full(len(counts), np.nan), np.full((len(counts), len(counts)), np.nan)
    # Largest value first: squares of very large or small columns would leave the range of floats.
    x = x / np.abs(x).max(axis=0)
    x = x - x.mean(axis=0)
    x = scale * x / x.std(axis=0)
    members = one_hot(numbers, len(counts))
    sums = np.zeros((len(counts), len(counts)))
    for rows, squared in distance_tiles(x):
        sums += members[rows].T @ (np.sqrt(squared) @ members)
    # The tiles sum each pair of classes twice, in two orders.
    sums = (sums + sums.T) / (2 * np.sqrt(x.shape[1]))
    inter = sums / np.outer(counts, counts)
    np.fill_diagonal(inter, np.nan)
    return sums.diagonal() / (counts * (counts - 1)), inter
