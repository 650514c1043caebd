"""One number out of many layers, chosen on some rows and scored on others, and what a permuted choice would give.

n rows, L layers, F folds, B permutations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vlsae import statistics
from vlsae.aqi import blocks
from vlsae.aqi.crossfit import ScoredAUROC, scored_auroc
from vlsae.aqi.design import Design
from vlsae.aqi.layer import Layer
from vlsae.aqi.layers import CrossfitLayer
from vlsae.statistics import Interval, VarianceParts


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
    choice = _choice(layers, design)
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


def _choice(layers: Sequence[Layer], design: Design) -> CrossfitLayer:
    """Return :func:`vlsae.aqi.layers.crossfit_layer` of the layers, every fold at once."""
    folds, groups = design.n_folds, max(design.n_blocks, design.n_folds)
    held = (np.arange(groups) % folds == np.arange(folds)[:, None]).astype(np.float64)
    kept = np.concatenate([1 - held, held, np.ones((1, groups))])
    found = np.stack([blocks.stratified_delta_squared(layer.cells, design, kept) for layer in layers], axis=1)
    trained, scored, whole = found[:folds], found[folds : 2 * folds], found[-1]
    chosen, held_out = np.full(folds, -1), np.full(folds, np.nan)
    for fold in np.flatnonzero(~np.isnan(trained).all(axis=1)).tolist():
        chosen[fold] = int(np.nanargmax(trained[fold]))
        held_out[fold] = scored[fold, chosen[fold]]
    best = float("nan") if np.isnan(whole).all() else float(np.nanmax(whole))
    return CrossfitLayer(float(held_out.mean()), chosen, held_out, best)


def fold_parts(values: Sequence[Interval], design: Design) -> VarianceParts:
    """Return the parts of the variance of a mean over folds, from each fold's number over all rows at its layer.

    Held-out rows of folds are independent, so variances and third cumulants add: what blocks do each by themselves is
    as of all rows; pairs of blocks are F times as few within folds as over all rows.
    """
    parts = [blocks.parts_of(one, design) for one in values]
    single, paired, third, doubt = (float(np.mean([part[i] for part in parts])) for i in range(4))
    return VarianceParts(single, design.n_folds * paired, design.n_folds * third, doubt)


def _interval(layers: Sequence[Layer], design: Design, choice: CrossfitLayer) -> Interval:
    """Return the mean over folds with its interval, each fold's layer held fixed."""
    nothing = float("nan")
    estimate = choice.delta_squared
    if not design.n_blocks or (choice.chosen < 0).any():
        return Interval(estimate, nothing, nothing, nothing, np.zeros((0,)))
    chosen = [layers[place] for place in choice.chosen.tolist()]
    own = [layer.intervals["stratified_delta_squared"] for layer in chosen]
    noise = design.n_folds * float(np.mean([layer.noise for layer in chosen]))
    found = statistics.squared_length_interval(
        estimate, noise, fold_parts(own, design), design.n_blocks - 1, shared=1 / design.n_folds
    )
    return Interval(estimate, *found, np.zeros((0,)))


def _auroc(layers: Sequence[Layer], design: Design, choice: CrossfitLayer) -> ScoredAUROC | None:
    """Return AUROC of the rows' cross-fitted scores at the layer of their fold."""
    scores, shares = np.full(len(design.codes), np.nan), []
    for fold, place in enumerate(choice.chosen.tolist()):
        found = layers[place].auroc if place >= 0 else None
        if found is None or len(found.scores) == 0:
            return None
        held = design.folds == fold
        # Layers are of any size, and rows are compared within folds alone.
        scores[held] = found.scores[held] / (found.scores[held].std() or 1.0)
        shares.append(layers[place].direction.share(design.n_folds))
    return scored_auroc(scores, design.codes == 0, design.folds, design.strata, float(np.mean(shares)))
