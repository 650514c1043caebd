"""Whether one direction, learned on some rows, tells two classes apart on others.

n rows, d width, A strata.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from vlsae.aqi.accumulators import ClassMoments, moments_of
from vlsae.aqi.inputs import Labelled, chunks, groups, labelled, two_classes
from vlsae.aqi.scatter import ratio
from vlsae.errors import UserError


class CrossfitAUROC(NamedTuple):
    """AUROC along the direction of the other folds, by stratum ``(A,)``, each row's score ``(n,)``, and its error.

    ``stratum_error (A,)`` is the error of each stratum's.
    """

    auroc: float
    by_stratum: np.ndarray
    scores: np.ndarray
    standard_error: float
    stratum_error: np.ndarray


class ScoredAUROC(NamedTuple):
    """AUROC of given scores, its error, and both by stratum ``(A,)``."""

    auroc: float
    standard_error: float
    by_stratum: np.ndarray
    stratum_error: np.ndarray


def crossfit_auroc(x: Any, labels: Any, folds: Any, strata: Any = None, scale: Any = None) -> CrossfitAUROC:
    """Return the chance that a safe row (the lower label) scores above an unsafe one of its fold and stratum.

    A row's score is ``x · (mean safe - mean unsafe)`` of the other folds, over all strata; the sign is never flipped,
    so without effect values below ½ are usual. ``scale (d,)`` is what each coordinate is divided by first. Pairs weigh
    equally. The error is √2 times that of DeLong et al. (1988) with directions held fixed: results of folds share
    rows. Folds whose others lack a class score NaN and are left out.

    Raises ``ValueError`` for fewer than two folds; one class: NaN.
    """
    data = labelled(x, labels)
    rows = len(data.x)
    names, stratum = groups("strata", np.zeros(rows, dtype=np.int64) if strata is None else strata, rows)
    fold_names, fold = groups("folds", folds, rows)
    if len(fold_names) < 2:
        raise UserError(f"folds must name at least 2 folds; got {len(fold_names)}.")
    if not two_classes(data):
        nothing = np.full(len(names), np.nan)
        return CrossfitAUROC(float("nan"), nothing, np.full(rows, np.nan), float("nan"), nothing)
    centred, offset = _crossfit_scores(data, fold, len(fold_names), scale)
    found = scored_auroc(centred, data.codes == 0, fold, stratum)
    # The scale of the scores is that of the rows as they were read.
    return CrossfitAUROC(found.auroc, found.by_stratum, centred + offset, found.standard_error, found.stratum_error)


def scored_auroc(
    scores: np.ndarray, positive: np.ndarray, folds: Any, strata: Any, noise_share: float = 1.0
) -> ScoredAUROC:
    """Return the chance that a positive row scores above another of its fold and stratum, all arrays ``(n,)``.

    The error is DeLong's, times √(1 + ``noise_share``): 0 where scores were not learned, and else the share of a
    score's variance that is due to noise in what was learned on the other folds. Each two folds share that noise both
    ways, so without effect, where it is all, the variance of their mean doubles; it is what the directions found would
    reach on new rows that the interval then holds. A stratum shares only its own rows' part of it. A fold with a score
    of NaN is left out.
    """
    names, parts = _compared(folds, strata, len(scores))
    pairs, wins, noise = np.zeros(len(names)), np.zeros(len(names)), np.zeros(len(names))
    for a, members in parts:
        values, above = scores[members], positive[members]
        if np.isnan(values).any() or above.all() or not above.any():
            continue
        high, low = _placements(values, above)
        weight = float(len(high) * len(low))
        pairs[a] += weight
        wins[a] += weight * float(high.mean())
        noise[a] += weight**2 * _squared_error(high, low)
    total, own = float(pairs.sum()), _own_factor(strata, noise_share)
    with np.errstate(invalid="ignore", divide="ignore"):
        by_stratum, stratum_error = wins / pairs, np.sqrt(own * noise) / pairs
    error = float(np.sqrt((1 + noise_share) * noise.sum()) / total) if total else float("nan")
    return ScoredAUROC(ratio(float(wins.sum()), total), error, by_stratum, stratum_error)


def paired_auroc(
    first: np.ndarray, second: np.ndarray, positive: np.ndarray, folds: Any, strata: Any, noise_share: float = 1.0
) -> ScoredAUROC:
    """Return the difference of the AUROCs of two scores of the same rows, with its error: first less second.

    Rows are compared as in :func:`scored_auroc`; what both scores share does not widen the error (DeLong et al., 1988).
    """
    names, parts = _compared(folds, strata, len(first))
    pairs, wins, noise = np.zeros(len(names)), np.zeros(len(names)), np.zeros(len(names))
    for a, members in parts:
        above = positive[members]
        if np.isnan(first[members] + second[members]).any() or above.all() or not above.any():
            continue
        sides = zip(_placements(first[members], above), _placements(second[members], above))
        high, low = (one - other for one, other in sides)
        weight = float(len(high) * len(low))
        pairs[a] += weight
        wins[a] += weight * float(high.mean())
        noise[a] += weight**2 * _squared_error(high, low)
    total = float(pairs.sum())
    with np.errstate(invalid="ignore", divide="ignore"):
        by_stratum = wins / pairs
        stratum_error = np.sqrt(_own_factor(strata, noise_share) * noise) / pairs
    error = float(np.sqrt((1 + noise_share) * noise.sum()) / total) if total else float("nan")
    return ScoredAUROC(float(wins.sum() / total) if total else float("nan"), error, by_stratum, stratum_error)


def _compared(folds: Any, strata: Any, n: int) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """Return the strata's names, and each set of rows that are compared with each other, with its stratum."""
    (_, fold), (names, stratum) = groups("folds", folds, n), groups("strata", strata, n)
    order = np.lexsort((stratum, fold))
    ends = np.flatnonzero(np.diff(fold[order] * len(names) + stratum[order])) + 1
    return names, [(int(stratum[members[0]]), members) for members in np.split(order, ends) if len(members)]


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


def _placements(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each positive row the share of others below it, for each other the share of positives above it.

    Ties count half; the mean of either is AUROC.
    """
    high, low = scores[positive], scores[~positive]
    below, above = np.sort(low), np.sort(high)
    return _below(below, high), 1 - _below(above, low)


def _below(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the share of ``ordered`` below each value, ties half."""
    return (np.searchsorted(ordered, values) + np.searchsorted(ordered, values, side="right")) / (2 * len(ordered))


def _squared_error(high: np.ndarray, low: np.ndarray) -> float:
    if min(len(high), len(low)) < 2:  # one row shows no spread
        return float("nan")
    return float(high.var(ddof=1) / len(high) + low.var(ddof=1) / len(low))
