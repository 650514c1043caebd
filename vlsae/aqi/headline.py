"""One number out of many layers, chosen on some rows and scored on others, and what a permuted choice would give.

n rows, L layers, F folds, G blocks, B permutations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from vlsae import statistics
from vlsae.aqi.accumulators import ClassMoments
from vlsae.aqi.crossfit import ScoredAUROC, scored_auroc
from vlsae.aqi.design import Design
from vlsae.aqi.effect import stratified_of
from vlsae.aqi.layer import Layer, kept_cells
from vlsae.aqi.layers import CrossfitLayer, crossfit_layer
from vlsae.statistics import Interval


class Headline(NamedTuple):
    """The cross-fitted δ² with its interval, each fold's layer, AUROC at these layers, and the familywise p-value.

    ``layer`` is the place of the layer that most folds chose (the earliest of several), -1 where none had a value.
    """

    delta_squared: Interval
    choice: CrossfitLayer
    layer: int
    auroc: ScoredAUROC | None
    p_value: float


def headline(layers: Sequence[Layer], design: Design) -> Headline:
    """Return the headline of layers: the layer with the largest δ² on the other folds, scored on the one held out."""
    folds, groups = design.n_folds, max(design.n_blocks, design.n_folds)
    size = 2 * design.n_strata
    by_fold = np.arange(groups) % folds
    cells = [_by_fold(layer.cells, by_fold, size, folds) for layer in layers]
    choice = crossfit_layer(cells, folds)
    chosen = choice.chosen[choice.chosen >= 0]
    places, counts = np.unique(chosen, return_counts=True)
    layer = int(places[counts.argmax()]) if len(places) else -1
    return Headline(
        delta_squared=_interval(layers, design, choice),
        choice=choice,
        layer=layer,
        auroc=_auroc(layers, design, choice),
        p_value=familywise(layers),
    )


def familywise(layers: Sequence[Layer]) -> float:
    """Return the p-value of the largest chi over layers, each in units of its own null; NaN without permutations."""
    tests = [layer.permutation for layer in layers if layer.permutation is not None]
    tests = [test for test in tests if np.isfinite(test.statistic) and np.isfinite(test.null).all()]
    if not tests:
        return float("nan")
    spread = [max(float(test.null.std()), np.finfo(float).tiny) for test in tests]
    null = np.max([(test.null - test.null.mean()) / width for test, width in zip(tests, spread)], axis=0)
    observed = max((test.statistic - float(test.null.mean())) / width for test, width in zip(tests, spread))
    return statistics.permutation_p_value(float(observed), null)


def _by_fold(cells: ClassMoments, fold: np.ndarray, size: int, folds: int) -> ClassMoments:
    target = (fold[:, None] * size + np.arange(size)).reshape(-1)
    return cells.regroup(target, folds * size)


def _interval(layers: Sequence[Layer], design: Design, choice: CrossfitLayer) -> Interval:
    """Return the mean over folds with its jackknife: blocks are left out within their fold, its layer held fixed.

    Held-out rows of folds are independent, so the folds' variances add.
    """
    nothing = float("nan")
    estimate = choice.delta_squared
    if not design.n_blocks or (choice.chosen < 0).any():
        return Interval(estimate, nothing, nothing, nothing, np.zeros((0,)))
    parts = []
    for fold, place in enumerate(choice.chosen.tolist()):
        own = np.arange(fold, design.n_blocks, design.n_folds)
        cells = layers[place].cells
        parts.append(np.array([_value(cells, design, np.setdiff1d(own, [block])) for block in own]))
    return fold_interval(estimate, parts)


def fold_interval(estimate: float, parts: Sequence[np.ndarray]) -> Interval:
    """Return the interval of a mean over folds from each fold's values without each of its blocks."""
    if min(len(part) for part in parts) < 2:
        nothing = float("nan")
        return Interval(estimate, nothing, nothing, nothing, np.zeros((0,)))
    spread = [(len(part) - 1) / len(part) * float(((part - part.mean()) ** 2).sum()) for part in parts]
    error = float(np.sqrt(sum(spread))) / len(parts)
    half = float(stats.t.ppf(0.975, fold_freedom(parts))) * error
    return Interval(estimate, error, estimate - half, estimate + half, np.concatenate(parts))


def fold_freedom(parts: Sequence[np.ndarray]) -> int:
    """Return the degrees of freedom of :func:`fold_interval`."""
    return sum(len(part) - 1 for part in parts)


def fold_parts(interval: Interval, design: Design) -> list[np.ndarray]:
    """Return the replicates of a headline's interval fold by fold."""
    sizes = [len(range(fold, design.n_blocks, design.n_folds)) for fold in range(design.n_folds)]
    return np.split(interval.replicates, np.cumsum(sizes)[:-1]) if len(interval.replicates) else []


def _value(cells: ClassMoments, design: Design, blocks: np.ndarray) -> float:
    return stratified_of(kept_cells(cells, design, blocks)).stratified_delta_squared


def _auroc(layers: Sequence[Layer], design: Design, choice: CrossfitLayer) -> ScoredAUROC | None:
    """Return AUROC of the rows' cross-fitted scores at the layer of their fold."""
    scores = np.full(len(design.codes), np.nan)
    for fold, place in enumerate(choice.chosen.tolist()):
        found = layers[place].auroc if place >= 0 else None
        if found is None or len(found.scores) == 0:
            return None
        held = design.folds == fold
        scores[held] = found.scores[held]
    return scored_auroc(scores, design.codes == 0, design.folds, design.strata)
