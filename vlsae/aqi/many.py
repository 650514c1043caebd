"""Three and more classes: the indices over all of them, and δ² of each two.

n rows, d width, K classes, G blocks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from vlsae import statistics
from vlsae.aqi import indices
from vlsae.aqi.accumulators import ClassMoments
from vlsae.aqi.design import Design
from vlsae.aqi.inputs import rows
from vlsae.aqi.layer import kept_cells, pairwise_indices
from vlsae.statistics import Interval


class ManyClasses(NamedTuple):
    """A layer's indices over K classes, ω² with its interval, and δ² of each two ``(K, K)`` with theirs."""

    site: str
    indices: dict[str, float]
    status: str
    omega2: Interval
    pairs: Interval


def measure_many(site: str, x: Any, design: Design, pairwise: bool = False) -> ManyClasses:
    """Return what rows ``x (n, d)`` of a layer say of K classes; strata are not looked at."""
    values = rows(x)
    cells = ClassMoments(design.n_cells, values.shape[1]).update(values, design.cells)
    classes = design.n_classes
    whole = _by_class(cells, classes)
    found = {**whole.indices(), "dbs": indices.davies_bouldin(values, design.codes)}
    if pairwise:
        found |= pairwise_indices(values, design.codes)
    pairs = found.pop("delta2")
    omega2, delta2 = _intervals(cells, design, float(found["omega2"]), pairs)
    return ManyClasses(site, found, whole.scatter().status, omega2, delta2)


def _intervals(cells: ClassMoments, design: Design, omega2: float, pairs: np.ndarray) -> tuple[Interval, Interval]:
    if not design.n_blocks:
        nothing, empty = np.full_like(pairs, np.nan), np.zeros((0,))
        undefined = float("nan")
        return Interval(omega2, undefined, undefined, undefined, empty), Interval(
            pairs, nothing, nothing, nothing, empty
        )

    def statistic(blocks: np.ndarray) -> np.ndarray:
        found = _by_class(kept_cells(cells, design, blocks), design.n_classes).indices()
        return np.concatenate([[found["omega2"]], found["delta2"].reshape(-1)])

    whole = statistics.jackknife(statistic, np.arange(design.n_blocks))
    estimate, error, low, high, replicates = whole
    first = Interval(float(estimate[0]), float(error[0]), float(low[0]), float(high[0]), replicates[:, 0])
    square = [part[1:].reshape(pairs.shape) for part in (estimate, error, low, high)]
    rest = Interval(square[0], square[1], square[2], square[3], replicates[:, 1:])
    return first, rest


def _by_class(cells: ClassMoments, classes: int) -> ClassMoments:
    return cells.regroup(np.arange(cells.n_classes) % classes, classes)
