"""Nested cross-validation: each fold is scored by fits whose penalty was chosen without it.

Shapes: n rows, d columns, T targets, K folds, Λ penalties, C classes (1 column for a number or two classes).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from vlsae.probes.fitting import Design, Problem, fit, scores

#: Bytes of the coefficients that are held while penalties are compared.
AT_ONCE = 1 << 28


class Nested(NamedTuple):
    """One target's fits. ``scores (n, C)`` are each row's by the fit without its fold; ``loss (n,)`` its log-loss in
    nats, or half its squared error. ``coefficients (K + 1, C, d + 1)`` on the rows as they came, intercept last: each
    without a fold, the last with all rows; ``penalties (K + 1,)`` theirs. ``fewer (K - 1, n, C)`` are each row's scores
    by the fits that lack another fold too, None where the penalty was not chosen here."""

    scores: np.ndarray
    loss: np.ndarray
    coefficients: np.ndarray
    penalties: np.ndarray
    fewer: np.ndarray | None = None


def nested(
    x: np.ndarray, y: np.ndarray, folds: np.ndarray, penalties: Sequence[float], classes: int, *, scale: bool = True
) -> list[Nested]:
    """Return the nested cross-validation of each target ``y (n, T)``, as :func:`~vlsae.probes.fitting.fit` takes it.

    The fit without folds j and k serves twice: its loss on j helps to choose the penalty of the fit that scores k, and
    the other way round. Of equal losses the largest penalty is taken.
    """
    design = Design(x, folds, scale=scale)
    c = 1 if classes in (0, 2) else classes
    levels = sorted(map(float, penalties), reverse=True)
    pairs = list(combinations(range(len(design.slices)), 2))
    block = max(1, AT_ONCE // (8 * c * (design.d + 1) * len(pairs) * len(levels)))
    found: list[Nested] = []
    for first in range(0, y.shape[1], block):
        own = y[:, first : first + block]
        chosen, fewer = _choose(design, own, pairs, levels, classes)
        scored = _score(design, own, chosen, classes)
        found += [one._replace(fewer=fewer[:, :, place]) for place, one in enumerate(scored)]
    return found


def with_penalties(
    x: np.ndarray, y: np.ndarray, folds: np.ndarray, penalties: np.ndarray, classes: int, *, scale: bool = True
) -> list[Nested]:
    """Return the cross-validation of each target ``y (n, T)`` by probes of given ``penalties (K + 1, T)``.

    In single precision, which is enough for the scores of a control.
    """
    return _score(Design(x, folds, scale=scale), y, penalties, classes, rough=True)


def losses(found: np.ndarray, y: np.ndarray, classes: int) -> np.ndarray:
    """Return the log-loss, or half the squared error, ``(r, P)`` of scores ``(r, P, C)`` at values ``y (r, P)``."""
    if classes == 0:
        return np.asarray(0.5 * (found[..., 0] - y) ** 2)
    if classes == 2:
        return np.asarray(np.logaddexp(0, found[..., 0]) - y * found[..., 0])
    largest = found.max(axis=-1)
    total = np.log(np.exp(found - largest[..., None]).sum(axis=-1)) + largest
    return np.asarray(total - np.take_along_axis(found, y[..., None].astype(np.int64), axis=-1)[..., 0])


def _choose(
    design: Design, y: np.ndarray, pairs: list[tuple[int, int]], levels: list[float], classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the penalty ``(K + 1, T)`` of the fit that scores each fold, and of the one on all rows; and the scores
    ``(K - 1, n, T, C)`` of each fold's rows at its penalty by the fits that lack another fold too."""
    n_targets, n_folds = y.shape[1], len(design.slices)
    problems = [Problem(target, pair, level) for pair in pairs for level in levels for target in range(n_targets)]
    coefficients = fit(design, y, problems, classes, rough=True)
    by_pair = coefficients.reshape(len(pairs), len(levels) * n_targets, *coefficients.shape[1:])
    total = np.zeros((n_folds + 1, len(levels), n_targets))
    for own, (j, k) in zip(by_pair, pairs):
        for scored, other in ((j, k), (k, j)):
            held = np.tile(y[design.rows(other)], (1, len(levels)))
            summed = losses(scores(design, own, other), held, classes).sum(axis=0).reshape(len(levels), n_targets)
            total[scored] += summed
            total[n_folds] += summed
    # Levels descend, so that the first of equals is the largest.
    best = np.nanargmin(total, axis=1)
    fewer = np.empty((n_folds - 1, design.n, n_targets, coefficients.shape[1]))
    for own, (j, k) in zip(by_pair, pairs):
        each = own.reshape(len(levels), n_targets, *coefficients.shape[1:])
        for scored, other in ((j, k), (k, j)):
            chosen = each[best[scored], np.arange(n_targets)]
            fewer[other - (other > scored), design.rows(scored)] = scores(design, chosen, scored)
    return np.asarray(levels)[best], fewer


def _score(design: Design, y: np.ndarray, chosen: np.ndarray, classes: int, *, rough: bool = False) -> list[Nested]:
    n_targets, n_folds = y.shape[1], len(design.slices)
    sets: list[tuple[int, ...]] = [*((fold,) for fold in range(n_folds)), ()]
    problems = [
        Problem(target, left_out, float(chosen[place, target]))
        for place, left_out in enumerate(sets)
        for target in range(n_targets)
    ]
    coefficients = fit(design, y, problems, classes, rough=rough)
    coefficients = coefficients.reshape(len(sets), n_targets, *coefficients.shape[1:])
    found = np.empty((design.n, n_targets, coefficients.shape[2]))
    for fold in range(n_folds):
        found[design.rows(fold)] = scores(design, coefficients[fold], fold)
    loss = losses(found, y, classes)
    raw = design.raw(coefficients)
    return [Nested(found[:, target], loss[:, target], raw[:, target], chosen[:, target]) for target in range(n_targets)]
