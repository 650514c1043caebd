"""probe=word_class: how far classes of words lie apart in each layer (Surendra et al., 2023, arXiv 2302.07588).

Shapes: n samples, d columns, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from vlsae.bounds import OneOf, Range
from vlsae.errors import UserError
from vlsae.probes.base import Probe, Representations
from vlsae.probes.by_sample import rows_by_sample
from vlsae.probes.folds import grouped_folds
from vlsae.probes.separability import gdv
from vlsae.probes.targets import Target, Targets
from vlsae.progress import progress
from vlsae.result import HeatMap, Measure, Plot, Result, Series, Table
from vlsae.statistics import Interval, jackknife, permutation_p_value

#: What the network with weights drawn anew is called.
UNTRAINED = "untrained"

#: Blocks of groups that the jackknife leaves out.
BLOCKS = 10


class WordClass(Probe):
    """The generalized discrimination value of every site for every target of classes, beside shuffled classes.

    Each sample is one row: take the last token's (``extract.tokens.pooling=last``). Texts that repeat count once.
    Classes of fewer than ``fewest`` samples are left out; at most ``rows`` samples are drawn. ``map`` draws the rows of
    each site on a plane. ``untrained`` puts the same network with weights drawn anew beside it.
    """

    def __init__(
        self,
        *,
        targets: list[str] | None = None,
        rows: Annotated[int, Range(20, None)] = 600,
        fewest: Annotated[int, Range(2, None)] = 15,
        permutations: Annotated[int, Range(19, None)] = 99,
        map: Annotated[str, OneOf("pca", "mds", "none")] = "pca",
        untrained: bool = True,
    ) -> None:
        self.targets, self.rows, self.fewest, self.permutations, self.map = targets, rows, fewest, permutations, map
        self.untrained = untrained

    def check(self, targets: Targets) -> None:
        """Raise ``UserError`` for targets that are not there or of no classes, and for classes that are too small."""
        for one in self._targets(targets):
            self._chosen(one, targets, 0)

    def variants(
        self, model: Mapping[str, Any], dataset: Mapping[str, Any], runs: Path | None = None
    ) -> dict[str, dict[str, Any]]:
        """Return the extraction by the network with weights drawn anew."""
        if not self.untrained:
            return {}
        return {UNTRAINED: {"model": {"_target_": "vlsae.models.untrained.Untrained", "exact": dict(model)}}}

    def measure(self, representations: Representations, targets: Targets) -> Result:
        """Return each site's discrimination value with its jackknife interval, and those of shuffled classes."""
        values: list[list[Any]] = []
        without: list[list[Any]] = []
        distances: list[list[Any]] = []
        plots: list[Plot | HeatMap] = []
        notes = []
        wanted = self._targets(targets)
        with progress("word classes", len(wanted) * len(representations.sites), "sites") as advance:
            for one in wanted:
                chosen = self._chosen(one, targets, representations.seed)
                numbers = one.values[chosen].astype(np.int64)
                blocks = grouped_folds(targets.groups[chosen], BLOCKS, representations.seed)
                counts = np.bincount(numbers, minlength=len(one.classes))
                sizes = ", ".join(f"{name} {count}" for name, count in zip(one.classes, counts) if count)
                notes.append(f"{one.name}: {len(chosen)} samples; {sizes}. Values compare along these samples only.")
                maps = []
                for site, rows in representations:
                    x = rows_by_sample(rows, chosen)
                    values.append([site, one.name, *self._value(x, numbers, blocks, representations.seed)])
                    distances += _distances(site, one, x, numbers)
                    maps += self._series(site, one, x, numbers, representations.seed)
                    advance(1, site)
                for site, rows in representations.variants.get(UNTRAINED, ()):
                    bare = _jackknifed(rows_by_sample(rows, chosen), numbers, blocks)
                    without.append([site, one.name, float(bare.estimate), float(bare.low), float(bare.high)])
                if maps:
                    title = f"{one.name} on a plane of each site"
                    plots.append(Plot(f"map_{one.name}", title, "first", "second", maps, "scatter", MAPS))
        metrics = {f"gdv/{row[1]}/{row[0]}": Measure(row[2], "GDV", row[3], row[4]) for row in values}
        metrics |= {f"shuffled/{row[1]}/{row[0]}": Measure(row[5], "GDV", row[6], row[7]) for row in values}
        metrics |= {f"untrained/{row[1]}/{row[0]}": Measure(row[2], "GDV", row[3], row[4]) for row in without}
        tables = [
            Table("sites", "Discrimination of classes at each site", VALUE_COLUMNS, values, VALUES, shown=True),
            Table("distances", "Mean distances within and between classes", DISTANCE_COLUMNS, distances, DISTANCES),
        ]
        if without:
            tables.append(Table("untrained", "The same network untrained", UNTRAINED_COLUMNS, without, VALUES))
        headline = [f"gdv/{row[1]}/{row[0]}" for row in values][:12]
        return Result(metrics, tables, [_plot(values, without), *plots], notes, headline)

    def _targets(self, targets: Targets) -> list[Target]:
        known = targets.select(self.targets)
        found = [one for one in known if one.kind != "number"]
        if self.targets is not None and len(found) < len(known):
            name = next(one.name for one in known if one.kind == "number")
            raise UserError(
                f"The target {name} holds numbers; probe=word_class compares classes.", "Take another target."
            )
        if not found:
            raise UserError("The samples have no classes.", "Map a column of words: dataset.columns.label=NAME.")
        return found

    def _chosen(self, target: Target, targets: Targets, seed: int) -> np.ndarray:
        """Return the samples to compare, ascending: labelled, each text once, of classes that are large enough."""
        there = target.labelled
        if "texts" in targets.samples.column_names:
            texts = [tuple(one) for one in targets.samples["texts"].to_pylist()]
            first = {text: number for number, text in reversed(list(enumerate(texts)))}
            there = there & np.array([first[text] == number for number, text in enumerate(texts)])
        drawn = np.random.default_rng(seed).permutation(np.flatnonzero(there))[: self.rows]
        numbers, counts = np.unique(target.values[drawn], return_counts=True)
        large = numbers[counts >= self.fewest]
        if len(large) < 2:
            raise UserError(
                f"{len(large)} classes of {target.name} have {self.fewest} of {len(drawn)} samples; two are needed.",
                "Use more samples, or a lower probe.fewest.",
            )
        kept = np.sort(drawn[np.isin(target.values[drawn], large)])
        if len(np.unique(targets.groups[kept])) < BLOCKS:
            raise UserError(f"The samples are of fewer than {BLOCKS} groups.", "Use more samples of other groups.")
        return kept

    def _value(self, x: np.ndarray, numbers: np.ndarray, blocks: np.ndarray, seed: int) -> list[float]:
        """Return the value with its interval, mean and ends of shuffled classes, and the p-value of no order."""
        found = _jackknifed(x, numbers, blocks)
        generator = np.random.default_rng(seed)
        null = np.array([gdv(x, generator.permutation(numbers)).value for _ in range(self.permutations)])
        # Classes lie apart where the value is low.
        p_value = permutation_p_value(-float(found.estimate), -null)
        low, high = np.quantile(null, [0.025, 0.975])
        ends = [found.estimate, found.low, found.high, null.mean(), low, high, p_value]
        return [float(one) for one in ends]

    def _series(self, site: str, target: Target, x: np.ndarray, numbers: np.ndarray, seed: int) -> list[Series]:
        if self.map == "none":
            return []
        flat = _plane(x, self.map, seed)
        return [
            Series(target.classes[number], flat[own, 0].tolist(), flat[own, 1].tolist(), panel=site)
            for number, own in ((number, numbers == number) for number in np.unique(numbers))
        ]


def _jackknifed(x: np.ndarray, numbers: np.ndarray, blocks: np.ndarray) -> Interval:
    return jackknife(lambda rows: gdv(x[rows], numbers[rows]).value, blocks)


def _plane(x: np.ndarray, kind: str, seed: int) -> np.ndarray:
    """Return the rows ``(n, d)`` on a plane ``(n, 2)``: first principal components, or metric scaling of distances."""
    if kind == "mds":
        from sklearn.manifold import MDS

        return np.asarray(MDS(2, n_init=1, random_state=seed).fit_transform(x))
    centered = x - x.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centered, full_matrices=False)
    flat = np.zeros((len(x), 2))
    flat[:, : min(2, len(sizes))] = left[:, :2] * sizes[:2]
    return flat


def _distances(site: str, target: Target, x: np.ndarray, numbers: np.ndarray) -> list[list[Any]]:
    found = gdv(x, numbers)
    names = [target.classes[number] for number in found.classes]
    within = [[site, target.name, name, name, float(value)] for name, value in zip(names, found.intra)]
    between = [
        [site, target.name, names[a], names[b], float(found.inter[a, b])]
        for a in range(len(names))
        for b in range(a + 1, len(names))
    ]
    return within + between


def _plot(values: Sequence[Sequence[Any]], without: Sequence[Sequence[Any]]) -> Plot:
    series = []
    for stream in dict.fromkeys(row[0].split(".")[0] for row in values):
        for target in dict.fromkeys(row[1] for row in values):
            own = [row for row in values if row[1] == target and row[0].split(".")[0] == stream]
            x = [row[0].partition(".")[2] or row[0] for row in own]
            for label, start in (("classes", 2), ("shuffled", 5)):
                value, low, high = ([row[start + k] for row in own] for k in range(3))
                series.append(Series(label, x, value, low, high, f"{stream}: {target}"))
            bare = {row[0]: row[2:5] for row in without if row[1] == target}
            if bare:
                value, low, high = ([bare[row[0]][k] for row in own] for k in range(3))
                series.append(Series(UNTRAINED, x, value, low, high, f"{stream}: {target}"))
    return Plot("gdv", "Discrimination of classes by layer", "layer", "GDV", series, "lines", VALUES, {"none": 0.0})


VALUE_COLUMNS = ["site", "target", "GDV", "low", "high", "shuffled", "shuffled low", "shuffled high", "p"]
UNTRAINED_COLUMNS = ["site", "target", "GDV", "low", "high"]
DISTANCE_COLUMNS = ["site", "target", "class", "other class", "distance"]
VALUES = (
    "0: classes do not lie apart, −1: perfectly. 95 % jackknife intervals over blocks of groups; shuffled: mean and "
    "95 % of values of shuffled classes."
)
DISTANCES = "Of columns scaled alike, over the root of their number; a class with itself: mean distance within it."
MAPS = "For the eye only; values are of all columns."
