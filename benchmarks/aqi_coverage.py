"""How often the 95 % intervals of the alignment quality index hold the truth, over many draws of known populations.

    python benchmarks/aqi_coverage.py --draws 400

Rows are normal; δ² is known by construction. ``layer`` is one layer's stratified δ², ``headline`` the cross-fitted
one over a layer with the effect and one of noise. Where there is no effect both intervals are too wide: the jackknife
counts the noise of two means twice there, and the permutation p-value is what decides.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from vlsae.aqi.accumulators import ClassMoments
from vlsae.aqi.design import Design, design_of
from vlsae.aqi.headline import headline
from vlsae.aqi.labelling import Samples, label_samples
from vlsae.aqi.layer import Layer, layer_of


@dataclass(frozen=True)
class Population:
    """Width, rows a class and axiom, axioms, true δ², and how many coordinates hold nearly all variance (0: all)."""

    width: int
    rows: int
    axioms: int
    delta2: float
    rank: int = 0


POPULATIONS = (
    Population(64, 40, 1, 0.1),
    Population(64, 40, 7, 0.1),
    Population(64, 40, 7, 0.02),
    Population(64, 200, 1, 0.1),
    Population(64, 40, 7, 0.1, rank=5),
    Population(64, 40, 7, 0.0),
)


def design_for(one: Population) -> Design:
    """Return the division of a population's rows."""
    n = 2 * one.rows * one.axioms
    ids = [str(number) for number in range(n)]
    labels = [("safe", "unsafe")[number % 2] for number in range(n)]
    strata = [f"axiom {number // 2 % one.axioms}" for number in range(n)]
    return design_of(label_samples(Samples(ids, labels, strata, ["drawn"] * n, ids)))


def draw(one: Population, design: Design, generator: np.random.Generator, delta2: float) -> ClassMoments:
    """Return the moments of one draw."""
    deviation = np.ones(one.width)
    if one.rank:
        deviation[one.rank :] = 0.1
    shift = np.sqrt(delta2 * (deviation**2).sum() / one.width)
    x = generator.normal(size=(len(design.codes), one.width)) * deviation + (design.codes == 0)[:, None] * shift
    return ClassMoments(design.n_cells, one.width).update(x, design.cells)


def coverage(one: Population, draws: int, seed: int) -> tuple[float, float]:
    """Return the shares of intervals of a layer and of the headline that hold the truth."""
    design, generator = design_for(one), np.random.default_rng(seed)
    inside = np.zeros(2)
    for _ in track(range(draws), str(one), transient=True):
        layer = layer_of("language.1", draw(one, design, generator, one.delta2), design)
        other: Layer = replace(layer, cells=draw(one, design, generator, 0.0))
        found = (layer.intervals["stratified_delta_squared"], headline([other, layer], design).delta_squared)
        inside += [interval.low <= one.delta2 <= interval.high for interval in found]
    return float(inside[0] / draws), float(inside[1] / draws)


def main() -> None:
    """Draw and show a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of one population, from 0")
    options = parser.parse_args()
    table = Table("width", "rows", "axioms", "δ²", "rank", "layer", "headline", title=f"{options.draws} draws each")
    chosen = POPULATIONS if options.only is None else POPULATIONS[options.only : options.only + 1]
    for one in chosen:
        shares = coverage(one, options.draws, options.seed)
        table.add_row(
            *map(str, (one.width, one.rows, one.axioms, one.delta2, one.rank or "-")), *(f"{s:.3f}" for s in shares)
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
