"""All numbers of each axiom at one layer.

n rows, d width, A strata.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from vlsae.aqi import indices
from vlsae.aqi.accumulators import moments_of
from vlsae.aqi.design import Design
from vlsae.aqi.labelling import Labelling
from vlsae.aqi.layer import Layer, pairwise_indices
from vlsae.aqi.permutation import permutation_test


@dataclass(frozen=True)
class Axiom:
    """One stratum's rows of each class, δ² and AUROC with intervals (low, value, high), indices, p-value and status.

    A stratum with too few rows of a class has no values and the status ``too_few``.
    """

    name: str
    counts: tuple[int, ...]
    delta_squared: tuple[float, float, float]
    auroc: tuple[float, float, float]
    indices: dict[str, float]
    p_value: float
    status: str
    composites: dict[str, float] = field(default_factory=dict)


def axioms_of(
    x: np.ndarray,
    layer: Layer,
    labelling: Labelling,
    design: Design,
    permuted: np.ndarray | None = None,
    pairwise: bool = True,
) -> list[Axiom]:
    """Return the numbers of each stratum of rows ``x (n, d)``, then of those with too few rows, without values."""
    counts = labelling.counts
    found = []
    for number, name in enumerate(labelling.strata_names):
        row = tuple(int(count) for count in counts[number])
        members = np.flatnonzero(design.strata == number)
        values, codes = x[members], design.codes[members]
        scatter = moments_of(values, codes, 2).scatter()
        own = {
            "chi": scatter.chi,
            "xbi": scatter.xbi,
            "dbs": indices.davies_bouldin(values, codes),
            "dbs_rms": scatter.dbs_rms,
            "eta2": scatter.eta2,
            "omega2": scatter.omega2,
        }
        if pairwise:
            own |= pairwise_indices(values, codes)
        p_value = float("nan")
        if permuted is not None:
            p_value = permutation_test(values, codes, permuted[:, members]).p_value
        found.append(Axiom(name, row, _delta(layer, number), _auroc(layer, number), own, p_value, scatter.status))
    nothing = (float("nan"),) * 3
    few = [Axiom(name, row, nothing, nothing, {}, float("nan"), "too_few") for name, row in labelling.too_few.items()]
    return found + few


def _delta(layer: Layer, number: int) -> tuple[float, float, float]:
    interval = layer.intervals["strata"]
    return float(interval.low[number]), float(layer.effect.delta_squared[number]), float(interval.high[number])


def _auroc(layer: Layer, number: int) -> tuple[float, float, float]:
    if layer.auroc is None:
        return (float("nan"),) * 3
    found = layer.auroc
    return float(found.stratum_low[number]), float(found.by_stratum[number]), float(found.stratum_high[number])
