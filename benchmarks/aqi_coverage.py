"""How often the 95 % intervals of the alignment quality index hold the truth, over many draws of known populations.

    python benchmarks/aqi_coverage.py --draws 400

Rows are normal or of a multivariate t, so that every truth is known: δ² by construction, AUROC as what the directions
that were found reach on new rows. Of two layers one is noise; ``δ²`` is the layer with the effect, ``axiom`` its
axioms' own, ``headline`` the cross-fitted one, its truth what its folds' layers truly hold. The standard error of a
share is 0.013 at 300 draws.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from coverage_table import show
from rich.progress import track
from scipy import stats

from vlsae.aqi.accumulators import ClassMoments
from vlsae.aqi.crossfit import crossfitted, directions, scored_auroc, scores_along
from vlsae.aqi.design import Design, design_of
from vlsae.aqi.headline import Headline, headline
from vlsae.aqi.labelling import Samples, label_samples
from vlsae.aqi.layer import Layer, layer_of

COLUMNS = ("δ²", "axiom δ²", "headline δ²", "AUROC", "axiom AUROC", "headline AUROC")


@dataclass(frozen=True)
class Population:
    """Width, rows a class and axiom, axioms, true δ², how variance falls over coordinates, where the means lie apart.

    ``equal``; ``power`` as 1/k; or ``five`` coordinates that hold nearly all. Means lie apart by the same in each
    coordinate, or in the ``loudest`` alone. With ``freedom`` rows are of a multivariate t, heavy in the tails.
    """

    width: int
    rows: int
    axioms: int
    delta2: float
    variance: str = "equal"
    loudest: bool = False
    freedom: int = 0

    @property
    def deviation(self) -> np.ndarray:
        """Each coordinate's deviation within classes, ``(d,)``."""
        place = np.arange(self.width)
        return {
            "equal": np.ones(self.width),
            "power": 1 / np.sqrt(1 + place),
            "five": np.where(place < 5, 1.0, 0.1),
        }[self.variance]

    def shift(self, delta2: float) -> np.ndarray:
        """Return how far the means lie apart, ``(d,)``."""
        where = np.arange(self.width) < (1 if self.loudest else self.width)
        return where * np.sqrt(delta2 * (self.deviation**2).sum() / where.sum())

    def draw(self, generator: np.random.Generator, n: int) -> np.ndarray:
        """Return n rows without effect, ``(n, d)``."""
        x = generator.normal(size=(n, self.width)) * self.deviation
        if not self.freedom:
            return x
        return x * np.sqrt((self.freedom - 2) / generator.chisquare(self.freedom, size=n))[:, None]

    def auroc(self, distance: np.ndarray) -> np.ndarray:
        """Return the AUROC of two such populations that lie ``distance`` deviations apart along a line."""
        if not self.freedom:
            return np.asarray(stats.norm.cdf(distance / np.sqrt(2)))
        scale = np.sqrt((self.freedom - 2) / self.freedom)
        drawn = stats.t.ppf((np.arange(2000) + 0.5) / 2000, self.freedom)
        return stats.t.cdf(drawn + np.asarray(distance)[..., None] / scale, self.freedom).mean(axis=-1)


POPULATIONS = (
    Population(64, 40, 1, 0.0),
    Population(64, 40, 1, 0.1),
    Population(64, 400, 1, 0.02),
    Population(768, 40, 1, 0.02),
    Population(64, 40, 1, 0.0, "power"),
    Population(64, 40, 1, 0.1, "power"),
    Population(64, 80, 1, 0.1, "power", loudest=True),
    Population(64, 40, 1, 0.1, "five"),
    Population(64, 80, 1, 0.1, "five", loudest=True),
    Population(64, 40, 1, 0.1, "equal", freedom=5),
    Population(64, 80, 1, 0.05, "five", freedom=5),
    Population(64, 40, 1, 0.3),
    Population(64, 40, 7, 0.0),
    Population(64, 40, 7, 0.1, "five"),
    Population(64, 40, 7, 0.1, "power"),
    Population(64, 200, 1, 0.1),
    Population(256, 100, 1, 0.02),
    Population(256, 100, 1, 1.0),
    Population(256, 100, 1, 0.1, "five"),
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
    x = one.draw(generator, len(design.codes)) + (design.codes == 0)[:, None] * one.shift(delta2)
    layer = layer_of("drawn", ClassMoments(design.n_cells, one.width).update(x, design.cells), design, scaled=False)
    ways, shift = _directions(layer, design), np.asarray(layer.cells.shift)
    scores = scores_along(x, ways, shift)[np.arange(len(x)), design.folds]
    shared = layer.direction.share(design.n_folds)
    found = scored_auroc(scores, design.codes == 0, design.folds, design.strata, shared)
    return replace(layer, auroc=crossfitted(found, scores))


def reached(one: Population, layer: Layer, design: Design, delta2: float) -> np.ndarray:
    """Return the AUROC that each fold's direction reaches on new rows, ``(F,)``."""
    ways = _directions(layer, design)
    return one.auroc(ways @ one.shift(delta2) / np.sqrt(((ways * one.deviation) ** 2).sum(axis=1)))


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
    within = (auroc.stratum_low <= truth) & (truth <= auroc.stratum_high)
    head = headline(layers, design)
    return [
        float(own.low <= effect <= own.high),
        float(np.mean((strata.low <= effect) & (effect <= strata.high))),
        _headline_held(head, effects),
        float(auroc.low <= truth <= auroc.high),
        float(np.mean(within)),
        _headline_auroc_held(head, directed),
    ]


def _headline_held(head: Headline, effects: list[float]) -> float:
    truth = float(np.mean([effects[place] for place in head.choice.chosen]))
    return float(head.delta_squared.low <= truth <= head.delta_squared.high)


def _headline_auroc_held(head: Headline, directed: np.ndarray) -> float:
    truth = float(np.mean([directed[place, fold] for fold, place in enumerate(head.choice.chosen)]))
    assert head.auroc is not None
    return float(head.auroc.low <= truth <= head.auroc.high)


def coverage(one: Population, draws: int, seed: int) -> np.ndarray:
    """Return the share of intervals that hold the truth, a column each."""
    design, generator = design_for(one), np.random.default_rng(seed)
    effects = [0.0, one.delta2]
    found = [
        held(one, [draw(one, design, generator, effect) for effect in effects], effects, design)
        for _ in track(range(draws), str(one), transient=True)
    ]
    return np.mean(found, axis=0)


def facts(one: Population) -> list[str]:
    """Return the first cells of a population's row."""
    words = [one.variance, *["loudest"] * one.loudest, *[f"t of {one.freedom}"] * bool(one.freedom)]
    return [*map(str, (one.width, one.rows, one.axioms, one.delta2)), ", ".join(words)]


if __name__ == "__main__":
    show(__doc__, POPULATIONS, ("width", "rows", "axioms", "true δ²", "variance", *COLUMNS), facts, coverage, draws=400)
