"""Class means and scatters in one pass, in memory that does not grow with the rows; parts merge in any order.

K classes, d width, n rows of a batch. Kept less a shift, the first row seen, so that an offset of the rows far above
their spread costs no digits (Chan, Golub and LeVeque, 1983, with shifted data).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vlsae.aqi.inputs import chunks, integers, real, rows
from vlsae.aqi.scatter import Scatter
from vlsae.errors import UserError


class ClassMoments:
    """``count (K,)``, ``mean (K, d)`` and ``m2 (K, d)``, the sum of squared deviations of each coordinate, by class.

    A class without rows has mean and m2 zero and takes part in no index.
    """

    def __init__(self, n_classes: int, width: int) -> None:
        for name, value in (("n_classes", n_classes), ("width", width)):
            if int(value) < 1:
                raise UserError(f"{name} must be at least 1; got {value!r}.")
        self.n_classes, self.width = int(n_classes), int(width)
        self.count = np.zeros(self.n_classes, dtype=np.int64)
        self.m2 = np.zeros((self.n_classes, self.width))
        #: The first row seen, ``(d,)``; None before any was.
        self.shift: np.ndarray | None = None
        #: The mean less the shift, ``(K, d)``.
        self.shifted_mean = np.zeros((self.n_classes, self.width))

    @property
    def mean(self) -> np.ndarray:
        """The mean of each class, ``(K, d)``; zero for a class without rows."""
        if self.shift is None:
            return np.zeros_like(self.shifted_mean)
        return np.where(self.count[:, None] > 0, self.shift + self.shifted_mean, 0.0)

    def update(self, x: Any, labels: Any) -> ClassMoments:
        """Add rows ``x (n, d)`` of classes ``labels (n,)`` in 0…K-1; returns itself.

        Raises ``ValueError`` for wrong shapes, labels outside the range and rows that are not finite; nothing is
        added then.
        """
        values = real(x, "x")
        if values.ndim != 2 or values.shape[1] != self.width:
            raise UserError(f"x has shape {values.shape}; (n, {self.width}) was expected.")
        codes = integers("labels", labels, len(values))
        if len(values) == 0:
            return self
        rows(values)
        outside = np.flatnonzero((codes < 0) | (codes >= self.n_classes))
        if len(outside):
            first = int(outside[0])
            raise UserError(f"labels must lie in 0…{self.n_classes - 1}; got {codes[first]} in row {first}.")
        self._add_all(values, codes)
        return self

    def merge(self, other: ClassMoments) -> ClassMoments:
        """Add what another has seen, of the same classes and width; returns itself, the other stays as it is."""
        if (other.n_classes, other.width) != (self.n_classes, self.width):
            raise UserError(
                f"Moments of {other.n_classes} classes and width {other.width} do not fit those of "
                f"{self.n_classes} and {self.width}."
            )
        if other.shift is not None:
            seen = np.flatnonzero(other.count)
            self._combine(seen, other.count[seen], other.shifted_mean[seen], other.m2[seen], other.shift)
        return self

    def regroup(self, groups: Any, n_groups: int) -> ClassMoments:
        """Return the moments with class k counted to ``groups[k]`` in 0…n_groups-1, or left out where that is -1.

        One pass over cells of block, stratum and class so gives each leave-one-block-out estimate without the rows.
        """
        target = integers("groups", groups, self.n_classes)
        if (target < -1).any() or (target >= n_groups).any():
            raise UserError(f"groups must lie in -1…{n_groups - 1}; got {target.min()}…{target.max()}.")
        result = ClassMoments(n_groups, self.width)
        if self.shift is None:
            return result
        cells = np.flatnonzero((target >= 0) & (self.count > 0))
        if len(cells) == 0:
            return result
        cells = cells[np.argsort(target[cells], kind="stable")]
        result.shift = self.shift.copy()
        found, first = np.unique(target[cells], return_index=True)
        weight = self.count[cells, None]
        result.count[found] = np.add.reduceat(self.count[cells], first)
        sums = np.add.reduceat(weight * self.shifted_mean[cells], first, axis=0)
        result.shifted_mean[found] = sums / result.count[found, None]
        apart = self.shifted_mean[cells] - result.shifted_mean[target[cells]]
        result.m2[found] = np.add.reduceat(self.m2[cells] + weight * apart**2, first, axis=0)
        return result

    def scatter(self) -> Scatter:
        """Return the counts, centroids and scatters of the classes that have rows."""
        seen = self.count > 0
        count, m2 = self.count[seen], self.m2[seen].sum(axis=1)
        square_sum = float(count @ (self.mean[seen] ** 2).sum(axis=1) + m2.sum())
        return Scatter(count, self.shifted_mean[seen], m2, square_sum)

    def indices(self) -> dict[str, Any]:
        """Return ``chi``, ``xbi``, ``dbs_rms``, ``eta2``, ``omega2`` (floats) and ``delta2 (K, K)``."""
        delta2 = np.full((self.n_classes, self.n_classes), np.nan)
        seen = np.flatnonzero(self.count)
        if len(seen) == 0:
            return {**dict.fromkeys(("chi", "xbi", "dbs_rms", "eta2", "omega2"), float("nan")), "delta2": delta2}
        scatter = self.scatter()
        delta2[np.ix_(seen, seen)] = scatter.delta2
        return {
            "chi": scatter.chi,
            "xbi": scatter.xbi,
            "dbs_rms": scatter.dbs_rms,
            "eta2": scatter.eta2,
            "omega2": scatter.omega2,
            "delta2": delta2,
        }

    def top_share(self) -> float:
        """Return the largest coordinate's share of SSW: near 1 where one coordinate owns every index."""
        within = self.m2.sum(axis=0)
        return float(within.max() / within.sum()) if within.sum() > 0 else float("nan")

    def within_scaled(self) -> tuple[ClassMoments, int]:
        """Return the moments of rows divided by each coordinate's pooled within-class deviation, and how many
        coordinates were left out because they do not vary within classes."""
        seen = int((self.count > 0).sum())
        freedom = int(self.count.sum()) - seen
        variance = self.m2.sum(axis=0) / freedom if freedom > 0 else np.zeros(self.width)
        kept = variance > 1e-24 * ((self.mean**2).max(axis=0) + variance)
        result = ClassMoments(self.n_classes, max(1, int(kept.sum())))
        result.count = self.count.copy()
        if self.shift is None:
            return result, 0
        if not kept.any():
            result.shift = np.zeros(1)
            return result, self.width
        deviation = np.sqrt(variance[kept])
        result.shift = self.shift[kept] / deviation
        result.shifted_mean = self.shifted_mean[:, kept] / deviation
        result.m2 = self.m2[:, kept] / variance[kept]
        return result, self.width - int(kept.sum())

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the whole state as arrays, to be stored; :meth:`from_arrays` reads it without loss."""
        shift = np.zeros(self.width) if self.shift is None else self.shift
        return {"count": self.count, "shift": shift, "shifted_mean": self.shifted_mean, "m2": self.m2}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> ClassMoments:
        """Return the moments that :meth:`arrays` gave; raises ``ValueError`` where they do not fit each other."""
        missing = {"count", "shift", "shifted_mean", "m2"} - set(arrays)
        if missing:
            raise UserError(f"The state of moments lacks {', '.join(sorted(missing))}.")
        count, m2 = np.asarray(arrays["count"]), rows(arrays["m2"], "m2")
        mean = rows(arrays["shifted_mean"], "shifted_mean")
        shift = real(arrays["shift"], "shift")
        if count.shape != m2.shape[:1] or mean.shape != m2.shape or shift.shape != m2.shape[1:]:
            raise UserError(
                f"The state of moments does not fit: count {count.shape}, shift {shift.shape}, "
                f"shifted_mean {mean.shape}, m2 {m2.shape}."
            )
        moments = cls(*m2.shape)
        moments.count, moments.shifted_mean, moments.m2 = (
            integers("count", count, len(m2)).copy(),
            mean.copy(),
            m2.copy(),
        )
        moments.shift = shift.copy() if count.any() else None
        return moments

    def _add_all(self, values: np.ndarray, codes: np.ndarray) -> None:
        if self.shift is None:
            self.shift = values[0].copy()
        # By class, so that a chunk holds few classes and few sums are combined.
        order = np.argsort(codes, kind="stable")
        for part in chunks(len(values), self.width):
            self._add(values[order[part]], codes[order[part]])

    def _add(self, centred: np.ndarray, codes: np.ndarray) -> None:
        """Add rows that may be overwritten, in ascending order of class."""
        seen, place, count = np.unique(codes, return_inverse=True, return_counts=True)
        place, shift = place.reshape(-1), np.asarray(self.shift)
        member = np.zeros((len(seen), len(codes)))
        member[place, np.arange(len(codes))] = 1
        centred -= shift
        mean = member @ centred / count[:, None]
        centred -= mean[place]
        # What rounding left of the mean is taken out of the squares (the corrected two-pass form).
        left = member @ centred
        np.square(centred, out=centred)
        m2 = member @ centred - left**2 / count[:, None]
        self._combine(seen, count, mean, np.maximum(m2, 0), shift)

    def _combine(
        self, classes: np.ndarray, count: np.ndarray, mean: np.ndarray, m2: np.ndarray, shift: np.ndarray
    ) -> None:
        """Add counts ``(c,)``, shifted means and m2 ``(c, d)`` of some classes, seen less another shift."""
        if self.shift is None:
            self.shift = shift.copy()
        before = self.count[classes]
        after = before + count
        share = (count / after)[:, None]
        apart = (shift - self.shift) + (mean - self.shifted_mean[classes])
        # A class not seen before has nothing to be apart from: before is 0, and the mean moves all the way.
        self.m2[classes] += m2 + apart**2 * (before * (count / after))[:, None]
        self.shifted_mean[classes] += apart * share
        self.count[classes] = after


def moments_of(x: np.ndarray, codes: np.ndarray, n_classes: int) -> ClassMoments:
    """Return the moments of checked rows ``x (n, d)`` and class codes ``(n,)``."""
    moments = ClassMoments(n_classes, x.shape[1])
    moments._add_all(x, codes)
    return moments
