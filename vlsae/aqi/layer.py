"""All that is said of one layer for two classes: what its moments give, and what needs its rows.

n rows, d width, A strata, G blocks. Class 0 is safe, 1 unsafe.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from vlsae.aqi import blocks, indices
from vlsae.aqi.accumulators import ClassMoments
from vlsae.aqi.crossfit import (
    CrossfitAUROC,
    DirectionNoise,
    crossfitted,
    directions,
    scored_auroc,
    scores_along,
)
from vlsae.aqi.design import Design
from vlsae.aqi.effect import StratifiedEffect, stratified_of
from vlsae.aqi.inputs import rows
from vlsae.aqi.permutation import PermutationTest, permutation_test
from vlsae.statistics import Interval

#: A coordinate's share of the scatter within classes above which it owns the layer's numbers.
OWNED = 0.5

#: Of a direction whose noise nobody measured.
UNKNOWN = DirectionNoise(float("inf"), float("inf"))

#: The scalars of a stratified effect that get an interval.
SCALARS = (*blocks.DISTANCES, *blocks.RATIOS)


@dataclass(frozen=True)
class Layer:
    """What is known of a layer; a value that needs rows is None where only moments are at hand.

    ``intervals`` has those of the effect's scalars and, as ``strata``, of each stratum's δ²; ``scaled`` is the
    stratified δ² after each coordinate is divided by its within-class deviation, ``dropped`` the coordinates without;
    ``noise`` was subtracted from the stratified δ²; ``direction`` and ``scaled_direction``: the means' difference.
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
    noise: float = float("nan")
    direction: DirectionNoise = UNKNOWN
    scaled_direction: DirectionNoise = UNKNOWN
    auroc: CrossfitAUROC | None = None
    scaled_auroc: CrossfitAUROC | None = None
    across: CrossfitAUROC | None = None
    permutation: PermutationTest | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def owned(self) -> bool:
        """Whether one coordinate owns the layer's scatter."""
        return self.top_share > OWNED


def layer_of(site: str, cells: ClassMoments, design: Design, scaled: bool = True) -> Layer:
    """Return what the moments of a layer's cells (block, stratum, class) give, with delete-a-block intervals.

    Without ``scaled`` nothing is said of scaled rows.
    """
    strata = design.n_strata
    every = np.arange(cells.n_classes)
    whole = cells.regroup(every % (2 * strata), 2 * strata)
    pooled = cells.regroup(every % 2, 2)
    divided, dropped = _scaled(cells, whole) if scaled else (None, 0)
    effect = stratified_of(whole)
    own = _intervals(cells, design, effect)
    of_scaled = None if divided is None else _intervals(divided, design, _by_stratum(divided, design))
    found = pooled.indices()
    return Layer(
        site=site,
        cells=cells,
        effect=effect,
        intervals=own.by_name,
        indices={name: found[name] for name in ("chi", "xbi", "dbs_rms", "eta2", "omega2")},
        status=pooled.scatter().status if pooled.count.any() else "one_class",
        top_share=whole.top_share(),
        scaled=None if of_scaled is None else of_scaled.by_name["stratified_delta_squared"],
        dropped=dropped,
        noise=own.noise,
        direction=own.direction,
        scaled_direction=UNKNOWN if of_scaled is None else of_scaled.direction,
    )


def measure(site: str, x: Any, design: Design, permuted: np.ndarray | None = None, pairwise: bool = False) -> Layer:
    """Return all that rows ``x (n, d)`` of a layer give; ``pairwise`` adds Dunn and silhouette, in n² d time."""
    values = rows(x)
    cells = ClassMoments(design.n_cells, values.shape[1]).update(values, design.cells)
    layer = layer_of(site, cells, design)
    codes, strata = design.codes, design.strata
    pooled = cells.regroup(np.arange(cells.n_classes) % 2, 2)
    dbs = indices.mean_davies_bouldin(pooled, values, codes) if pooled.count.all() else float("nan")
    found = {**layer.indices, "dbs": dbs}
    if pairwise:
        found |= pairwise_indices(values, codes)
    test = None if permuted is None else permutation_test(values, codes, permuted, strata)
    plain, scaled, across = _aurocs(values, layer, design)
    return replace(layer, indices=found, auroc=plain, scaled_auroc=scaled, across=across, permutation=test)


def pairwise_indices(x: np.ndarray, codes: np.ndarray) -> dict[str, float]:
    """Return the indices that go over all pairs of rows: ``dunn`` and ``silhouette``."""
    dunn, silhouette = indices.dunn_and_silhouette(x, codes)
    return {"dunn": dunn, "silhouette": silhouette}


def kept_cells(cells: ClassMoments, design: Design, blocks: np.ndarray) -> ClassMoments:
    """Return the moments by stratum and class of the cells in some blocks."""
    size = cells.n_classes // max(design.n_blocks, design.n_folds)
    every = np.arange(cells.n_classes)
    return cells.regroup(np.where(np.isin(every // size, blocks), every % size, -1), size)


def _intervals(cells: ClassMoments, design: Design, effect: StratifiedEffect) -> blocks.Intervals:
    """Return an effect's intervals, without bounds where there are too few rows."""
    if design.n_blocks:
        return blocks.intervals(cells, design, effect)
    nothing, empty = float("nan"), np.zeros((0,))
    several = np.full(design.n_strata, nothing)
    found = {name: Interval(getattr(effect, name), nothing, nothing, nothing, empty) for name in SCALARS}
    found["strata"] = Interval(effect.delta_squared, several, several, several, empty)
    return blocks.Intervals(found, nothing, UNKNOWN)


def _by_stratum(cells: ClassMoments, design: Design) -> StratifiedEffect:
    size = 2 * design.n_strata
    return stratified_of(cells.regroup(np.arange(cells.n_classes) % size, size))


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


def _aurocs(
    values: np.ndarray, layer: Layer, design: Design
) -> tuple[CrossfitAUROC, CrossfitAUROC | None, CrossfitAUROC | None]:
    """Return AUROC along the other folds' direction, the same of scaled rows, and along the other strata's."""
    cells, strata, folds = layer.cells, design.n_strata, design.n_folds
    every = np.arange(cells.n_classes)
    by_fold = cells.regroup(every // (2 * strata) % folds * 2 + every % 2, 2 * folds)
    by_stratum = cells.regroup(every % (2 * strata), 2 * strata)
    deviation = _deviation(by_stratum)
    ways = [directions(by_fold, folds)]
    if (deviation > 0).any():
        ways.append(directions(by_fold, folds, np.where(deviation > 0, deviation, np.inf)))
    if strata > 1:
        ways.append(directions(by_stratum, strata))
    shift = np.zeros(cells.width) if cells.shift is None else cells.shift
    scores = iter(
        np.split(scores_along(values, np.concatenate(ways), shift), np.cumsum([len(way) for way in ways])[:-1], 1)
    )
    rows = np.arange(len(values))
    plain = _auroc(next(scores)[rows, design.folds], design.folds, design, layer.direction)
    scaled = None
    if (deviation > 0).any():
        scaled = _auroc(next(scores)[rows, design.folds], design.folds, design, layer.scaled_direction)
    if strata == 1:
        return plain, scaled, None
    return plain, scaled, _auroc(next(scores)[rows, design.strata], design.strata, design, layer.direction)


def _auroc(scores: np.ndarray, groups: np.ndarray, design: Design, direction: DirectionNoise) -> CrossfitAUROC:
    shared = direction.share(len(np.unique(groups)))
    return crossfitted(scored_auroc(scores, design.codes == 0, groups, design.strata, shared), scores)
