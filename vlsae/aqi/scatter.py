"""The indices that follow from each class's count, centroid and scatter alone, with every degenerate case.

K classes, n_k rows with centroid m_k and M2_k = Σ‖x - m_k‖²; n = Σn_k; SSW = ΣM2_k; SSB = Σn_k‖m_k - m‖²;
D_ij = ‖m_i - m_j‖. A ratio of something positive to zero is inf, of zero to zero NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

#: A sum of squares counts as zero up to this share of Σ‖x‖²: rounding of equal rows, at any scale.
ZERO = 1e-24


def ratio(above: float, below: float) -> float:
    """Return ``above / below``; inf where only ``below`` is zero, NaN where both are."""
    if below == 0:
        return float("nan") if above == 0 or np.isnan(above) else float(np.copysign(np.inf, above))
    return float(above / below)


@dataclass(frozen=True)
class Scatter:
    """Counts ``(K,)``, all at least 1, centroids ``(K, d)`` less any common shift, scatters M2 ``(K,)``, and Σ‖x‖²."""

    count: np.ndarray
    centroid: np.ndarray
    scatter: np.ndarray
    square_sum: float

    @property
    def n(self) -> int:
        """Number of rows."""
        return int(self.count.sum())

    @property
    def n_classes(self) -> int:
        """Number of classes K."""
        return len(self.count)

    @property
    def zero(self) -> float:
        """The largest sum of squares over all rows that counts as zero."""
        return ZERO * self.square_sum

    @cached_property
    def m2(self) -> np.ndarray:
        """M2_k of each class, ``(K,)``, zero where it is only rounding."""
        return np.where(self.scatter <= self.zero, 0.0, self.scatter)

    @cached_property
    def between(self) -> float:
        """SSB, the scatter of the centroids about the mean of all rows."""
        mean = self.count @ self.centroid / self.n
        value = float(self.count @ ((self.centroid - mean) ** 2).sum(axis=1))
        return 0.0 if value <= self.zero else value

    @cached_property
    def within(self) -> float:
        """SSW, the scatter of the rows about their class's centroid."""
        value = float(self.scatter.sum())
        return 0.0 if value <= self.zero else value

    @property
    def total(self) -> float:
        """SST = SSB + SSW."""
        return self.between + self.within

    @property
    def mean_within(self) -> float:
        """MSW = SSW / (n - K); NaN where every class is of one row."""
        freedom = self.n - self.n_classes
        return self.within / freedom if freedom else float("nan")

    @cached_property
    def distances2(self) -> np.ndarray:
        """D_ij² of each two centroids, ``(K, K)``, zero where centroids agree."""
        # Rows one by one: (K, d) at a time instead of (K, K, d).
        squares = np.stack([((self.centroid - one) ** 2).sum(axis=1) for one in self.centroid])
        # Where the scatter of all centroids is rounding, so is each distance: one verdict for every index.
        return np.where((squares <= self.zero / self.n) | (self.between == 0), 0.0, squares)

    @cached_property
    def nearest2(self) -> float:
        """The smallest D_ij² of two classes; NaN with one class."""
        if self.n_classes < 2:
            return float("nan")
        return float(self.distances2[np.triu_indices(self.n_classes, 1)].min())

    @property
    def chi(self) -> float:
        """Calinski-Harabasz, [SSB / (K - 1)] / MSW."""
        if self.n_classes < 2 or self.n == self.n_classes:
            return float("nan")
        return ratio(self.between / (self.n_classes - 1), self.mean_within)

    @property
    def xbi(self) -> float:
        """Xie-Beni, SSW / (n · min D_ij²), hard membership."""
        return float("nan") if self.n_classes < 2 else ratio(self.within, self.n * self.nearest2)

    def davies_bouldin(self, spread: np.ndarray) -> float:
        """Return (1/K) Σ_i max_j (S_i + S_j) / D_ij for the spread S ``(K,)`` of each class."""
        if self.n_classes < 2:
            return float("nan")
        distance = np.sqrt(self.distances2)
        spread = np.where(self.m2 == 0, 0.0, spread)
        with np.errstate(divide="ignore", invalid="ignore"):
            similar = (spread[:, None] + spread[None, :]) / distance
        np.fill_diagonal(similar, -np.inf)
        return float(similar.max(axis=1).mean())

    @property
    def dbs_rms(self) -> float:
        """Davies-Bouldin with the root mean square distance to the centroid as spread."""
        return self.davies_bouldin(np.sqrt(self.m2 / self.count))

    @property
    def eta2(self) -> float:
        """η² = SSB / SST, the share of variance between classes; biased upwards by about (K - 1)/(n - 1)."""
        return float("nan") if self.n_classes < 2 else ratio(self.between, self.total)

    @property
    def epsilon2(self) -> float:
        """ε² = (SSB - (K - 1) MSW) / SST."""
        return float("nan") if self.n_classes < 2 else ratio(self._net_between, self.total)

    @property
    def omega2(self) -> float:
        """ω² = (SSB - (K - 1) MSW) / (SST + MSW)."""
        return float("nan") if self.n_classes < 2 else ratio(self._net_between, self.total + self.mean_within)

    @property
    def _net_between(self) -> float:
        return self.between - (self.n_classes - 1) * self.mean_within

    @cached_property
    def variance(self) -> np.ndarray:
        """s_k² = M2_k / (n_k - 1), the trace of each class's covariance, ``(K,)``; NaN for a class of one row."""
        freedom = np.where(self.count > 1, self.count - 1, np.nan)
        return self.m2 / freedom

    @cached_property
    def u(self) -> np.ndarray:
        """U_ij = D_ij² - s_i²/n_i - s_j²/n_j, unbiased for the squared distance of the means, ``(K, K)``."""
        noise = self.variance / self.count
        return _off_diagonal(self.distances2 - noise[:, None] - noise[None, :])

    @cached_property
    def v(self) -> np.ndarray:
        """V_ij = (s_i² + s_j²) / 2, ``(K, K)``."""
        return _off_diagonal((self.variance[:, None] + self.variance[None, :]) / 2)

    @cached_property
    def delta2(self) -> np.ndarray:
        """δ² = U / V of each two classes, ``(K, K)``, NaN on the diagonal; never clipped."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.u / self.v

    @property
    def delta2_pooled(self) -> float:
        """δ² of two classes by the pooled variance, D²/MSW - 1/n_0 - 1/n_1."""
        if self.n_classes != 2:
            return float("nan")
        distance2 = float(self.distances2[0, 1])
        # Two classes of one row each have no MSW, but no scatter either: as with any two constant classes, inf.
        quotient = ratio(distance2, 0.0 if self.within == 0 else self.mean_within)
        return quotient - float((1 / self.count).sum())

    @property
    def status(self) -> str:
        """``ok``, or every degenerate case that holds, joined by ``+``."""
        several = self.n_classes > 1
        spread, apart = self.within > 0, self.between > 0
        cases = {
            "one_class": not several,
            "constant": not spread and not apart,
            "zero_between": self.n_classes == 2 and spread and not apart,
            "zero_within": not spread and apart,
            "coincident_centroids": self.n_classes > 2 and self.total > 0 and self.nearest2 == 0,
            "no_within_df": self.n == self.n_classes,
            "singleton_class": bool((self.count == 1).any()),
        }
        return "+".join(name for name, holds in cases.items() if holds) or "ok"


def _off_diagonal(table: np.ndarray) -> np.ndarray:
    table = table.copy()
    np.fill_diagonal(table, np.nan)
    return table
