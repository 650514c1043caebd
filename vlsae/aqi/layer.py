"""All that is said of one layer for two classes: what its moments give, and what needs its rows.

n rows, d width, A strata, G blocks. Class 0 is safe, 1 unsafe.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from vlsae import statistics
from vlsae.aqi import indices
from vlsae.aqi.accumulators import ClassMoments
from vlsae.aqi.crossfit import CrossfitAUROC, crossfit_auroc
from vlsae.aqi.design import Design
from vlsae.aqi.effect import StratifiedEffect, stratified_of
from vlsae.aqi.inputs import rows
from vlsae.aqi.permutation import PermutationTest, permutation_test
from vlsae.statistics import Interval

#: A coordinate's share of the scatter within classes above which it owns the layer's numbers.
OWNED = 0.5

#: The scalars of a stratified effect that get an interval.
SCALARS = (
    "stratified_delta_squared",
    "stratified_omega_squared",
    "macro_delta_squared",
    "common_delta_squared",
    "sharedness",
    "pooled_delta_squared",
)


@dataclass(frozen=True)
class Layer:
    """What is known of a layer; a value that needs rows is None where only moments are at hand.

    ``intervals`` has those of the effect's scalars and, as ``strata``, of each stratum's δ²; ``scaled`` is the
    stratified δ² after each coordinate is divided by its within-class deviation, ``dropped`` the coordinates without.
    """

    site: str
    cells: ClassMoments
    effect: StratifiedEffect
    intervals: dict[str, Interval]
    indices: dict[str, float]
    status: str
    top_share: float
    scaled: Interval | None
    dropped: int
    auroc: CrossfitAUROC | None = None
    scaled_auroc: CrossfitAUROC | None = None
    across: CrossfitAUROC | None = None
    permutation: PermutationTest | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def owned(self) -> bool:
        """Whether one coordinate owns the layer's scatter."""
        return self.top_share > OWNED


def layer_of(site: str, cells: ClassMoments, design: Design) -> Layer:
    """Return what the moments of a layer's cells (block, stratum, class) give, with delete-a-block intervals."""
    strata = design.n_strata
    every = np.arange(cells.n_classes)
    whole = cells.regroup(every % (2 * strata), 2 * strata)
    pooled = cells.regroup(every % 2, 2)
    scaled, dropped = _scaled(cells, whole)
    values = _nothing(strata)
    if design.n_blocks:
        values = _intervals(cells, design, _effects)
    found = pooled.indices()
    return Layer(
        site=site,
        cells=cells,
        effect=stratified_of(whole),
        intervals=values,
        indices={name: found[name] for name in ("chi", "xbi", "dbs_rms", "eta2", "omega2")},
        status=pooled.scatter().status if pooled.count.any() else "one_class",
        top_share=whole.top_share(),
        scaled=_stratified_interval(scaled, design),
        dropped=dropped,
    )


def measure(site: str, x: Any, design: Design, permuted: np.ndarray | None = None, pairwise: bool = False) -> Layer:
    """Return all that rows ``x (n, d)`` of a layer give; ``pairwise`` adds Dunn and silhouette, in n² d time."""
    values = rows(x)
    cells = ClassMoments(design.n_cells, values.shape[1]).update(values, design.cells)
    layer = layer_of(site, cells, design)
    codes, strata, folds = design.codes, design.strata, design.folds
    found = {**layer.indices, "dbs": indices.davies_bouldin(values, codes)}
    if pairwise:
        found |= pairwise_indices(values, codes)
    test = None if permuted is None else permutation_test(values, codes, permuted, strata)
    across = crossfit_auroc(values, codes, strata, strata) if len(np.unique(strata)) > 1 else None
    plain = crossfit_auroc(values, codes, folds, strata)
    return replace(
        layer,
        indices=found,
        auroc=plain,
        scaled_auroc=_scaled_auroc(values, cells, design),
        across=across,
        permutation=test,
    )


def pairwise_indices(x: np.ndarray, codes: np.ndarray) -> dict[str, float]:
    """Return the indices that go over all pairs of rows: ``dunn`` and ``silhouette``."""
    return {"dunn": indices.dunn(x, codes), "silhouette": indices.silhouette(x, codes)}


def stratified_delta_squared(cells: ClassMoments, design: Design) -> float:
    """Return the stratified δ² of cells."""
    size = 2 * design.n_strata
    return stratified_of(cells.regroup(np.arange(cells.n_classes) % size, size)).stratified_delta_squared


def kept_cells(cells: ClassMoments, design: Design, blocks: np.ndarray) -> ClassMoments:
    """Return the moments by stratum and class of the cells in some blocks."""
    size = cells.n_classes // max(design.n_blocks, design.n_folds)
    every = np.arange(cells.n_classes)
    return cells.regroup(np.where(np.isin(every // size, blocks), every % size, -1), size)


def _effects(moments: ClassMoments) -> np.ndarray:
    effect = stratified_of(moments)
    return np.array([*(getattr(effect, name) for name in SCALARS), *effect.delta_squared])


def _intervals(cells: ClassMoments, design: Design, statistic: Callable[[ClassMoments], Any]) -> dict[str, Interval]:
    whole = statistics.jackknife(
        lambda blocks: statistic(kept_cells(cells, design, blocks)), np.arange(design.n_blocks)
    )
    found = {name: _column(whole, number) for number, name in enumerate(SCALARS)}
    return {**found, "strata": _column(whole, slice(len(SCALARS), None))}


def _column(whole: Interval, place: Any) -> Interval:
    estimate, error, low, high = (value[place] for value in whole[:4])
    return Interval(estimate, error, low, high, whole.replicates[:, place])


def _nothing(strata: int) -> dict[str, Interval]:
    """Return intervals without bounds, where there are too few rows."""
    nothing = float("nan")
    several = np.full(strata, nothing)
    empty = np.zeros((0,))
    found = {name: Interval(nothing, nothing, nothing, nothing, empty) for name in SCALARS}
    return {**found, "strata": Interval(several, several, several, several, empty)}


def _scaled(cells: ClassMoments, whole: ClassMoments) -> tuple[ClassMoments | None, int]:
    """Return the cells of rows divided by the deviation within strata and classes, and the coordinates without one."""
    deviation = _deviation(whole)
    kept = deviation > 0
    if not kept.any():
        return None, cells.width
    result = ClassMoments(cells.n_classes, int(kept.sum()))
    result.count = cells.count.copy()
    if cells.shift is not None:
        result.shift = cells.shift[kept] / deviation[kept]
        result.shifted_mean = cells.shifted_mean[:, kept] / deviation[kept]
        result.m2 = cells.m2[:, kept] / deviation[kept] ** 2
    return result, int((~kept).sum())


def _deviation(whole: ClassMoments) -> np.ndarray:
    """Return each coordinate's deviation within classes ``(d,)``, 0 where it does not vary."""
    freedom = int(whole.count.sum()) - int((whole.count > 0).sum())
    variance = whole.m2.sum(axis=0) / freedom if freedom > 0 else np.zeros(whole.width)
    varies = variance > 1e-24 * ((whole.mean**2).max(axis=0) + variance)
    return np.where(varies, np.sqrt(variance), 0.0)


def _stratified_interval(cells: ClassMoments | None, design: Design) -> Interval | None:
    if cells is None:
        return None
    if not design.n_blocks:
        value = stratified_delta_squared(cells, design)
        nothing = float("nan")
        return Interval(value, nothing, nothing, nothing, np.zeros((0,)))
    return statistics.jackknife(
        lambda blocks: stratified_of(kept_cells(cells, design, blocks)).stratified_delta_squared,
        np.arange(design.n_blocks),
    )


def _scaled_auroc(values: np.ndarray, cells: ClassMoments, design: Design) -> CrossfitAUROC | None:
    size = 2 * design.n_strata
    deviation = _deviation(cells.regroup(np.arange(cells.n_classes) % size, size))
    if not (deviation > 0).any():
        return None
    scale = np.where(deviation > 0, deviation, np.inf)
    return crossfit_auroc(values, design.codes, design.folds, design.strata, scale)
