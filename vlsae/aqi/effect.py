"""How far classes lie apart in units of their own spread, free of the bias of sampling, and within strata.

n rows, d width, K classes, A strata (axioms). Unlike Calinski-Harabasz, δ², ω² and AUROC can be compared between
samples of different size. Derivations: docs/aqi.md.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from vlsae.aqi.accumulators import ClassMoments, moments_of
from vlsae.aqi.crossfit import CrossfitAUROC, crossfit_auroc
from vlsae.aqi.inputs import Labelled, groups, labelled, two_classes
from vlsae.aqi.permutation import PermutationTest, permutation_test
from vlsae.aqi.scatter import Scatter, ratio
from vlsae.errors import UserError, unknown

__all__ = [
    "CrossfitAUROC",
    "PermutationTest",
    "StratifiedEffect",
    "crossfit_auroc",
    "delta_squared",
    "delta_squared_pairs",
    "epsilon_squared",
    "eta_squared",
    "omega_squared",
    "permutation_test",
    "stratified",
    "stratified_of",
]


class StratifiedEffect(NamedTuple):
    """Effects of each stratum ``(A,)``, and over strata; ``weights`` are the strata's shares of the rows used.

    ``pooled_*`` ignore strata, ``macro_*`` is the plain mean, ``common_*`` is the effect along what the strata's
    directions share, and ``sharedness`` that effect's share: 1 where all strata have one direction.
    """

    weights: np.ndarray
    delta_squared: np.ndarray
    chi: np.ndarray
    stratified_delta_squared: float
    stratified_omega_squared: float
    stratified_chi: float
    macro_delta_squared: float
    common_delta_squared: float
    sharedness: float
    pooled_delta_squared: float
    pooled_chi: float


def eta_squared(x: Any, labels: Any) -> float:
    """Return SSB / SST of rows ``x (n, d)``: the share of variance between classes, biased by about (K - 1)/(n - 1)."""
    return _scatter(labelled(x, labels)).eta2


def epsilon_squared(x: Any, labels: Any) -> float:
    """Return (SSB - (K - 1) MSW) / SST (Kelley, 1935)."""
    return _scatter(labelled(x, labels)).epsilon2


def omega_squared(x: Any, labels: Any) -> float:
    """Return (SSB - (K - 1) MSW) / (SST + MSW) (Hays, 1963); about zero without effect, whatever n and d."""
    return _scatter(labelled(x, labels)).omega2


def delta_squared(x: Any, labels: Any, variance: str = "class") -> float:
    """Return the unbiased squared distance of two classes' means over their variance; may be negative.

    ``class`` divides by the mean of the two class variances, whatever their sizes; ``pooled`` by the pooled within
    variance, which is biased where sizes and variances both differ. One class: NaN; three or more: ``ValueError``.
    """
    if variance not in ("class", "pooled"):
        raise unknown("variance", variance, ("class", "pooled"))
    data = labelled(x, labels)
    if not two_classes(data):
        return float("nan")
    scatter = _scatter(data)
    return scatter.delta2_pooled if variance == "pooled" else float(scatter.delta2[0, 1])


def delta_squared_pairs(x: Any, labels: Any) -> np.ndarray:
    """Return :func:`delta_squared` of each two classes, ``(K, K)``, NaN on the diagonal."""
    return _scatter(labelled(x, labels)).delta2


def stratified(x: Any, labels: Any, strata: Any) -> StratifiedEffect:
    """Return the effects of two classes (0 safe, 1 unsafe) within strata ``(n,)``, in ascending order of stratum.

    A stratum with fewer than two rows of a class gets NaN and weight 0 and is left out of what is stratified; it
    leaves ``macro_delta_squared`` NaN. One class: all NaN.
    """
    data = labelled(x, labels)
    names, codes = groups("strata", strata, len(data.x))
    cells = moments_of(data.x, codes * 2 + data.codes, 2 * len(names))
    return stratified_of(cells) if two_classes(data) else _undefined(len(names))


def stratified_of(cells: ClassMoments) -> StratifiedEffect:
    """Return the effects of moments whose class ``2a + k`` holds the rows of class k of stratum a."""
    if cells.n_classes % 2:
        raise UserError(f"cells must be two classes a stratum; got {cells.n_classes} cells.")
    strata = cells.n_classes // 2
    count = cells.count.reshape(strata, 2)
    usable = np.flatnonzero((count > 1).all(axis=1))
    pooled = cells.regroup(np.tile([0, 1], strata), 2)
    result = _undefined(strata)
    if (pooled.count > 0).all():
        scatter = pooled.scatter()
        result = result._replace(pooled_delta_squared=float(scatter.delta2[0, 1]), pooled_chi=scatter.chi)
    if len(usable) == 0:
        return result
    parts = [_one_stratum(cells, stratum) for stratum in usable.tolist()]
    rows = np.array([part.n for part in parts])
    weights = rows / rows.sum()
    u, v = np.array([part.u[0, 1] for part in parts]), np.array([part.v[0, 1] for part in parts])
    delta2 = np.array([part.delta2[0, 1] for part in parts])
    between, within = sum(part.between for part in parts), sum(part.within for part in parts)
    mean_within = within / (rows.sum() - 2 * len(usable))
    common = _common_distance(cells, parts, usable, weights)
    return result._replace(
        weights=_spread(weights, usable, strata, 0.0),
        delta_squared=_spread(delta2, usable, strata),
        chi=_spread(np.array([part.chi for part in parts]), usable, strata),
        stratified_delta_squared=ratio(float(weights @ u), float(weights @ v)),
        stratified_omega_squared=ratio(between - len(usable) * mean_within, between + within + mean_within),
        stratified_chi=ratio(between / len(usable), mean_within),
        macro_delta_squared=float(delta2.mean()) if len(usable) == strata else float("nan"),
        common_delta_squared=ratio(common, float(weights @ v)),
        sharedness=ratio(common, float(weights @ u)),
    )


def _scatter(data: Labelled) -> Scatter:
    return moments_of(data.x, data.codes, len(data.classes)).scatter()


def _undefined(strata: int) -> StratifiedEffect:
    nothing = np.full(strata, np.nan)
    return StratifiedEffect(np.zeros(strata), nothing, nothing, *[float("nan")] * 8)


def _one_stratum(cells: ClassMoments, stratum: int) -> Scatter:
    target = np.full(cells.n_classes, -1)
    target[2 * stratum : 2 * stratum + 2] = (0, 1)
    return cells.regroup(target, 2).scatter()


def _spread(values: np.ndarray, usable: np.ndarray, strata: int, missing: float = np.nan) -> np.ndarray:
    result = np.full(strata, missing)
    result[usable] = values
    return result


def _common_distance(cells: ClassMoments, parts: list[Scatter], usable: np.ndarray, weights: np.ndarray) -> float:
    """Return U_c = ‖Σw Δ_a‖² - Σw²(s_0²/n_0 + s_1²/n_1), unbiased for the squared length of the mean difference."""
    mean = cells.shifted_mean.reshape(-1, 2, cells.width)[usable]
    shared = weights @ (mean[:, 0] - mean[:, 1])
    noise = np.array([(part.variance / part.count).sum() for part in parts])
    length2 = float(shared @ shared)
    # Directions that agree up to rounding are no distance, as for each stratum's own.
    zero = max(part.zero / part.n for part in parts)
    return (length2 if length2 > zero else 0.0) - float(weights**2 @ noise)
