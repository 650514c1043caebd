"""Geometry of conditions: parallelism score and cross-condition generalisation (Bernardi et al., 2020).

Shapes: n rows, d columns, P conditions; a dichotomy sets m conditions (positive) against m others (negative).
"""

from __future__ import annotations

from itertools import permutations
from typing import Any, NamedTuple

import numpy as np

from vlsae.errors import UserError
from vlsae.probes.inputs import above_zero, integers, matrix
from vlsae.probes.logistic import solve

#: Up to this m all m! pairings are tried.
EXHAUSTIVE = 6

#: Pairings whose scores differ by less are ties; and differences of means below this share of the means are none.
TIED, VANISHED = 1e-12, 1e-14


#: Of conditions 2·first + second: the positive ones of first, second and their xor, and the pairs of a positive and a
#: negative condition that share a context.
CONTEXTS = (
    ((2, 3), ((2, 0), (3, 1))),
    ((1, 3), ((1, 0), (3, 2))),
    ((1, 2), ((1, 0), (1, 3), (2, 0), (2, 3))),
)


class Parallelism(NamedTuple):
    """``value``, and ``pairing (m,)``: the negative condition matched to each positive one, ascending; ``exact``:
    whether every pairing was tried."""

    value: float
    pairing: np.ndarray
    exact: bool


class CCGP(NamedTuple):
    """``value``, the mean of ``folds (m²,)``, or of those asked for: accuracies on held-out pairs, all negatives of the
    first positive first, conditions ascending."""

    value: float
    folds: np.ndarray


def parallelism_score(means: Any, positive: Any, negative: Any) -> Parallelism:
    """Return the parallelism of a dichotomy of condition ``means (P, d)``: the largest mean cosine over pairings.

    ``positive``, ``negative`` ``(m,)`` are condition numbers, rows of ``means``. Cosines are between the differences
    positive less negative of two pairs. Up to m = 6 of all pairings, the first in ascending order where several tie;
    above that of the pairing of least squared distance, a lower bound. m = 1, and pairs of equal means: NaN.
    Raises ``ValueError`` for conditions that are not there, repeat, or do not number the same on both sides.
    """
    means = matrix(means, "means")
    if len(np.atleast_1d(positive)) != len(np.atleast_1d(negative)):
        raise UserError(f"positive and negative must be equally many; got {len(positive)} and {len(negative)}.")
    ones, others = _sides(positive, negative, np.arange(len(means)))
    m = len(ones)
    differences = means[ones][:, None] - means[others]
    lengths = np.linalg.norm(differences, axis=2, keepdims=True)
    size = np.abs(means).max() * np.sqrt(means.shape[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        directions = np.where(lengths > VANISHED * size, differences / lengths, np.nan).reshape(m * m, -1)
    exact = m <= EXHAUSTIVE
    if exact:
        candidates = np.array(list(permutations(range(m))))
    else:
        candidates = _nearest(lengths[..., 0] ** 2)
    first, second = np.triu_indices(m, 1)
    pairs = np.arange(m) * m + candidates
    cosines = directions @ directions.T
    scores = cosines[pairs[:, first], pairs[:, second]].sum(axis=1) / max(1, len(first))
    if m == 1 or np.isnan(scores).all():
        return Parallelism(float("nan"), others[candidates[0]], exact)
    best = np.nanmax(scores)
    chosen = int(np.argmax(scores >= best - TIED))
    return Parallelism(float(scores[chosen]), others[candidates[chosen]], exact)


def ccgp(x: Any, conditions: Any, positive: Any, negative: Any, C: float = 1.0, most: int | None = None) -> CCGP:
    """Return the cross-condition generalisation performance of a dichotomy of ``conditions (n,)`` of ``x (n, d)``.

    For each positive and each negative condition, a logistic regression (``C``, x as it is) learns from the other
    conditions of the dichotomy and is scored on these two, each counting one half. Chance is 0.5; a code in which
    conditions interact can lie far below. ``most`` takes so many of the pairs, evenly spaced: m of m² hold each
    condition out once.
    Raises ``ValueError`` for conditions without rows, that repeat, and fewer than two a side.
    """
    x = matrix(x, "x")
    conditions = integers(conditions, "conditions", len(x))
    ones, others = _sides(positive, negative, np.unique(conditions))
    if min(len(ones), len(others)) < 2:
        raise UserError(f"positive and negative must hold at least 2 conditions each; got {len(ones)}, {len(others)}.")
    rows = np.isin(conditions, np.concatenate([ones, others]))
    x, conditions = x[rows], conditions[rows]
    truth = np.isin(conditions, ones)
    held_one, held_other = np.repeat(ones, len(others)), np.tile(others, len(ones))
    if most is not None and most < len(held_one):
        some = np.linspace(0, len(held_one) - 1, most).round().astype(np.int64)
        held_one, held_other = held_one[some], held_other[some]
    number = conditions[:, None]
    kept = ((number != held_one) & (number != held_other)).astype(np.float64)
    targets = np.repeat(truth[:, None].astype(np.float64), kept.shape[1], axis=1)
    fitted = solve(x, targets, kept, above_zero(C, "C"))
    right = (x @ fitted[:-1] + fitted[-1] > 0) == truth[:, None]
    folds = 0.5 * (_share(right, number == held_one) + _share(right, number == held_other))
    return CCGP(float(folds.mean()), folds)


def across_contexts(x: Any, conditions: Any, blocks: Any, C: float = 1.0) -> np.ndarray:
    """Return how well two binary factors and their xor carry over between contexts ``(B + 1, 3)``, all fits at once.

    ``conditions (n,)`` of ``x (n, d)`` are 2·first + second. One of the dichotomies is learned at one value of another
    factor and scored at the other value, each condition counting one half: the folds of :func:`ccgp` whose held-out
    conditions share a context. Held out across contexts, even a perfect square leaves two points between which nothing
    tells which factor was meant. The first row is of all rows, the others each without one of ``blocks (n,)``.
    Raises ``ValueError`` for a condition that a block holds alone.
    """
    x = matrix(x, "x")
    conditions, blocks = integers(conditions, "conditions", len(x)), integers(blocks, "blocks", len(x))
    names = np.unique(blocks)
    there = np.vstack([np.ones(len(x), dtype=bool), blocks != names[:, None]])
    for number in range(4):
        if not (there & (conditions == number)).any(axis=1).all():
            raise UserError(f"Condition {number} must have rows in at least two blocks, or none is left without one.")
    held = np.array([(one, other) for _, pairs in CONTEXTS for one, other in pairs])
    sides = np.array([positive for positive, pairs in CONTEXTS for _ in pairs])
    truth = (conditions[:, None, None] == sides).any(axis=2)
    learned = (conditions[:, None, None] != held).all(axis=2)
    kept = np.einsum("bn,nf->nbf", there, learned).reshape(len(x), -1).astype(np.float64)
    targets = np.tile(truth, len(there)).astype(np.float64)
    fitted = solve(x, targets, kept, above_zero(C, "C"))
    right = ((x @ fitted[:-1] + fitted[-1] > 0) == targets).reshape(len(x), len(there), len(held))
    scored = there.T[:, :, None]
    ones, others = (scored & (conditions[:, None] == held[:, side])[:, None] for side in range(2))
    folds = 0.5 * (_share(right, ones) + _share(right, others))
    counts = np.cumsum([len(pairs) for _, pairs in CONTEXTS])[:-1]
    return np.stack([part.mean(axis=1) for part in np.split(folds, counts, axis=1)], axis=1)


def _share(right: np.ndarray, among: np.ndarray) -> np.ndarray:
    return (right & among).sum(axis=0) / among.sum(axis=0)


def _nearest(squared: np.ndarray) -> np.ndarray:
    """Return the one pairing ``(1, m)`` of least total squared distance."""
    from scipy.optimize import linear_sum_assignment

    return np.asarray(linear_sum_assignment(squared)[1])[None]


def _sides(positive: Any, negative: Any, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both sides of a dichotomy, ascending."""
    ones, others = integers(positive, "positive"), integers(negative, "negative")
    both = np.concatenate([ones, others])
    if len(np.unique(both)) < len(both):
        raise UserError("positive and negative must name each condition once; some are named twice.")
    missing = np.setdiff1d(both, known)
    if len(missing):
        raise UserError(
            f"There is no condition {', '.join(map(str, missing[:8]))}.",
            f"Known: {', '.join(map(str, known[:20]))}{', …' if len(known) > 20 else ''}.",
        )
    return np.sort(ones), np.sort(others)
