"""Whether one direction, learned on some rows, tells two classes apart on others.

n rows, d width, A strata.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vlsae.aqi.accumulators import ClassMoments, moments_of
from vlsae.aqi.inputs import Labelled, chunks, groups, labelled, two_classes
from vlsae.errors import UserError
from vlsae.statistics import placements, wilson_bounds


class CrossfitAUROC(NamedTuple):
    """AUROC along the direction of the other folds, by stratum ``(A,)``, each row's score ``(n,)``, and its error.

    ``stratum_error (A,)`` is the error of each stratum's; low and high are 95 % bounds.
    """

    auroc: float
    by_stratum: np.ndarray
    scores: np.ndarray
    standard_error: float
    stratum_error: np.ndarray
    low: float
    high: float
    stratum_low: np.ndarray
    stratum_high: np.ndarray


class ScoredAUROC(NamedTuple):
    """AUROC of given scores with its error and 95 % bounds, the same by stratum ``(A,)``, and the errors' freedom."""

    auroc: float
    standard_error: float
    by_stratum: np.ndarray
    stratum_error: np.ndarray
    low: float
    high: float
    stratum_low: np.ndarray
    stratum_high: np.ndarray
    freedom: float
    stratum_freedom: np.ndarray


def crossfitted(found: ScoredAUROC, scores: np.ndarray) -> CrossfitAUROC:
    """Return the AUROC of cross-fitted ``scores (n,)`` with them."""
    bounds = (found.low, found.high, found.stratum_low, found.stratum_high)
    return CrossfitAUROC(found.auroc, found.by_stratum, scores, found.standard_error, found.stratum_error, *bounds)


def crossfit_auroc(x: Any, labels: Any, folds: Any, strata: Any = None, scale: Any = None) -> CrossfitAUROC:
    """Return the chance that a safe row (the lower label) scores above an unsafe one of its fold and stratum.

    A row's score is ``x · (mean safe - mean unsafe)`` of the other folds, over all strata; the sign is never flipped,
    so without effect values below ½ are usual. ``scale (d,)`` is what each coordinate is divided by first. Pairs weigh
    equally. The error is √2 times that of DeLong et al. (1988) with directions held fixed: results of folds share
    rows, as if all of it were noise in directions and AUROC linear. Folds whose others lack a class score NaN and are
    left out.

    Raises ``ValueError`` for fewer than two folds; one class: NaN.
    """
    data = labelled(x, labels)
    rows = len(data.x)
    names, stratum = groups("strata", np.zeros(rows, dtype=np.int64) if strata is None else strata, rows)
    fold_names, fold = groups("folds", folds, rows)
    if len(fold_names) < 2:
        raise UserError(f"folds must name at least 2 folds; got {len(fold_names)}.")
    if not two_classes(data):
        one, each = float("nan"), np.full(len(names), np.nan)
        return CrossfitAUROC(one, each, np.full(rows, np.nan), one, each, one, one, each, each)
    centred, offset = _crossfit_scores(data, fold, len(fold_names), scale)
    _, sets = _compared(fold, stratum, rows)
    tally = _tallied(comparisons(centred, data.codes == 0, sets, unbiased=False), len(names))
    found = tally.result(1.0, _own_factor(stratum, 1.0))
    # The scale of the scores is that of the rows as they were read.
    return crossfitted(found, centred + offset)


class DirectionNoise(NamedTuple):
    """What the difference of two class means over all rows varies by: Σ its variance, μ its true value.

    ``trace`` is tr Σ², ``along`` is μ'Σμ; both ``inf`` where they are not known.
    """

    trace: float
    along: float

    def share(self, groups: int) -> float:
        """Return which share of the variance of a group's score is noise in its direction, 1 where nothing is known.

        The score is the group's difference of the means along that of the other groups, whose Σ is G/(G - 1) of all
        rows' and its own G times: G² tr Σ²/(G - 1) of G² tr Σ²/(G - 1) + G μ'Σμ.
        """
        noise = groups / (groups - 1) * self.trace
        return noise / (noise + self.along) if noise < np.inf and noise + self.along > 0 else 1.0


def scored_auroc(
    scores: np.ndarray, positive: np.ndarray, folds: Any, strata: Any, shared: float = 1.0, unbiased: bool = True
) -> ScoredAUROC:
    """Return the chance that a positive row scores above another of its fold and stratum, all arrays ``(n,)``.

    The error is DeLong's times √(1 + ρ), for each two folds share the noise in their directions both ways: ρ is what of
    AUROC's variance follows the mean scores, times the share of theirs that is such noise, ``shared``: 0 where scores
    were not learned, else of :class:`DirectionNoise`.
    The bounds then hold what the directions found would reach on new rows. A stratum shares only its own rows' part of
    the noise. DeLong's variance counts twice what a row of each class do only together, which ``unbiased`` takes off.
    Bounds are Wilson's, by t with Satterthwaite's (1946) degrees of freedom. A fold with a score of NaN is left out.
    """
    names, sets = _compared(folds, strata, len(scores))
    found = comparisons(scores, positive, sets, unbiased)
    share = shared * _following(found)
    return _tallied(found, len(names)).result(share, _own_factor(strata, share))


def paired_auroc(
    first: np.ndarray,
    second: np.ndarray,
    positive: np.ndarray,
    folds: Any,
    strata: Any,
    shared: Sequence[float] = (1.0, 1.0),
) -> ScoredAUROC:
    """Return the difference of the AUROCs of two scores of the same rows, with its error: first less second.

    Rows are compared as in :func:`scored_auroc`, and of both shares ρ the larger counts; what both scores
    share does not widen the error (DeLong et al., 1988). Bounds are t errors away.
    """
    names, sets = _compared(folds, strata, len(first))
    known = ~np.isnan(first + second)
    one, other = (
        comparisons(np.where(known, scores, np.nan), positive, sets, unbiased=False) for scores in (first, second)
    )
    apart = [
        own._replace(placements=(own.placements[0] - its.placements[0], own.placements[1] - its.placements[1]))
        for own, its in zip(one, other)
    ]
    share = max(own * _following(found) for found, own in zip((one, other), shared))
    return _tallied(apart, len(names)).result(share, _own_factor(strata, share), difference=True)


class Comparison(NamedTuple):
    """Rows of a fold and stratum, positive and other: scores, placements, and what DeLong's variance counts twice.

    A positive row's placement is the share of others below it, another's that of positives above it.
    """

    fold: int
    stratum: int
    scores: tuple[np.ndarray, np.ndarray]
    placements: tuple[np.ndarray, np.ndarray]
    twice: float

    @property
    def pairs(self) -> int:
        """How many pairs are compared."""
        return len(self.scores[0]) * len(self.scores[1])

    @property
    def error(self) -> float:
        """DeLong's variance of AUROC, less what it counts twice; NaN where a class has one row."""
        whole = _difference_error(*self.placements)
        # What is counted twice is at most half.
        return max(whole - self.twice, whole / 2)


def comparisons(
    scores: np.ndarray, positive: np.ndarray, sets: Sequence[tuple[int, int, np.ndarray]], unbiased: bool = True
) -> list[Comparison]:
    """Return the comparisons of sets of rows (fold, stratum, places); none where a score is NaN or a class has none."""
    found = []
    for fold, stratum, members in sets:
        values, above = scores[members], positive[members]
        if np.isnan(values).any() or above.all() or not above.any():
            continue
        parts = values[above], values[~above]
        placed = placements(*parts)
        twice = _pairs_alone(*parts, *placed) if unbiased else 0.0
        found.append(Comparison(fold, stratum, parts, placed, twice))
    return found


class Tally:
    """What comparisons of rows add up to, by stratum ``(A,)``: pairs, wins, the error's parts, rows."""

    def __init__(self, strata: int) -> None:
        self._sums = np.zeros((6, strata))

    def add(self, one: Comparison) -> None:
        """Add the rows of a set."""
        high, low = one.placements
        weight, error = float(one.pairs), one.error
        square = float("nan")  # one row shows no spread
        if min(len(high), len(low)) > 1:
            square = sum((float(own.var(ddof=1)) / len(own)) ** 2 / (len(own) - 1) for own in (high, low))
        self._sums[:, one.stratum] += (
            weight,
            weight * float(high.mean()),
            weight**2 * error,
            weight**4 * square,
            len(high) + len(low) - 2,
            len(high) + len(low),
        )

    def result(self, share: float, own: np.ndarray, difference: bool = False) -> ScoredAUROC:
        """Return AUROC over all strata and in each; ``own (A,)`` is what each one's variance is multiplied by."""
        whole = self._sums.sum(axis=1, keepdims=True)
        value, error, low, high, freedom = (float(one[0]) for one in _summed(whole, np.array([1 + share]), difference))
        by_stratum, stratum_error, lower, upper, freedoms = _summed(self._sums, own, difference)
        return ScoredAUROC(value, error, by_stratum, stratum_error, low, high, lower, upper, freedom, freedoms)


def _summed(sums: np.ndarray, factor: np.ndarray, difference: bool) -> tuple[np.ndarray, ...]:
    """Return values, errors, bounds and degrees of freedom ``(A,)`` of sums ``(6, A)``."""
    from scipy import stats

    pairs, wins, noise, square, freedom, rows = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        value, error = wins / pairs, np.sqrt(factor * noise) / pairs
        freedom = np.where(noise > 0, noise**2 / square, np.maximum(freedom, 1))
        if difference:
            half = stats.t.ppf(0.975, freedom) * error
            return value, error, value - half, value + half, freedom
        low, high = (np.atleast_1d(one) for one in wilson_bounds(value, error, freedom, rows, rows))
    return value, error, low, high, freedom


def _tallied(found: Sequence[Comparison], strata: int) -> Tally:
    tally = Tally(strata)
    for one in found:
        tally.add(one)
    return tally


def _following(found: Sequence[Comparison]) -> float:
    """Return the share of AUROC's variance that follows the differences of the mean scores, 1 where it is not known.

    That of placements which is linear in the scores: by Stein's lemma their slope is how far AUROC moves with a shift.
    """
    of_scores = of_placements = of_both = whole = left = 0.0
    for one in found:
        for scores, placed, rises in zip(one.scores, one.placements, (1, -1)):
            score, placement = scores - scores.mean(), rises * (placed - placed.mean())
            of_scores += float(score @ score)
            of_placements += float(placement @ placement)
            of_both += float(score @ placement)
        whole += one.pairs**2 * _difference_error(*one.placements)
        left += one.pairs**2 * one.error
    if not of_scores * of_placements * left > 0:
        return 1.0
    return min(of_both**2 / (of_scores * of_placements) * whole / left, 1.0)


def _compared(folds: Any, strata: Any, n: int) -> tuple[np.ndarray, list[tuple[int, int, np.ndarray]]]:
    """Return the strata's names, and each set of rows that are compared with each other, with its fold and stratum."""
    (_, fold), (names, stratum) = groups("folds", folds, n), groups("strata", strata, n)
    order = np.lexsort((stratum, fold))
    ends = np.flatnonzero(np.diff(fold[order] * len(names) + stratum[order])) + 1
    sets = [members for members in np.split(order, ends) if len(members)]
    return names, [(int(fold[one[0]]), int(stratum[one[0]]), one) for one in sets]


def _own_factor(strata: Any, noise_share: float) -> np.ndarray:
    """Return what each stratum's DeLong variance is multiplied by, ``(A,)``.

    Of the noise in a direction it shares only what its own rows brought into it.
    """
    counts = np.unique(np.asarray(strata), return_counts=True)[1]
    return 1 + noise_share * counts / counts.sum()


def directions(moments: ClassMoments, groups: int, scale: np.ndarray | None = None) -> np.ndarray:
    """Return for each group the class means' difference over all other groups, ``(groups, d)``.

    ``moments`` hold the rows of group g and class k (0 safe, 1 unsafe) as class ``2g + k``. Where the others lack a
    class the direction is NaN. ``scale (d,)`` is what rows are divided by: rows and direction both, and what does not
    vary (inf) tells nothing.
    """
    found = np.full((groups, moments.width), np.nan)
    for number in range(groups):
        target = np.tile([0, 1], groups)
        target[2 * number : 2 * number + 2] = -1
        others = moments.regroup(target, 2)
        if (others.count > 0).all():
            found[number] = others.shifted_mean[0] - others.shifted_mean[1]
    return found if scale is None else found / scale**2


def scores_along(x: np.ndarray, ways: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Return the scores ``(n, w)`` of rows ``x (n, d)`` less ``shift (d,)`` along directions ``(w, d)``."""
    scores = np.empty((len(x), len(ways)))
    for part in chunks(len(x), x.shape[1]):
        scores[part] = (x[part] - shift) @ ways.T
    return scores


def _crossfit_scores(
    data: Labelled, fold: np.ndarray, folds: int, scale: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return each row's score less that of a common offset, and that offset's score, both ``(n,)``."""
    moments = moments_of(data.x, fold * 2 + data.codes, 2 * folds)
    shift = moments.shift if moments.shift is not None else np.zeros(data.x.shape[1])
    ways = directions(moments, folds, scale)
    scores = scores_along(data.x, ways, shift)[np.arange(len(fold)), fold]
    return scores, np.nan_to_num(ways @ shift)[fold]


def _pairs_alone(above: np.ndarray, below: np.ndarray, high: np.ndarray, low: np.ndarray) -> float:
    """Return the part of AUROC's variance that a row of each class have only together: DeLong's holds it twice.

    A two-way analysis of variance of the pairs of m and n rows, ``above (m,)`` and ``below (n,)`` with placements
    ``high`` and ``low``, whose residual mean square is that part times mn. A tie counts ½, so squared ¼.
    """
    m, n = len(high), len(low)
    if min(m, n) < 2:
        return 0.0
    ordered = np.sort(below)
    ties = int((np.searchsorted(ordered, above, side="right") - np.searchsorted(ordered, above, side="left")).sum())
    square = n * float(high.sum()) - ties / 4
    residual = square - n * float((high**2).sum()) - m * float((low**2).sum()) + m * n * float(high.mean()) ** 2
    return max(residual, 0.0) / ((m - 1) * (n - 1) * m * n)


def _difference_error(high: np.ndarray, low: np.ndarray) -> float:
    """Return the squared error of the difference of two means; NaN where one is of a single value."""
    if min(len(high), len(low)) < 2:
        return float("nan")
    return float(high.var(ddof=1) / len(high) + low.var(ddof=1) / len(low))
