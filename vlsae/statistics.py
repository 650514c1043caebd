"""Intervals and tests: bootstrap, jackknife over groups and pairs of them, permutation, paired bootstrap, McNemar.

Everything computes in float64 and is seeded. n rows, G blocks, B resamples, q columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from vlsae.errors import UserError

Statistic = Callable[[np.ndarray], Any]

#: Largest number of weights held at once, in elements.
WEIGHTS_AT_ONCE = 1 << 22

#: Steps of a search by halves: bounds are known to 1e-12 of how far they could lie.
HALVINGS = 40


class Interval(NamedTuple):
    """An estimate with its error and confidence interval; ``replicates (B, …)`` are what these were made from."""

    estimate: Any
    standard_error: Any
    low: Any
    high: Any
    replicates: np.ndarray


class PairedTest(NamedTuple):
    """The mean of ``a - b`` with its interval, and the two-sided p-value of no difference."""

    difference: float
    low: float
    high: float
    p_value: float


def bootstrap(statistic: Statistic, n: int, *, resamples: int = 1000, level: float = 0.95, seed: int = 0) -> Interval:
    """Return the percentile interval of ``statistic(rows)`` over resampled row numbers (Efron, 1979).

    ``statistic`` takes row numbers ``(n,)`` and gives a float or an array.
    """
    _check_level(level)
    n, resamples = _at_least("n", n, 1), _at_least("resamples", resamples, 2)
    generator = np.random.default_rng(seed)
    estimate = np.asarray(statistic(np.arange(n)), dtype=np.float64)
    draws = [np.asarray(statistic(generator.integers(0, n, n)), dtype=np.float64) for _ in range(resamples)]
    return interval_of(estimate, np.stack(draws), level)


def bootstrap_sums(
    statistic: Callable[[np.ndarray], Any],
    columns: np.ndarray,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the percentile interval of a statistic that depends on the rows only through sums of columns.

    ``columns (n, q)``; ``statistic`` maps weighted means ``(…, q)`` to ``(…)`` or ``(…, anything)``. Much faster than
    :func:`bootstrap`, with the same result: resampling rows is weighting them by multinomial counts.
    """
    columns = np.asarray(columns, dtype=np.float64)
    n = _at_least("rows of columns", len(columns), 1)
    means = np.concatenate([w @ columns for w in multinomial_weights(n, resamples, seed)]) / n
    return interval_of(np.asarray(statistic(columns.mean(axis=0))), np.asarray(statistic(means)), level)


def multinomial_weights(n: int, resamples: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Yield blocks ``(b, n)`` of bootstrap weights: how often each row was drawn; ``resamples`` rows in all.

    The same ``n``, ``resamples`` and ``seed`` give the same weights.
    """
    generator = np.random.default_rng(seed)
    block = max(1, WEIGHTS_AT_ONCE // n)
    for first in range(0, resamples, block):
        size = min(block, resamples - first)
        drawn = generator.integers(0, n, (size, n)) + np.arange(size)[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


class ResampledMeans:
    """Means of columns over n rows that come in chunks, and their means in every bootstrap resample.

    After all rows were added, ``estimate (q,)`` and ``replicates (B, q)`` are the means; memory does not grow with
    rows times columns.
    """

    def __init__(self, n: int, resamples: int = 1000, seed: int = 0) -> None:
        self.n = _at_least("n", n, 1)
        blocks = [w.astype(np.uint8) for w in multinomial_weights(n, _at_least("resamples", resamples, 2), seed)]
        self._weights = np.concatenate(blocks)
        self._sum: Any = 0.0
        self._sums: Any = 0.0

    def add(self, rows: slice, columns: np.ndarray) -> None:
        """Add the columns ``(rows, q)`` of some rows, each row once."""
        values = np.asarray(columns, dtype=np.float64)
        self._sum = self._sum + values.sum(axis=0)
        self._sums = self._sums + self._weights[:, rows].astype(np.float64) @ values

    @property
    def estimate(self) -> np.ndarray:
        """The means ``(q,)`` over all rows."""
        return np.asarray(self._sum / self.n)

    @property
    def replicates(self) -> np.ndarray:
        """The means ``(B, q)`` of each resample."""
        return np.asarray(self._sums / self.n)


def interval_of(estimate: Any, replicates: np.ndarray, level: float = 0.95) -> Interval:
    """Return the percentile interval of bootstrap ``replicates (B, …)``; replicates that are NaN are left out."""
    _check_level(level)
    tail = (1 - level) / 2
    # A resample may leave a ratio undefined; it says nothing about the spread of the others.
    defined = np.where(np.isfinite(replicates), replicates, np.nan)
    known = np.isfinite(defined).sum(axis=0)
    # What no resample defines stays undefined, without numpy's warnings about it.
    filled = np.where(known > 0, defined, 0.0)
    low, high = np.where(known > 0, np.nanquantile(filled, [tail, 1 - tail], axis=0), np.nan)
    error = np.full(defined.shape[1:], np.nan)
    if len(defined) > 1:
        error = np.where(known > 1, np.nanstd(np.where(known > 1, defined, 0.0), axis=0, ddof=1), np.nan)
    return Interval(_plain(estimate), _plain(error), _plain(low), _plain(high), replicates)


def share_interval(found: Interval, groups: int, rows: Any, level: float = 0.95, shared: Any = 0.0) -> Interval:
    """Return ``found`` with Wilson's (1927) interval for shares of 0…1, such as accuracies, in place of its ends.

    The error of the estimate says how many independent draws its ``rows`` are worth, p(1 - p)/error², at most as many
    as they are; t(groups - 1) stands for the normal quantile (Korn and Graubard, 1998). Near 0 and 1, and where rows
    are few, it covers better than quantiles of resamples, which have no ends beyond what was seen. ``shared`` is what
    dependence that resampling does not see adds to the variance, as a share of it.
    """
    error = np.asarray(found.standard_error) * np.sqrt(1 + np.asarray(shared))
    low, high = wilson_bounds(found.estimate, error, max(1, groups - 1), rows, groups, level)
    return found._replace(standard_error=_plain(error), low=low, high=high)


def explained_interval(left: Any, whole: Any, level: float = 0.95, shared: float = 0.0) -> Interval:
    """Return R² = 1 - Σ left / Σ whole of sums of squares by group ``(G,)``, its interval symmetric on log(1 - R²).

    The log of a ratio of sums of squares is nearer to normal than R². Its error is the jackknife's over groups, widened
    by ``shared`` as in :func:`share_interval`; t has Satterthwaite's (1946) degrees of freedom, which are few where few
    groups make up the error. Where nothing is left unexplained there is no width; NaN for fewer than two groups.
    """
    from scipy import stats

    _check_level(level)
    left, whole = np.asarray(left, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    groups, unknown = len(left), float("nan")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = float(left.sum() / whole.sum())
        without = (left.sum() - left) / (whole.sum() - whole)
        if groups < 2:
            return Interval(1 - ratio, unknown, unknown, unknown, 1 - without)
        moved = np.log(without) - np.log(without).mean()
        error = float(np.sqrt((groups - 1) / groups * (moved**2).sum() * (1 + shared)))
        if ratio == 0 or error == 0:
            return Interval(1 - ratio, 0.0, 1 - ratio, 1 - ratio, 1 - without)
        kurtosis = (moved**4).mean() / (moved**2).mean() ** 2
        # Twice the squared mean of a variance over its own variance; of normal parts G - 1.
        freedom = np.clip(2 * groups / (kurtosis - (groups - 3) / (groups - 1)), 1, groups - 1)
        wide = float(np.exp(stats.t.ppf((1 + level) / 2, freedom) * error))
    return Interval(1 - ratio, ratio * error, 1 - ratio * wide, 1 - ratio / wide, 1 - without)


def wilson_bounds(
    share: Any, error: Any, freedom: Any, rows: Any, certain: Any, level: float = 0.95
) -> tuple[Any, Any]:
    """Return Wilson's bounds of shares of 0…1 with a known ``error``, by t with ``freedom``.

    The draws that the error is worth are at most ``rows``; ``certain`` where there is no error.
    """
    from scipy import stats

    _check_level(level)
    p = np.clip(np.asarray(share, dtype=np.float64), 0.0, 1.0)
    error = np.asarray(error, dtype=np.float64)
    variance = p * (1 - p)
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = np.where(error > 0, np.minimum(variance / error**2, rows), certain)
    # Where all are right the error says nothing; an estimate at its end and not without error counts as one draw.
    draws = np.where(np.isfinite(error), np.maximum(draws, 1.0), np.nan)
    t = stats.t.ppf((1 + level) / 2, freedom)
    middle = (p + t**2 / (2 * draws)) / (1 + t**2 / draws)
    half = t / (1 + t**2 / draws) * np.sqrt(variance / draws + t**2 / (4 * draws**2))
    low, high = (np.clip(end, 0.0, 1.0) for end in (middle - half, middle + half))
    return _plain(low), _plain(high)


def t_interval(estimate: Any, error: Any, freedom: int, level: float = 0.95) -> Interval:
    """Return ``estimate ± t(freedom) · error``."""
    from scipy import stats

    _check_level(level)
    half = stats.t.ppf((1 + level) / 2, freedom) * np.asarray(error, dtype=np.float64)
    estimate = np.asarray(estimate, dtype=np.float64)
    return Interval(_plain(estimate), _plain(error), _plain(estimate - half), _plain(estimate + half), np.empty(0))


def jackknife(statistic: Statistic, blocks: Any, level: float = 0.95) -> Interval:
    """Return the delete-a-group jackknife interval, ``estimate ± t(G - 1) · error``.

    ``blocks (n,)`` numbers each row's block; ``statistic`` takes kept row numbers and gives a float or an array;
    ``replicates (G, …)`` are in ascending order of block. The error is √((G - 1)/G · Σ(θ_g - mean)²).
    Raises ``ValueError`` for fewer than two blocks.
    """
    _check_level(level)
    numbers = np.asarray(blocks)
    if numbers.ndim != 1:
        raise UserError(f"blocks must be one number a row, shape (n,); got shape {numbers.shape}.")
    if numbers.dtype.kind not in "iub":
        raise UserError(f"blocks must be integers; got {numbers.dtype}.")
    names = np.unique(numbers)
    if len(names) < 2:
        raise UserError(f"blocks must name at least 2 blocks; got {len(names)}.")
    rows = np.arange(len(numbers))
    estimate = np.asarray(statistic(rows), dtype=np.float64)
    left_out = np.stack([np.asarray(statistic(rows[numbers != name]), dtype=np.float64) for name in names])
    return jackknife_interval(estimate, left_out, level)


def jackknife_interval(estimate: Any, left_out: Any, level: float = 0.95) -> Interval:
    """Return the jackknife interval of an estimate ``(…)`` from its values without each group ``(G, …)``."""
    estimate, left_out = np.asarray(estimate, dtype=np.float64), np.asarray(left_out, dtype=np.float64)
    groups = len(left_out)
    error = np.sqrt((groups - 1) / groups * ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0))
    return t_interval(estimate, error, groups - 1, level)._replace(replicates=left_out)


def groups_kept(groups: int) -> np.ndarray:
    """Return which of G groups stay, ``(G + G(G - 1)/2, G)`` of 0 and 1: without each one, then without each two."""
    first, second = np.triu_indices(_at_least("groups", groups, 3), 1)
    kept = np.ones((groups + len(first), groups))
    kept[np.arange(groups), np.arange(groups)] = 0
    kept[groups + np.arange(len(first)), first] = 0
    kept[groups + np.arange(len(first)), second] = 0
    return kept


class VarianceParts(NamedTuple):
    """The variance of an estimate: what groups do each by themselves, and what each two do together.

    ``single`` is free of bias, so by chance below zero; ``doubt`` is its standard deviation. ``third`` is the third
    cumulant of what groups do together: how skewed that is.
    """

    single: Any
    paired: Any
    third: Any
    doubt: Any

    @property
    def variance(self) -> Any:
        """The variance, both parts together."""
        return np.maximum(self.single, 0.0) + self.paired


def variance_parts(left_out: Any, groups: int) -> VarianceParts:
    """Return the parts ``(…)`` of the variance from values ``(R, …)`` in the order of :func:`groups_kept`.

    The jackknife counts twice what two groups do only together (Efron and Stein, 1981), which is all of the variance
    of a squared mean where the mean is zero: values without two groups tell that part, and it is taken off. Its share
    ((G - 1)/G)² is what remains when scatter within groups is known well from the rows. Products of three pairs of
    three groups tell the third cumulant.
    """
    left_out = np.asarray(left_out, dtype=np.float64)
    first, second = np.triu_indices(groups, 1)
    ones, twos = left_out[:groups], left_out[groups:]
    with np.errstate(invalid="ignore"):
        whole = (groups - 1) / groups * ((ones - ones.mean(axis=0)) ** 2).sum(axis=0)
        together = (groups - 2) * twos - (groups - 1) * (ones[first] + ones[second])
        together = together - together.mean(axis=0)
        paired = (together**2).sum(axis=0) / (groups * (groups - 1)) * ((groups - 1) / groups) ** 2
        table = np.zeros((*together.shape[1:], groups, groups))
        table[..., first, second] = np.moveaxis(together, 0, -1) * (groups - 2) / groups**2
        table += np.swapaxes(table, -1, -2)
        # Of all triples of groups, as many as are of three groups that differ.
        third = ((table @ table) * table).sum(axis=(-2, -1)) * groups**2 / ((groups - 1) * (groups - 2))
    return VarianceParts(whole - 2 * paired, paired, np.maximum(third, 0.0), np.sqrt(2 / (groups - 1)) * whole)


def pair_jackknife_interval(estimate: Any, left_out: Any, groups: int, level: float = 0.95) -> Interval:
    """Return ``estimate ± t(G - 1) · error`` with the error of both parts of :func:`variance_parts`."""
    estimate, left_out = np.asarray(estimate, dtype=np.float64), np.asarray(left_out, dtype=np.float64)
    error = np.sqrt(variance_parts(left_out, groups).variance)
    return t_interval(estimate, error, groups - 1, level)._replace(replicates=left_out)


def squared_length_interval(
    estimate: Any, noise: Any, parts: VarianceParts, freedom: int, level: float = 0.95, shared: float = 1.0
) -> tuple[Any, Any, Any]:
    """Return error, low and high of a squared length θ: all θ from which the estimate is not too far.

    ``noise`` was subtracted to make the estimate unbiased. The estimate's variance at θ is ``paired`` and what μ of
    that length adds, 4 μ'Σμ: nothing at θ = 0, that of a direction of pure noise near it, and farther off ``single``,
    less what of it follows the estimate's own error (``third`` over ``paired`` of that error, of which ``shared`` went
    into both). How far is too far is told by Pearson's third type of distribution with the estimate's skewness
    (quantile by Wilson and Hilferty, 1931, of t with ``freedom``). Low and high are not symmetric and not clipped.
    """
    from scipy import stats

    _check_level(level)
    estimate, noise = np.asarray(estimate, dtype=np.float64), np.asarray(noise, dtype=np.float64)
    single, paired, third, doubt = (np.asarray(part, dtype=np.float64) for part in parts)
    t = stats.t.ppf((1 + level) / 2, freedom)
    side = np.array([1.0, -1.0]).reshape(2, *(1,) * estimate.ndim)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        several = paired > 0
        slope, cubed = np.where(several, 2 * paired / noise, 0.0), np.where(several, third / paired, 0.0)
        follows = shared * cubed
        # The largest eigenvalue of Σ is at most the root of tr Σ²: 4 μ'Σμ is at most this times θ.
        most = 2 * np.sqrt(2 * paired)

        def outside(theta: np.ndarray) -> np.ndarray:
            above = np.maximum(theta, 0.0)
            known = np.where(above > 0, 1 / (1 + (doubt / (most * above)) ** 2), 0.0)
            known = np.where(several, known, 1.0)
            own = np.maximum((1 - known) * slope * above + known * (single - follows * (estimate - theta)), 0.0)
            variance = paired + own
            skewness = np.where(variance > 0, cubed * (paired + 1.5 * own) / variance**1.5, 0.0)
            return side * (estimate - theta) > np.abs(_skewed_quantile(side * t, skewness)) * np.sqrt(variance)

        step = cubed + slope
        far = 4 * t**2 * step + 4 * t * np.sqrt(parts.variance + step * np.abs(estimate))
        inner, outer = estimate + 0 * side, estimate - side * far
        for _ in range(HALVINGS):
            middle = (inner + outer) / 2
            beyond = outside(middle)
            inner, outer = np.where(beyond, inner, middle), np.where(beyond, middle, outer)
    low, high = (inner + outer) / 2
    return _plain(np.sqrt(parts.variance)), _plain(low), _plain(high)


def _skewed_quantile(z: Any, skewness: Any) -> Any:
    """Return the quantile of a standardised Pearson III distribution where the normal one is ``z``."""
    # No sum of squares of normal variables is more skewed than a single one.
    g = np.clip(skewness, 1e-6, np.sqrt(8))
    return 2 / g * (np.maximum(1 + g * z / 6 - g**2 / 36, 0.0) ** 3 - 1)


def placements(high: np.ndarray, low: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each of ``high (m,)`` the share of ``low (n,)`` below it, for each of low that of high above it.

    Ties count half. The mean of either is AUROC, and their spread its variance (DeLong et al., 1988).
    """
    below, to = (np.searchsorted(np.sort(low), high, side=side) for side in ("left", "right"))
    above, up_to = (np.searchsorted(np.sort(high), low, side=side) for side in ("left", "right"))
    return (below + to) / (2 * len(low)), 1 - (above + up_to) / (2 * len(high))


def permutation_p_value(observed: float, null: Any) -> float:
    """Return the one-sided p-value ``(1 + #{null ≥ observed}) / (1 + B)`` of null values ``(B,)``."""
    null = np.asarray(null, dtype=np.float64)
    if null.ndim != 1 or len(null) == 0:
        raise UserError(f"null must hold at least one value, shape (B,); got shape {null.shape}.")
    if np.isnan(observed) or np.isnan(null).any():
        return float("nan")
    return float((1 + (null >= observed).sum()) / (1 + len(null)))


def paired_bootstrap(a: Any, b: Any, *, resamples: int = 1000, level: float = 0.95, seed: int = 0) -> PairedTest:
    """Return the mean difference of two scores of the same n items and whether it could be none.

    ``a``, ``b`` ``(n,)``. The p-value is two-sided: twice the smaller share of resampled differences on either side
    of zero (those at zero count for both), each share with one added above and below.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or len(a) == 0:
        raise UserError(f"a and b must be scores of the same items, shape (n,); got shapes {a.shape} and {b.shape}.")
    result = bootstrap_sums(
        lambda m: m[..., 0], (a - b)[:, None], resamples=_at_least("resamples", resamples, 2), level=level, seed=seed
    )
    draws = result.replicates
    smaller = min((draws <= 0).sum(), (draws >= 0).sum())
    p_value = min(1.0, 2 * (1 + smaller) / (1 + len(draws)))
    return PairedTest(float(result.estimate), float(result.low), float(result.high), float(p_value))


class McNemar(NamedTuple):
    """Items that only ``a`` and only ``b`` got right, and the two-sided p-value of equal shares."""

    only_a: int
    only_b: int
    p_value: float


def mcnemar(a: Any, b: Any) -> McNemar:
    """Return McNemar's exact test of two sets of right (1) and wrong (0) answers ``(n,)`` to the same items (1947).

    Only items that one of the two got right count; under no difference each is as likely to be either's. Raises
    ``ValueError`` for answers that are neither right nor wrong.
    """
    from scipy import stats

    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.ndim != 1 or len(a) == 0:
        raise UserError(f"a and b must be answers to the same items, shape (n,); got shapes {a.shape} and {b.shape}.")
    if not np.isin(a, (0, 1)).all() or not np.isin(b, (0, 1)).all():
        raise UserError("a and b must hold 1 for right and 0 for wrong.")
    only_a, only_b = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    smaller = min(only_a, only_b)
    p_value = min(1.0, 2 * float(stats.binom.cdf(smaller, only_a + only_b, 0.5)))
    return McNemar(only_a, only_b, p_value)


def _plain(value: Any) -> Any:
    array = np.asarray(value, dtype=np.float64)
    return float(array) if array.ndim == 0 else array


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise UserError(f"level must lie between 0 and 1; got {level!r}.")


def _at_least(name: str, value: int, smallest: int) -> int:
    if int(value) < smallest:
        raise UserError(f"{name} must be at least {smallest}; got {value!r}.")
    return int(value)
