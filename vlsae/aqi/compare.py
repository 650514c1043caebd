"""Whether two models, or one before and after a change, separate the same rows differently.

n rows, G blocks, d width. Rows, labels and blocks are the same for both; widths may differ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from vlsae import statistics
from vlsae.aqi.accumulators import ClassMoments, moments_of
from vlsae.aqi.inputs import groups, labelled, two_classes
from vlsae.errors import UserError
from vlsae.statistics import Interval


class PairedComparison(NamedTuple):
    """Both estimates, ``difference`` a - b, ``log_ratio`` log(b / a), and the two-sided p-value of no difference.

    ``log_ratio`` is to be believed only where ``ratio_defined``: both intervals lie above zero.
    """

    a: Interval
    b: Interval
    difference: Interval
    log_ratio: Interval
    p_value: float
    ratio_defined: bool


class DirectionCosine(NamedTuple):
    """Cosine of the directions between the classes of two models of one width: as it is, and free of sampling noise."""

    raw: float
    debiased: float


class Movement(NamedTuple):
    """How far an attack moves the rows of a class towards the safe ones, in units of the gap between the classes.

    0 is no movement, 1 puts unsafe rows where safe ones lay; ``net`` is unsafe less safe: the wording of the attack
    moves both.
    """

    unsafe: float
    safe: float
    net: float


def paired(
    a: Callable[[np.ndarray], float], b: Callable[[np.ndarray], float], blocks: Any, level: float = 0.95
) -> PairedComparison:
    """Return the delete-a-block jackknife of two statistics of the same rows and of their difference.

    ``a``, ``b`` take kept row numbers; ``blocks (n,)``. Differences are taken block by block: what both models share
    does not widen the interval.
    """

    return paired_intervals(statistics.jackknife(a, blocks, level), statistics.jackknife(b, blocks, level), level)


def paired_intervals(a: Interval, b: Interval, level: float = 0.95) -> PairedComparison:
    """Return the comparison of two numbers whose jackknife left out the same blocks."""
    first, second = (np.append(np.asarray(one.replicates, dtype=np.float64), one.estimate) for one in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = np.where((first > 0) & (second > 0), np.log(second / first), np.nan)
    apart = first - second
    difference = statistics.jackknife_interval(apart[-1], apart[:-1], level)
    log_ratio = statistics.jackknife_interval(ratios[-1], ratios[:-1], level)
    defined = a.low > 0 and b.low > 0
    return PairedComparison(a, b, difference, log_ratio, p_value(difference, len(apart) - 2), defined)


def paired_blocks(a: Interval, b: Interval, groups: int) -> PairedComparison:
    """Return the comparison of two numbers whose replicates left out the same blocks, one and two at a time.

    ``replicates`` are in the order of :func:`vlsae.statistics.groups_kept`.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        estimates = np.array([a.estimate, b.estimate])
        replicates = np.stack([a.replicates, b.replicates])
        ratios, ratio = (
            np.where((one > 0).all(axis=0), np.log(one[1] / one[0]), np.nan) for one in (replicates, estimates)
        )
    difference = statistics.pair_jackknife_interval(a.estimate - b.estimate, a.replicates - b.replicates, groups)
    log_ratio = statistics.pair_jackknife_interval(ratio, ratios, groups)
    defined = bool(a.low > 0 and b.low > 0)
    return PairedComparison(a, b, difference, log_ratio, p_value(difference, groups - 1), defined)


def direction_cosine(x_a: Any, x_b: Any, labels: Any, halves: Any) -> DirectionCosine:
    """Return the cosine of the mean differences of two classes in ``x_a``, ``x_b`` ``(n, d)``.

    The debiased one is ½(⟨Δ_a', Δ_b''⟩ + ⟨Δ_a'', Δ_b'⟩) / √(U_a U_b) over two ``halves (n,)`` of the rows, which share
    no noise; it may exceed 1 and is NaN unless both U are positive.
    """
    sides = [labelled(x, labels) for x in (x_a, x_b)]
    if sides[0].x.shape != sides[1].x.shape:
        raise UserError(f"x_a {sides[0].x.shape} and x_b {sides[1].x.shape} must have the same rows and width.")
    names, half = groups("halves", halves, len(sides[0].x))
    if len(names) != 2:
        raise UserError(f"halves must name 2 halves; got {len(names)}.")
    if not two_classes(sides[0]):
        return DirectionCosine(float("nan"), float("nan"))
    cells = [moments_of(side.x, half * 2 + side.codes, 4) for side in sides]
    wholes = [moments.regroup([0, 1, 0, 1], 2) for moments in cells]
    first, second = (_direction(moments) for moments in wholes)
    lengths = np.linalg.norm(first) * np.linalg.norm(second)
    raw = float(first @ second / lengths) if lengths > 0 else float("nan")
    if any((moments.count == 0).any() for moments in cells):
        return DirectionCosine(raw, float("nan"))
    u = [float(moments.scatter().u[0, 1]) for moments in wholes]
    parts = [
        [_direction(moments.regroup(target, 2)) for target in ([0, 1, -1, -1], [-1, -1, 0, 1])] for moments in cells
    ]
    crossed = (parts[0][0] @ parts[1][1] + parts[0][1] @ parts[1][0]) / 2
    return DirectionCosine(raw, float(crossed / np.sqrt(u[0] * u[1])) if min(u) > 0 else float("nan"))


def attack_movement(x_plain: Any, x_attacked: Any, labels: Any, folds: Any) -> Movement:
    """Return how far an attack moves rows along the direction from unsafe to safe, learned on the other folds.

    ``x_plain``, ``x_attacked`` ``(n, d)`` are the same prompts (0 safe, 1 unsafe) without and with the attack; both
    classes are attacked. Direction and gap come from plain rows, the gap from the held-out fold; folds weigh by rows.
    """
    plain, attacked = labelled(x_plain, labels), labelled(x_attacked, labels)
    if plain.x.shape != attacked.x.shape:
        raise UserError(f"x_plain {plain.x.shape} and x_attacked {attacked.x.shape} must have the same rows and width.")
    names, fold = groups("folds", folds, len(plain.x))
    if len(names) < 2:
        raise UserError(f"folds must name at least 2 folds; got {len(names)}.")
    if not two_classes(plain):
        return Movement(float("nan"), float("nan"), float("nan"))
    before = moments_of(plain.x, fold * 2 + plain.codes, 2 * len(names))
    after = moments_of(attacked.x, fold * 2 + plain.codes, 2 * len(names))
    if (before.count == 0).any():
        return Movement(float("nan"), float("nan"), float("nan"))
    moved, total = np.zeros(2), 0
    for number in range(len(names)):
        target = np.tile([0, 1], len(names))
        target[2 * number : 2 * number + 2] = -1
        direction = _direction(before.regroup(target, 2))
        held = slice(2 * number, 2 * number + 2)
        gap = float((before.shifted_mean[held][0] - before.shifted_mean[held][1]) @ direction)
        rows = int(before.count[held].sum())
        with np.errstate(divide="ignore", invalid="ignore"):
            moved += rows * ((after.mean[held] - before.mean[held]) @ direction) / gap
        total += rows
    safe, unsafe = moved / total
    return Movement(float(unsafe), float(safe), float(unsafe - safe))


def _direction(moments: ClassMoments) -> np.ndarray:
    """Return the lower class's mean less the other's, ``(d,)``."""
    return moments.shifted_mean[0] - moments.shifted_mean[1]


def p_value(difference: Interval, freedom: int) -> float:
    """Return the two-sided p-value of no difference, by t with as many degrees of freedom."""
    if difference.standard_error == 0:
        return 1.0 if difference.estimate == 0 else 0.0
    share = abs(difference.estimate) / difference.standard_error
    return float(2 * stats.t.sf(share, freedom))
