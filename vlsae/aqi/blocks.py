"""The effects of a layer without each block of rows, and without each two: what their intervals are made of.

d width, A strata, G blocks, R = G + G(G - 1)/2 ways of leaving blocks out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from vlsae import statistics
from vlsae.aqi.accumulators import ClassMoments
from vlsae.aqi.crossfit import DirectionNoise
from vlsae.aqi.design import Design
from vlsae.aqi.effect import StratifiedEffect
from vlsae.statistics import Interval, VarianceParts

#: Squared distances of two means, over what is left of the noise of both, and their names in an effect.
DISTANCES = ("stratified_delta_squared", "macro_delta_squared", "common_delta_squared", "pooled_delta_squared")

#: Other scalars of an effect that get an interval.
RATIOS = ("stratified_omega_squared", "sharedness")

#: Values held at once.
ELEMENTS_AT_ONCE = 1 << 20

#: What is left of a difference of two sums below this share of them is rounding.
ROUNDING = 1e-13


class LeftOut(NamedTuple):
    """Each scalar ``(1 + R,)`` and each stratum's δ² ``(1 + R, A)`` as ``strata``, and the noise subtracted in each.

    The first entry leaves out nothing; the others are in the order of :func:`vlsae.statistics.groups_kept`.
    ``squares (1 + R,)`` are the squared distances of the means of all rows, less their noise, in the rows' units.
    """

    values: dict[str, np.ndarray]
    noise: dict[str, np.ndarray]
    squares: np.ndarray


class Intervals(NamedTuple):
    """95 % intervals by name, as ``strata`` of each stratum's δ² ``(A,)``, and what was taken off the stratified δ².

    ``direction`` is of the difference of the class means over all rows, in the rows' units.
    """

    by_name: dict[str, Interval]
    noise: float
    direction: DirectionNoise


def intervals(cells: ClassMoments, design: Design, effect: StratifiedEffect) -> Intervals:
    """Return the intervals of an effect from its cells by block, stratum and class."""
    found = left_out(cells, design)
    estimates = {**{name: getattr(effect, name) for name in (*DISTANCES, *RATIOS)}, "strata": effect.delta_squared}
    result = _distance_intervals(estimates, found, design)
    for name in RATIOS:
        result[name] = statistics.pair_jackknife_interval(estimates[name], found.values[name][1:], design.n_blocks)
    # A squared distance varies by 2 tr Σ² + 4 μ'Σμ; a δ² more, since the scatter that it is divided by varies too.
    parts = statistics.variance_parts(found.squares[1:], design.n_blocks)
    direction = DirectionNoise(float(parts.paired) / 2, max(float(parts.single), 0.0) / 4)
    return Intervals(result, float(found.noise["stratified_delta_squared"][0]), direction)


def parts_of(interval: Interval, design: Design) -> VarianceParts:
    """Return what a block does by itself and what two do together in the variance of an interval's estimate."""
    return statistics.variance_parts(interval.replicates, design.n_blocks)


def left_out(cells: ClassMoments, design: Design) -> LeftOut:
    """Return the effects of two classes without each block, and each two, from the moments by block."""
    count, mean, m2 = _by_block(cells, design)
    strata = _sums(count, mean, m2)
    whole = _over_strata(count, mean, m2)
    kept = np.concatenate([np.ones((1, design.n_blocks)), statistics.groups_kept(design.n_blocks)])
    size = max(1, ELEMENTS_AT_ONCE // strata.sums.shape[1])
    pieces = [_effects(part, strata, whole) for part in np.split(kept, range(size, len(kept), size))]
    values, noise = ({name: np.concatenate([one[i][name] for one in pieces]) for name in pieces[0][i]} for i in (0, 1))
    return LeftOut(values, noise, np.concatenate([one.squares for one in pieces]))


def stratified_delta_squared(cells: ClassMoments, design: Design, kept: np.ndarray) -> np.ndarray:
    """Return the stratified δ² ``(r,)`` of the blocks (folds, where there are none) kept in each way ``(r, G)``."""
    found = _distances(kept, _sums(*_by_block(cells, design)))
    rows = np.where(found.usable, found.n.sum(axis=2), 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (rows * (found.square - found.noise)).sum(axis=1) / (rows * found.variance).sum(axis=1)


def _by_block(cells: ClassMoments, design: Design) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return counts ``(G, A, 2)``, means ``(G, A, 2, d)`` and scatters ``(G, A, 2)``."""
    count = cells.count.reshape(-1, design.n_strata, 2).astype(np.float64)
    return count, cells.shifted_mean.reshape(*count.shape, cells.width), cells.m2.sum(axis=1).reshape(count.shape)


class _Sums(NamedTuple):
    """Counts and scatters about the strata's means ``(G, A, 2)``, and sums of rows less these ``(G, A·2·d)``."""

    n: np.ndarray
    scatter: np.ndarray
    sums: np.ndarray


class _Distances(NamedTuple):
    """Some ways r of leaving blocks out: rows ``(r, A, 2)``, the direction between the means ``(r, A, d)``, its length
    squared, the noise in it and the variance within classes ``(r, A)``, scatter ``(r, A, 2)``, and what is usable."""

    n: np.ndarray
    direction: np.ndarray
    square: np.ndarray
    noise: np.ndarray
    variance: np.ndarray
    within: np.ndarray
    usable: np.ndarray


def _sums(count: np.ndarray, mean: np.ndarray, m2: np.ndarray) -> _Sums:
    weight = count.sum(axis=(0, 2))
    centre = np.einsum("gak,gakd->ad", count, mean) / np.maximum(weight, 1)[:, None]
    apart = (mean - centre[:, None]) * (count > 0)[..., None]
    scatter = m2 + count * np.einsum("gakd,gakd->gak", apart, apart)
    return _Sums(count, scatter, (count[..., None] * apart).reshape(len(count), -1))


def _over_strata(count: np.ndarray, mean: np.ndarray, m2: np.ndarray) -> _Sums:
    """Return the same of all rows, as if they were one stratum."""
    whole = count.sum(axis=1)
    middle = np.einsum("gak,gakd->gkd", count, mean) / np.maximum(whole, 1)[..., None]
    apart = mean - middle[:, None]
    m2 = m2.sum(axis=1) + np.einsum("gak,gakd,gakd->gk", count, apart, apart)
    return _sums(whole[:, None], middle[:, None], m2[:, None])


def _distances(kept: np.ndarray, found: _Sums) -> _Distances:
    n = np.einsum("rg,gak->rak", kept, found.n)
    means = (kept @ found.sums).reshape(*n.shape, -1) / np.maximum(n, 1)[..., None]
    total = np.einsum("rg,gak->rak", kept, found.scatter)
    within = total - n * np.einsum("rakd,rakd->rak", means, means)
    within = np.where(within <= ROUNDING * total, 0.0, within)
    usable = (n > 1).all(axis=2)
    variance = np.where(usable[..., None], within / np.maximum(n - 1, 1), 0.0)
    noise = (variance / np.maximum(n, 1)).sum(axis=2)
    direction = means[:, :, 0] - means[:, :, 1]
    square = np.einsum("rad,rad->ra", direction, direction)
    return _Distances(n, direction, square, noise, variance.mean(axis=2), within, usable)


def _effects(kept: np.ndarray, strata: _Sums, whole: _Sums) -> LeftOut:
    """Return the scalars and their noise for some ways ``kept (r, G)`` of leaving blocks out."""
    found, pooled = _distances(kept, strata), _distances(kept, whole)
    rows = np.where(found.usable, found.n.sum(axis=2), 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = rows / rows.sum(axis=1, keepdims=True)
        shared = np.einsum("ra,rad->rd", weights, found.direction)
        noise, common_noise = (weights * found.noise).sum(axis=1), (weights**2 * found.noise).sum(axis=1)
        u, v = (weights * found.square).sum(axis=1) - noise, (weights * found.variance).sum(axis=1)
        common = (shared**2).sum(axis=1) - common_noise
        each_noise = np.where(found.usable, found.noise / found.variance, np.nan)
        each = found.square / found.variance - each_noise
        pooled_noise = pooled.noise[:, 0] / pooled.variance[:, 0]
        values = {
            "stratified_delta_squared": u / v,
            "macro_delta_squared": each.mean(axis=1),
            "common_delta_squared": common / v,
            "pooled_delta_squared": pooled.square[:, 0] / pooled.variance[:, 0] - pooled_noise,
            "strata": each,
            "stratified_omega_squared": _omega_squared(found),
            "sharedness": common / u,
        }
        subtracted = {
            "stratified_delta_squared": noise / v,
            "macro_delta_squared": each_noise.mean(axis=1),
            "common_delta_squared": common_noise / v,
            "pooled_delta_squared": pooled_noise,
            "strata": each_noise,
        }
    return LeftOut(values, subtracted, pooled.square[:, 0] - pooled.noise[:, 0])


def _omega_squared(found: _Distances) -> np.ndarray:
    number, n = found.usable.sum(axis=1), found.n
    rows, inside = (np.where(found.usable, one.sum(axis=2), 0.0).sum(axis=1) for one in (n, found.within))
    between = np.where(found.usable, n.prod(axis=2) / np.maximum(n.sum(axis=2), 1) * found.square, 0.0).sum(axis=1)
    mean_within = inside / (rows - 2 * number)
    return (between - number * mean_within) / (between + inside + mean_within)


def _distance_intervals(estimates: dict[str, Any], found: LeftOut, design: Design) -> dict[str, Interval]:
    """Return the intervals of all squared distances, searched for at once."""
    columns = {name: found.values[name].reshape(len(found.values[name]), -1) for name in found.noise}
    values = np.concatenate(list(columns.values()), axis=1)
    noise = np.concatenate([np.atleast_1d(one[0]) for one in found.noise.values()])
    whole = np.concatenate([np.atleast_1d(np.asarray(estimates[name], dtype=np.float64)) for name in columns])
    parts = statistics.variance_parts(values[1:], design.n_blocks)
    bounds = np.stack(statistics.squared_length_interval(whole, noise, parts, design.n_blocks - 1))
    result, at = {}, 0
    for name, own in columns.items():
        error, low, high = bounds[:, at : at + own.shape[1]]
        at += own.shape[1]
        replicates = found.values[name][1:]
        if replicates.ndim == 1:
            result[name] = Interval(float(estimates[name]), float(error[0]), float(low[0]), float(high[0]), replicates)
        else:
            result[name] = Interval(estimates[name], error, low, high, replicates)
    return result
