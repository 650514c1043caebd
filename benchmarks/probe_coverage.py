"""How often 95 % intervals of linear probes hold the truth: what the folds' fits reach on new rows.

    OMP_NUM_THREADS=1 python benchmarks/probe_coverage.py --draws 300 --seed 0

Drawn rows are normal, two classes, four or a number lie along all coordinates; a second site holds half the effect.
Numbers go the way of the command: folds, nested penalties, controls, resamples. ``best`` is the site that each fold's
others chose. The truth is exact, for four classes counted on 5,000 new rows; the standard error of a share is 0.013 at
300 draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from coverage_table import show
from rich.progress import track
from scipy import stats

from vlsae.probes.depth_curves import depth_curves
from vlsae.probes.findings import Finding, result_of
from vlsae.probes.fold_noise import noise_of
from vlsae.probes.folds import grouped_folds, lacking
from vlsae.probes.linear import PENALTIES
from vlsae.probes.nested import nested, with_penalties
from vlsae.probes.targets import Target

FOLDS, RESAMPLES, NEW = 5, 500, 5_000
COLUMNS = ("score", "AUROC", "F1", "selectivity", "best")
SITES = {"x.1": 1.0, "x.2": 0.5}


@dataclass(frozen=True)
class Population:
    """Rows, width, classes (0: a number), and the effect.

    Of two classes their distance in deviations, of more the centres' from the middle; of a number, R².
    """

    rows: int
    width: int
    classes: int
    effect: float

    @property
    def target(self) -> Target:
        """The target's kind and classes."""
        kind = {0: "number", 2: "binary"}.get(self.classes, "classes")
        return Target("y", kind, np.empty(0), tuple(map(str, range(self.classes))), "y")

    def draw(self, generator: np.random.Generator, n: int, share: float) -> tuple[np.ndarray, np.ndarray]:
        """Return n rows ``(n, d)`` that hold ``share`` of the effect, and their values ``(n,)``."""
        x = generator.normal(size=(n, self.width))
        if self.classes == 0:
            told = np.sqrt(self.effect * share) * x.sum(axis=1) / np.sqrt(self.width)
            return x, told + np.sqrt(1 - self.effect * share) * generator.normal(size=n)
        y = generator.integers(0, self.classes, n)
        return x + share * self.effect * self.centres[y], y.astype(float)

    @property
    def centres(self) -> np.ndarray:
        """Where each class lies for an effect of 1, ``(C, d)``."""
        if self.classes == 2:
            return np.array([[-0.5], [0.5]]) * np.ones(self.width) / np.sqrt(self.width)
        return np.sqrt(self.classes / self.width) * np.eye(self.classes)[:, np.arange(self.width) % self.classes]


POPULATIONS = (
    *(Population(n, d, 2, effect) for n in (60, 120, 400) for d in (5, 64) for effect in (0.0, 1.0, 2.5)),
    *(Population(n, d, 0, effect) for n in (60, 120, 400) for d in (5, 64) for effect in (0.0, 0.3, 0.9)),
    *(Population(n, d, 4, effect) for n in (120, 400) for d in (5, 64) for effect in (0.0, 1.0)),
)


def finding(one: Population, site: str, generator: np.random.Generator) -> Finding:
    """Return one site's probe of one draw; draws that cannot be probed for are drawn anew."""
    rows = np.arange(one.rows)
    while True:
        x, y = one.draw(generator, one.rows, SITES[site])
        folds = grouped_folds(rows, FOLDS, int(generator.integers(1 << 30)))
        control = y[generator.integers(0, one.rows, one.rows)]
        if not any(lacking(one.target, values, folds) for values in (y, control)):
            break
    (fit,) = nested(x, y[:, None], folds, PENALTIES, one.classes)
    (other,) = with_penalties(x, control[:, None], folds, fit.penalties[:, None], one.classes)
    return Finding(site, one.target, y, folds, rows, rows, rows, fit, (other, control), np.nan)


def truths(one: Population, found: Finding, new: tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what each fold's fits reach on rows of the population, ``(K,)`` by number: exact, of four classes counted
    on ``new`` rows."""
    share = SITES[found.site]
    assert found.control is not None
    own, other = (fit.coefficients[:-1] for fit in (found.fit, found.control[0]))
    if one.classes > 2:
        x, y = new
        told, by_chance = (
            (np.einsum("kcd,nd->knc", fit[..., :-1], x, optimize=True) + fit[:, None, :, -1]).argmax(axis=-1)
            for fit in (own, other)
        )
        shares = np.bincount(found.y.astype(int), minlength=one.classes) / len(found.y)
        return {"hits": (told == y).mean(axis=1), "control": shares[by_chance].mean(axis=1)}
    slopes, offsets, wild, off = own[:, 0, :-1], own[:, 0, -1], other[:, 0, :-1], other[:, 0, -1]
    if one.classes == 0:
        truth = np.full(one.width, np.sqrt(one.effect * share / one.width))
        labels = found.control[1]
        means, about = (
            np.array([values[found.folds != fold].mean() for fold in range(FOLDS)]) for values in (found.y, labels)
        )
        # Labels of the control task are drawn from those of the sample, whatever the row.
        spread, middle = labels.var(), labels.mean()
        return {
            "left": ((slopes - truth) ** 2).sum(axis=1) + offsets**2 + 1 - one.effect * share,
            "alone": 1 + means**2,
            "control": (wild**2).sum(axis=1) + (off - middle) ** 2 + spread,
            "about": (about - middle) ** 2 + spread,
        }
    high, low = _told_positive(slopes, offsets, share * one.effect * one.centres[1])
    by_chance = np.mean(_told_positive(wild, off, share * one.effect * one.centres[1]), axis=0)
    length = np.maximum(np.linalg.norm(slopes, axis=1), np.finfo(float).tiny)
    apart = 2 * share * one.effect * (slopes @ one.centres[1])
    positive = found.y.mean()
    return {
        "hits": (high + 1 - low) / 2,
        "control": by_chance * positive + (1 - by_chance) * (1 - positive),
        "auroc": stats.norm.cdf(apart / length / np.sqrt(2)),
        "f1": np.full(FOLDS, 2 * high.mean() / (high.mean() + low.mean() + 1)),
    }


def _told_positive(slopes: np.ndarray, offsets: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how often each fit tells rows around ``centre`` and around its opposite to be of class 1, ``(K,)``."""
    length = np.maximum(np.linalg.norm(slopes, axis=1), np.finfo(float).tiny)
    return stats.norm.cdf((offsets + slopes @ centre) / length), stats.norm.cdf((offsets - slopes @ centre) / length)


def r2(left: np.ndarray, alone: np.ndarray) -> float:
    """Return the share explained of what errors and distances from the mean come to over folds."""
    return float(1 - left.mean() / alone.mean())


def held(one: Population, generator: np.random.Generator, new: dict[str, tuple[np.ndarray, np.ndarray]]) -> list[float]:
    """Return whether each interval of one draw holds the truth, a column each; NaN where there is none."""
    own = [finding(one, site, generator) for site in SITES]
    result = result_of(own, [one.target], [], resamples=RESAMPLES, seed=int(generator.integers(1 << 30)))
    every = [truths(one, found, new[found.site]) for found in own]
    row = dict(zip(result.tables[1].columns, result.tables[1].rows[0]))
    best = [int(np.argmax([found.parts[found.folds != fold].mean() for found in own])) for fold in range(FOLDS)]
    if one.classes == 0:
        score = r2(every[0]["left"], every[0]["alone"])
        control = r2(every[0]["control"], every[0]["about"])
        picked = {name: np.array([every[place][name][fold] for fold, place in enumerate(best)]) for name in every[0]}
        top = r2(picked["left"], picked["alone"])
    else:
        score, control = every[0]["hits"].mean(), every[0]["control"].mean()
        top = np.mean([every[place]["hits"][fold] for fold, place in enumerate(best)])
    within = [row["low"] <= score <= row["high"], np.nan, np.nan]
    if one.classes == 2:
        first = own[0]
        noise = noise_of(first.fit, first.y, first.folds).mean()
        settings: Any = {"jump_ratio": 1.1, "tolerance": 0.03, "resamples": RESAMPLES, "seed": 0}
        curves = depth_curves(["x.1"], first.fit.scores, first.y, first.folds, first.groups, noise, **settings)
        within[1] = row["auroc_low"] <= every[0]["auroc"].mean() <= row["auroc_high"]
        within[2] = curves.f1.low[0] <= every[0]["f1"].mean() <= curves.f1.high[0]
    within.append(row["selectivity_low"] <= score - control <= row["selectivity_high"])
    low, high = result.metrics["best/y"].low, result.metrics["best/y"].high
    within.append(low is not None and high is not None and low <= top <= high)
    return [float(each) for each in within]


def coverage(one: Population, draws: int, seed: int) -> np.ndarray:
    """Return the share of intervals that hold the truth, a column each."""
    generator = np.random.default_rng([seed, one.rows, one.width, one.classes, int(100 * one.effect)])
    new = {site: one.draw(generator, NEW, share) for site, share in SITES.items()}
    return np.mean([held(one, generator, new) for _ in track(range(draws), str(one), transient=True)], axis=0)


def facts(one: Population) -> list[str]:
    """Return the first cells of a population's row."""
    return [str(one.rows), str(one.width), str(one.classes or "number"), f"{one.effect:g}"]


if __name__ == "__main__":
    show(__doc__, POPULATIONS, ("rows", "width", "classes", "effect", *COLUMNS), facts, coverage, draws=300)
