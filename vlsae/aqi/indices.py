"""Cluster indices of the alignment quality index: how far apart classes of rows lie (aqi, arXiv 2506.13901).

n rows, d width, K ≥ 1 classes. All compute in float64, are the same under rotation, translation, scale and order of
rows, raise ``ValueError`` for wrong shapes and rows that are not finite, and give NaN or inf, never an exception, for
degenerate classes; :func:`status` says which. One class: NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vlsae.aqi import distances
from vlsae.aqi.accumulators import ClassMoments, moments_of
from vlsae.aqi.inputs import Labelled, chunks, labelled
from vlsae.aqi.scatter import Scatter, ratio
from vlsae.errors import UserError, unknown

#: Rows on each side of a tile of distances.
TILE = 1024


def calinski_harabasz(x: Any, labels: Any) -> float:
    """Return [SSB / (K - 1)] / [SSW / (n - K)] of rows ``x (n, d)``; higher is further apart, grows with n."""
    return _scatter(labelled(x, labels)).chi


def xie_beni(x: Any, labels: Any) -> float:
    """Return SSW / (n · min D²), D the distance of two centroids, for hard membership; lower is further apart."""
    return _scatter(labelled(x, labels)).xbi


def davies_bouldin(x: Any, labels: Any, dispersion: str = "mean") -> float:
    """Return (1/K) Σ_i max_j (S_i + S_j) / D_ij; lower is further apart.

    S is the ``mean`` distance to the centroid, or the root mean square (``rms``), which one pass can compute.
    """
    if dispersion not in ("mean", "rms"):
        raise unknown("dispersion", dispersion, ("mean", "rms"))
    data = labelled(x, labels)
    moments = _moments(data)
    if dispersion == "rms":
        return moments.scatter().dbs_rms
    return mean_davies_bouldin(moments, data.x, data.codes)


def dunn(x: Any, labels: Any, diameter: str = "complete", tile: int = TILE) -> float:
    """Return the smallest distance of two rows of different classes over the largest diameter; higher is better.

    The diameter of a class is its largest distance of two rows (``complete``) or their mean distance (``mean``, over
    n_k(n_k - 1)); a class of one counts 0. Takes n² d time and ``tile``² memory.
    """
    if diameter not in ("complete", "mean"):
        raise unknown("diameter", diameter, ("complete", "mean"))
    data = labelled(x, labels)
    if len(data.classes) < 2:
        return float("nan")
    moments, found = _moments(data), _Dunn(len(data.classes), diameter)
    for part in distances.tiles(data.x, data.codes, moments.mean, _checked(tile)):
        found.see(part)
    return found.value(data, moments.scatter())


def silhouette(x: Any, labels: Any, tile: int = TILE) -> float:
    """Return the mean of (b - a) / max(a, b) over rows, in [-1, 1]; higher is further apart.

    a is a row's mean distance to its own class without itself, b the smallest mean distance to another class; a class
    of one counts 0. Takes n² d time and ``tile``² + n·K memory.
    """
    data = labelled(x, labels)
    classes = len(data.classes)
    if classes < 2:
        return float("nan")
    moments, found = _moments(data), _Silhouette(len(data.x), classes)
    for part in distances.tiles(data.x, data.codes, moments.mean, _checked(tile)):
        found.see(part)
    return found.value(data, moments.scatter())


def dunn_and_silhouette(x: Any, labels: Any, tile: int = TILE) -> tuple[float, float]:
    """Return :func:`dunn` and :func:`silhouette` in the time of one of them: both go over the same distances."""
    data = labelled(x, labels)
    classes = len(data.classes)
    if classes < 2:
        return float("nan"), float("nan")
    moments = _moments(data)
    first, second = _Dunn(classes, "complete"), _Silhouette(len(data.x), classes)
    for part in distances.tiles(data.x, data.codes, moments.mean, _checked(tile)):
        first.see(part)
        second.see(part)
    scatter = moments.scatter()
    return first.value(data, scatter), second.value(data, scatter)


def mean_davies_bouldin(moments: ClassMoments, x: np.ndarray, codes: np.ndarray) -> float:
    """Return :func:`davies_bouldin` of checked rows whose moments by class are at hand; every class has rows."""
    return moments.scatter().davies_bouldin(_mean_distances(x, codes, moments))


def status(x: Any, labels: Any) -> str:
    """Return ``ok``, or the degenerate cases of the rows, joined by ``+``, in this order: ``one_class``, ``constant``,
    ``zero_between``, ``zero_within``, ``coincident_centroids``, ``no_within_df``, ``singleton_class``."""
    return _scatter(labelled(x, labels)).status


class _Dunn:
    """The smallest distance across classes and the largest diameter, tile by tile."""

    def __init__(self, classes: int, diameter: str) -> None:
        self._gap, self._widest = _Extreme(np.argmin, np.less), _Extreme(np.argmax, np.greater)
        self._diameter, self._sums = diameter, np.zeros(classes)

    def see(self, part: distances.Tile) -> None:
        if part.i != part.j:
            self._gap.see(part)
        elif self._diameter == "complete":
            self._widest.see(part)
        else:
            np.sqrt(part.squared, out=part.squared)
            self._sums[part.i] += part.squared.sum() * (1 if part.same_rows else 2)

    def value(self, data: Labelled, scatter: Scatter) -> float:
        # The zero test of two centroids, for two rows.
        smallest = scatter.zero / scatter.n
        if self._diameter == "complete":
            size2 = self._widest.exact(data.x)
        else:
            size2 = float((self._sums / np.maximum(scatter.count * (scatter.count - 1), 1)).max() ** 2)
        gap2 = self._gap.exact(data.x)
        return ratio(np.sqrt(gap2) if gap2 > smallest else 0.0, np.sqrt(size2) if size2 > smallest else 0.0)


class _Silhouette:
    """Sums of each row's distances to each class, tile by tile; the tile's squares are overwritten."""

    def __init__(self, rows: int, classes: int) -> None:
        self._sums = np.zeros((rows, classes))

    def see(self, part: distances.Tile) -> None:
        apart = np.sqrt(part.squared, out=part.squared)
        self._sums[part.first, part.j] += apart.sum(axis=1)
        if not part.same_rows:
            self._sums[part.second, part.i] += apart.sum(axis=0)

    def value(self, data: Labelled, scatter: Scatter) -> float:
        sums, every, count = self._sums, np.arange(len(data.x)), scatter.count[data.codes]
        own = sums[every, data.codes] / np.maximum(count - 1, 1)
        sums[every, data.codes] = np.inf
        other = (sums / scatter.count).min(axis=1)
        smallest = np.sqrt(scatter.zero / scatter.n)
        own, other = (np.where(value <= smallest, 0.0, value) for value in (own, other))
        with np.errstate(invalid="ignore"):
            value = (other - own) / np.maximum(own, other)
        return float(np.where(count == 1, 0.0, value).mean())


class _Extreme:
    """The pair of rows with the smallest or largest distance so far."""

    def __init__(self, find: Any, better: Any) -> None:
        self._find, self._better = find, better
        self._value: float | None = None
        self._pair = (0, 0)

    def see(self, part: distances.Tile) -> None:
        at = int(self._find(part.squared))
        value = float(part.squared.flat[at])
        if self._value is None or self._better(value, self._value):
            row, column = divmod(at, part.squared.shape[1])
            self._value, self._pair = value, (int(part.first[row]), int(part.second[column]))

    def exact(self, x: np.ndarray) -> float:
        """The squared distance of that pair; 0 where there was none."""
        return 0.0 if self._value is None else distances.exact(x, *self._pair)


def _moments(data: Labelled) -> ClassMoments:
    return moments_of(data.x, data.codes, len(data.classes))


def _scatter(data: Labelled) -> Scatter:
    return _moments(data).scatter()


def _mean_distances(x: np.ndarray, codes: np.ndarray, moments: ClassMoments) -> np.ndarray:
    """Return the mean distance of each class's rows to its centroid, ``(K,)``."""
    sums, mean = np.zeros(moments.n_classes), moments.mean
    for part in chunks(*x.shape):
        apart = x[part] - mean[codes[part]]
        lengths = np.sqrt(np.einsum("nd,nd->n", apart, apart))
        sums += np.bincount(codes[part], weights=lengths, minlength=len(sums))
    return sums / moments.count


def _checked(tile: int) -> int:
    if int(tile) < 1:
        raise UserError(f"tile must be at least 1; got {tile!r}.")
    return int(tile)
