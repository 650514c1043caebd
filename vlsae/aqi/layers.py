"""Choosing a layer on some rows and scoring it on others: the largest of many layers is biased upwards.

F folds, A strata, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vlsae.aqi.accumulators import ClassMoments
from vlsae.aqi.effect import stratified_of
from vlsae.errors import UserError


class CrossfitLayer(NamedTuple):
    """The mean over folds of δ² held out, each fold's layer and δ² ``(F,)``, and the plain, optimistic best."""

    delta_squared: float
    chosen: np.ndarray
    by_fold: np.ndarray
    max_over_layers: float


def crossfit_layer(cells: Sequence[ClassMoments], folds: int) -> CrossfitLayer:
    """Return (stratified) δ² of the layer with the largest one on the other folds, held out.

    ``cells``, one a layer, hold the rows of fold f, stratum a and class k (0 safe, 1 unsafe) as class
    ``(f·A + a)·2 + k``. A fold in which δ² is undefined makes the mean NaN; its layer is -1 where no layer had a value.
    """
    if len(cells) == 0 or folds < 2:
        raise UserError(f"At least one layer and 2 folds are needed; got {len(cells)} layers and {folds} folds.")
    sizes = {moments.n_classes for moments in cells}
    if len(sizes) != 1 or min(sizes) % (2 * folds):
        raise UserError(f"Every layer must hold folds · strata · 2 cells for {folds} folds; got {sorted(sizes)}.")
    size = sizes.pop() // folds
    chosen, held_out = np.full(folds, -1), np.full(folds, np.nan)
    for fold in range(folds):
        trained = np.array([_delta_squared(moments, size, folds, fold, held=False) for moments in cells])
        if np.isnan(trained).all():
            continue
        chosen[fold] = int(np.nanargmax(trained))
        held_out[fold] = _delta_squared(cells[chosen[fold]], size, folds, fold, held=True)
    every = [_delta_squared(moments, size, folds, -1, held=False) for moments in cells]
    best = float("nan") if np.isnan(every).all() else float(np.nanmax(every))
    return CrossfitLayer(float(held_out.mean()), chosen, held_out, best)


def _delta_squared(moments: ClassMoments, size: int, folds: int, fold: int, held: bool) -> float:
    target = np.tile(np.arange(size), folds)
    member = np.repeat(np.arange(folds), size) == fold
    target[member != held] = -1
    return stratified_of(moments.regroup(target, size)).stratified_delta_squared
