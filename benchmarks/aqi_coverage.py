"""How often the 95 % intervals of the alignment quality index hold the truth, over many draws of known populations.

    python benchmarks/aqi_coverage.py --draws 400

Rows are normal, so that every truth is known: δ² by construction, AUROC as what the directions that were found reach on
new rows. Of two layers one is noise; ``δ²`` is the layer with the effect, ``axiom`` its axioms' own, ``headline`` the
cross-fitted one, its truth what its folds' layers truly hold. The standard error of a share is 0.011 at 400 draws.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import stats

from vlsae.aqi.accumulators import ClassMoments
from vlsae.aqi.crossfit import CrossfitAUROC, directions, scored_auroc, scores_along
from vlsae.aqi.design import Design, design_of
from vlsae.aqi.headline import Headline, headline
from vlsae.aqi.labelling import Samples, label_samples
from vlsae.aqi.layer import Layer, layer_of

COLUMNS = ("δ²", "axiom δ²", "headline δ²", "AUROC", "axiom AUROC", "headline AUROC")


@dataclass(frozen=True)
class Population:
    """Width, rows a class and axiom, axioms, true δ², and how variance falls over coordinates.

    ``equal``; ``power`` as 1/k; or ``five`` coordinates that hold nearly all. Means lie apart by the same in each.
    """

    width: int
    rows: int
    axioms: int
    delta2: float
    variance: str = "equal"

    @property
    def deviation(self) -> np.ndarray:
        """Each coordinate's deviation within classes, ``(d,)``."""
        place = np.arange(self.width)
        return {
            "equal": np.ones(self.width),
            "power": 1 / np.sqrt(1 + place),
            "five": np.where(place < 5, 1.0, 0.1),
        }[self.variance]

    def shift(self, delta2: float) -> float:
        """Return how far the means lie apart in each coordinate."""
        return float(np.sqrt(delta2 * (self.deviation**2).mean()))


POPULATIONS = (
    Population(64, 40, 1, 0.0),
    Population(64, 40, 1, 0.1),
    Population(64, 200, 1, 0.1),
    Population(64, 40, 7, 0.0),
    Population(64, 40, 7, 0.02),
    Population(64, 40, 7, 0.1, "five"),
    Population(64, 40, 7, 0.0, "power"),
    Population(64, 40, 7, 0.1, "power"),
)


def design_for(one: Population) -> Design:
    """Return the division of a population's rows."""
    n = 2 * one.rows * one.axioms
    ids = [str(number) for number in range(n)]
    labels = [("safe", "unsafe")[number % 2] for number in range(n)]
    strata = [f"axiom {number // 2 % one.axioms}" for number in range(n)]
    return design_of(label_samples(Samples(ids, labels, strata, ["drawn"] * n, ids)))


def draw(one: Population, design: Design, generator: np.random.Generator, delta2: float) -> Layer:
    """Return what one draw of a layer gives."""
    x = generator.normal(size=(len(design.codes), one.width)) * one.deviation
    x += (design.codes == 0)[:, None] * one.shift(delta2)
    layer = layer_of("drawn", ClassMoments(design.n_cells, one.width).update(x, design.cells), design, scaled=False)
    ways, shift = _directions(layer, design), np.asarray(layer.cells.shift)
    scores = scores_along(x, ways, shift)[np.arange(len(x)), design.folds]
    found = scored_auroc(scores, design.codes == 0, design.folds, design.strata, layer.noise_share)
    auroc = CrossfitAUROC(found.auroc, found.by_stratum, scores, found.standard_error, found.stratum_error)
    return replace(layer, auroc=auroc)


def reached(one: Population, layer: Layer, design: Design, delta2: float) -> np.ndarray:
    """Return the AUROC that each fold's direction reaches on new rows, ``(F,)``."""
    ways = _directions(layer, design)
    spread = np.sqrt(2 * ((ways * one.deviation) ** 2).sum(axis=1))
    return np.asarray(stats.norm.cdf(one.shift(delta2) * ways.sum(axis=1) / spread))


def _directions(layer: Layer, design: Design) -> np.ndarray:
    every = np.arange(layer.cells.n_classes)
    folds = every // (2 * design.n_strata) % design.n_folds
    return directions(layer.cells.regroup(folds * 2 + every % 2, 2 * design.n_folds), design.n_folds)


def held(one: Population, layers: list[Layer], effects: list[float], design: Design) -> list[float]:
    """Return the shares of intervals that hold the truth in one draw, a column each."""
    layer, effect = layers[-1], effects[-1]
    own = layer.intervals["stratified_delta_squared"]
    strata = layer.intervals["strata"]
    directed = np.array([reached(one, each, design, true) for each, true in zip(layers, effects)])
    truth = float(directed[-1].mean())
    auroc = layer.auroc
    assert auroc is not None
    within = np.abs(auroc.by_stratum - truth) <= 1.96 * auroc.stratum_error
    head = headline(layers, design)
    return [
        float(own.low <= effect <= own.high),
        float(np.mean((strata.low <= effect) & (effect <= strata.high))),
        _headline_held(head, effects),
        float(abs(auroc.auroc - truth) <= 1.96 * auroc.standard_error),
        float(np.mean(within)),
        _headline_auroc_held(head, directed),
    ]


def _headline_held(head: Headline, effects: list[float]) -> float:
    truth = float(np.mean([effects[place] for place in head.choice.chosen]))
    return float(head.delta_squared.low <= truth <= head.delta_squared.high)


def _headline_auroc_held(head: Headline, directed: np.ndarray) -> float:
    truth = float(np.mean([directed[place, fold] for fold, place in enumerate(head.choice.chosen)]))
    assert head.auroc is not None
    return float(abs(head.auroc.auroc - truth) <= 1.96 * head.auroc.standard_error)


def coverage(one: Population, draws: int, seed: int) -> np.ndarray:
    """Return the share of intervals that hold the truth, a column each."""
    design, generator = design_for(one), np.random.default_rng(seed)
    effects = [0.0, one.delta2]
    found = [
        held(one, [draw(one, design, generator, effect) for effect in effects], effects, design)
        for _ in track(range(draws), str(one), transient=True)
    ]
    return np.mean(found, axis=0)


def main() -> None:
    """Draw and show a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of one population, from 0")
    options = parser.parse_args()
    table = Table("width", "rows", "axioms", "true δ²", "variance", *COLUMNS, title=f"{options.draws} draws each")
    chosen = POPULATIONS if options.only is None else POPULATIONS[options.only : options.only + 1]
    for one in chosen:
        shares = coverage(one, options.draws, options.seed)
        facts = (one.width, one.rows, one.axioms, one.delta2, one.variance)
        table.add_row(*map(str, facts), *(f"{share:.3f}" for share in shares))
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
