"""probe=geometry: the shape of each layer's rows, and how alike any two layers, runs or models are.

Shapes: n samples, S sites, B blocks of groups.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Annotated, Any, NamedTuple

import numpy as np

from vlsae.bounds import Range
from vlsae.errors import UserError
from vlsae.probes.base import Probe, Representations
from vlsae.probes.by_sample import rows_by_sample
from vlsae.probes.conditions import across_contexts, parallelism_score
from vlsae.probes.dimension import participation_ratio, twonn
from vlsae.probes.folds import grouped_folds
from vlsae.probes.geometry_findings import (
    ABSTRACT,
    ALIGNMENTS,
    MAP_COLUMNS,
    MAPS,
    PAIR_COLUMNS,
    SHAPE_COLUMNS,
    SHAPES,
    SIMILARITY,
    TARGET_COLUMNS,
    Shape,
    abstract_metrics,
    abstract_plot,
    alignment_plot,
    dimension_plot,
    heat_maps,
    shape_metrics,
    shape_rows,
    target_rows,
    three,
    within,
)
from vlsae.probes.inputs import varying
from vlsae.probes.logistic import fit_logistic
from vlsae.probes.scores import grouped_means
from vlsae.probes.similarity import cka
from vlsae.probes.similarity_maps import similarity_maps
from vlsae.probes.targets import Target, Targets
from vlsae.progress import progress
from vlsae.result import HeatMap, Plot, Result, Table
from vlsae.statistics import jackknife, jackknife_interval

logger = logging.getLogger(__name__)

#: A pair of factors is used where each of its four conditions has at least so many samples.
FEWEST = 10

#: Resamples of groups behind the intervals of decoding.
RESAMPLES = 1000

#: Cells with fewer rows than this times the smaller width are where biased CKA misleads.
ROWS_A_COLUMN = 10


#: The conditions for and against the two targets of a pair and their xor.
SIDES = (([2, 3], [0, 1]), ([1, 3], [0, 2]), ([1, 2], [0, 3]))


class Pair(NamedTuple):
    """Two binary targets and the number of each sample's condition ``(n,)``: 2·first + second."""

    first: str
    second: str
    conditions: np.ndarray

    @property
    def names(self) -> tuple[str, str, str]:
        """The three balanced dichotomies of the conditions: both targets, and whether they differ."""
        return self.first, self.second, f"{self.first} xor {self.second}"


class Geometry(Probe):
    """Dimension, alignment with input and targets, abstraction of factors, and similarity of any two sites.

    Every sample is one row of each site, the mean of its rows there. ``input`` names the site that stands for the
    input, by default the first of each stream that varies. ``other`` names a finished extraction of the same samples,
    whose sites are compared too. ``pairs`` pairs of binary targets of different factors, those whose rarest condition
    is most frequent, give cross-condition generalisation, parallelism and shattering. Intervals leave out ``blocks``
    blocks of groups.
    """

    def __init__(
        self,
        *,
        targets: list[str] | None = None,
        samples: Annotated[int, Range(20, None)] = 500,
        pairs: Annotated[int, Range(0, None)] = 4,
        input: str | None = None,
        other: str | None = None,
        penalty: Annotated[float, Range(1e-6, 1e6)] = 1.0,
        blocks: Annotated[int, Range(4, 100)] = 10,
    ) -> None:
        self.targets, self.samples, self.pairs, self.input, self.other = targets, samples, pairs, input, other
        self.penalty, self.blocks = penalty, blocks

    def check(self, targets: Targets) -> None:
        """Raise ``UserError`` for targets that are not there and for fewer groups than blocks."""
        if self.targets is not None:
            targets.select(self.targets)
        _blocks(targets.groups, self.blocks, 0)

    def measure(self, representations: Representations, targets: Targets) -> Result:
        """Return each site's geometry and the similarity of any two sites, with jackknife intervals over groups."""
        chosen, others, differing = self._samples(representations, targets)
        sites = {site: rows_by_sample(rows, chosen) for site, rows in representations}
        theirs = {f"other:{site}": rows for site, rows in others.items()}
        blocks = _blocks(targets.groups[chosen], self.blocks, representations.seed)
        known = self._targets(targets)
        inputs = self._inputs(sites)
        pairs = _pairs(known, chosen, blocks, self.pairs)
        coded = {one.name: _code(one, chosen) for one in known if one.labelled[chosen].all()}
        shapes = _shapes(sites, inputs, coded, blocks)
        abstract = self._abstract(sites, pairs, targets.groups[chosen], blocks, representations.seed)
        maps = _maps(list(sites), [*sites.values()], list(theirs), [*theirs.values()], blocks)
        notes = [*differing, *self._notes(sites, pairs, inputs, targets)]
        metrics = {**shape_metrics(shapes), **abstract_metrics(abstract)}
        tables = [
            Table("sites", "Geometry of each site", SHAPE_COLUMNS, shape_rows(shapes), SHAPES, shown=True),
            Table("targets", "Kernel alignment with each target", TARGET_COLUMNS, target_rows(shapes), ALIGNMENTS),
            Table("pairs", "Factor pairs at each site", PAIR_COLUMNS, abstract, ABSTRACT),
            Table("similarity", "Similarity of any two sites", MAP_COLUMNS, maps, SIMILARITY),
        ]
        plots: list[Plot | HeatMap] = [dimension_plot(shapes), alignment_plot(shapes)]
        if abstract:
            plots.append(abstract_plot(abstract))
        plots += heat_maps(maps)
        headline = [f"participation_ratio/{site}" for site in sites]
        return Result(metrics, tables, plots, notes, headline)

    def _targets(self, targets: Targets) -> list[Target]:
        return targets.usable()[0] if self.targets is None else targets.select(self.targets)

    def _samples(
        self, representations: Representations, targets: Targets
    ) -> tuple[np.ndarray, dict[str, np.ndarray], list[str]]:
        """Return the samples that every site has rows of, at most ``samples`` drawn by the seed; the other run's rows
        of them by site; and the note that these are of other texts, where they are."""
        have = np.ones(len(targets), dtype=bool)
        for _, rows in representations:
            have &= np.bincount(rows.sample, minlength=len(targets)) > 0
        other, place = None, np.empty(0, dtype=np.int64)
        if self.other is not None:
            other = _opened(self.other, representations)
            ids = {one: row for row, one in enumerate(other.samples["sample_id"].to_pylist())}  # type: ignore[index]
            place = np.array([ids.get(one, -1) for one in targets.samples["sample_id"].to_pylist()], dtype=np.int64)
            have &= place >= 0
        there = np.flatnonzero(have)
        if len(there) < self.blocks * 2:
            raise UserError(
                f"{len(there)} samples have rows at every site{'' if other is None else ' of both runs'}, too few for "
                f"{self.blocks} blocks.",
                "Use more samples of the same data, or fewer blocks: probe.blocks=4.",
            )
        drawn = np.random.default_rng(representations.seed).permutation(there)[: self.samples]
        chosen = np.sort(drawn)
        if other is None:
            return chosen, {}, []
        theirs = {site: rows_by_sample(rows, place[chosen]) for site, rows in other}
        return chosen, theirs, _differing(targets.samples, chosen, other.samples, place[chosen])

    def _inputs(self, sites: Mapping[str, np.ndarray]) -> dict[str, str]:
        """Return the site that stands for the input of each site."""
        if self.input is not None:
            if self.input not in sites:
                raise UserError(f"There is no site {self.input!r} here.", f"There are {', '.join(sites)}.")
            return dict.fromkeys(sites, self.input)
        first: dict[str, str] = {}
        for site, x in sites.items():
            # Before the first block a pooled token may be the same for every input.
            if varying(x).any():
                first.setdefault(site.split(".")[0], site)
        return {site: first.get(site.split(".")[0], site) for site in sites}

    def _abstract(
        self, sites: Mapping[str, np.ndarray], pairs: Sequence[Pair], groups: np.ndarray, blocks: np.ndarray, seed: int
    ) -> list[list[Any]]:
        rows: list[list[Any]] = []
        with progress("factor pairs", len(sites) * len(pairs), "pairs") as advance:
            for site, x in sites.items():
                for pair in pairs:
                    rows += self._pair(site, x, pair, groups, blocks, seed)
                    advance(1, site)
        return rows

    def _pair(
        self, site: str, x: np.ndarray, pair: Pair, groups: np.ndarray, blocks: np.ndarray, seed: int
    ) -> list[list[Any]]:
        """Return a row a dichotomy: parallelism, cross-condition generalisation and decoding, and the mean decoding."""

        def parallelism(rows: np.ndarray) -> np.ndarray:
            own, conditions = x[rows], pair.conditions[rows]
            means = np.stack([own[conditions == number].mean(axis=0) for number in range(4)])
            return np.array([parallelism_score(means, *side).value for side in SIDES])

        parallel = jackknife(parallelism, blocks)
        carried = across_contexts(x, pair.conditions, blocks, self.penalty)
        carried_over = jackknife_interval(carried[0], carried[1:])
        truth = np.stack([np.isin(pair.conditions, side[0]) for side in SIDES], axis=1).astype(np.float64)
        # Each condition counts alike, so that a guess by frequency stays at one half.
        weights = len(x) / (4 * np.bincount(pair.conditions, minlength=4)[pair.conditions])
        fit = fit_logistic(x, truth, blocks, self.penalty, np.repeat(weights[:, None], len(SIDES), axis=1))
        hits = ((fit.probabilities > 0.5) == (truth == 1)) * weights[:, None]
        columns = np.column_stack([hits, hits.mean(axis=1)])
        decoded = grouped_means(columns, groups, resamples=RESAMPLES, seed=seed)
        rows = []
        for number, name in enumerate(pair.names):
            decoding = [float(np.clip(part[number], 0, 1)) for part in (decoded.estimate, decoded.low, decoded.high)]
            rows.append(
                [
                    site,
                    pair.first,
                    pair.second,
                    name,
                    *within(three(parallel, number), -1),
                    *within(three(carried_over, number), 0),
                ]
                + decoding
                + [float(np.clip(part[-1], 0, 1)) for part in (decoded.estimate, decoded.low, decoded.high)]
            )
        return rows

    def _notes(
        self, sites: Mapping[str, np.ndarray], pairs: Sequence[Pair], inputs: Mapping[str, str], targets: Targets
    ) -> list[str]:
        n, width = len(next(iter(sites.values()))), max(x.shape[1] for x in sites.values())
        notes = [f"{n} samples; the input is {', '.join(dict.fromkeys(inputs.values()))}."]
        if n < ROWS_A_COLUMN * width:
            notes.append(
                f"{n} rows are fewer than {ROWS_A_COLUMN} times the widest site's {width} columns: biased CKA, and so "
                "the alignments, tend to 1 even between unrelated sites; read the unbiased CKA."
            )
        notes.append("TwoNN comes out low above about 5 dimensions; compare its values at n, n/2 and n/4.")
        if self.pairs and not pairs:
            notes.append(
                f"No two binary targets of different factors have {FEWEST} samples in each of their four conditions: "
                "no cross-condition generalisation, parallelism or shattering."
            )
        return notes


def _opened(reference: str, representations: Representations) -> Representations:
    """Return the rows of another finished extraction."""
    from vlsae.representations import Store
    from vlsae.runs import input_run, runs_root

    root = runs_root(None) if representations.runs is None else representations.runs
    run = input_run(reference, root)
    if run.stage != "extract":
        raise UserError(f"{run.id} is a run of the stage {run.stage}.", "probe.other names a run of extract.")
    return Representations.of_store(Store.open(run.path / "representations"))


def _differing(samples: Any, chosen: np.ndarray, others: Any, place: np.ndarray) -> list[str]:
    """Return the note that samples of the same id have other texts in the other run, where some have."""
    if "texts" not in samples.column_names or "texts" not in others.column_names:
        return []
    own, theirs = (table["texts"].take(rows).to_pylist() for table, rows in ((samples, chosen), (others, place)))
    count = sum(one != other for one, other in zip(own, theirs))
    if not count:
        return []
    note = f"{count} of {len(own)} samples have other texts in the other run: their ids agree, their data do not."
    logger.warning(note)
    return [note]


def _blocks(groups: np.ndarray, blocks: int, seed: int) -> np.ndarray:
    if len(np.unique(groups)) < blocks:
        raise UserError(
            f"There are {len(np.unique(groups))} groups of samples for {blocks} blocks.",
            "Use more samples, or fewer blocks: probe.blocks=4.",
        )
    return grouped_folds(groups, blocks, seed)


def _code(target: Target, chosen: np.ndarray) -> np.ndarray:
    """Return a target as rows ``(n, C)`` whose kernel tells classes, or numbers, apart."""
    values = target.values[chosen]
    if target.kind == "classes":
        return np.asarray(np.eye(len(target.classes))[values.astype(int)])
    return np.asarray(values[:, None])


def _pairs(known: Sequence[Target], chosen: np.ndarray, blocks: np.ndarray, most: int) -> list[Pair]:
    """Return the pairs of binary targets whose rarest condition is most frequent; ties in the order of targets."""
    binary = [one for one in known if one.kind == "binary" and one.labelled[chosen].all()]
    found = []
    for first, second in combinations(binary, 2):
        if first.factor == second.factor:
            continue
        conditions = (2 * first.values[chosen] + second.values[chosen]).astype(np.int64)
        rarest = np.bincount(conditions, minlength=4).min()
        spread = min(len(np.unique(blocks[conditions == number])) for number in range(4))
        if rarest >= FEWEST and spread > 1:
            found.append((int(rarest), Pair(first.name, second.name, conditions)))
    found.sort(key=lambda one: -one[0])
    return [pair for _, pair in found[:most]]


def _shapes(
    sites: Mapping[str, np.ndarray], inputs: Mapping[str, str], coded: Mapping[str, np.ndarray], blocks: np.ndarray
) -> list[Shape]:
    found = []
    with progress("geometry", len(sites), "sites") as advance:
        for site, x in sites.items():
            beside = sites[inputs[site]]

            def numbers(rows: np.ndarray, x: np.ndarray = x, beside: np.ndarray = beside) -> np.ndarray:
                own = x[rows]
                aligned = [cka(own, one[rows]) for one in coded.values()]
                return np.array([participation_ratio(own), twonn(own).mle, cka(own, beside[rows]), *aligned])

            own = jackknife(numbers, blocks)
            parts = {name: three(own, number) for number, name in enumerate(coded, 3)}
            # The order of samples says nothing, so every second and fourth of them is a draw.
            halved, quartered = (twonn(x[::step]).mle for step in (2, 4))
            found.append(Shape(site, x.shape[1], three(own, 0), three(own, 1), halved, quartered, three(own, 2), parts))
            advance(1, site)
    return found


def _maps(
    names: Sequence[str],
    own: Sequence[np.ndarray],
    beside: Sequence[str],
    others: Sequence[np.ndarray],
    blocks: np.ndarray,
) -> list[list[Any]]:
    """Return a row a pair of sites of which the first is this run's: each similarity with its interval."""
    everything = [*own, *others]
    found = jackknife(lambda rows: np.stack(similarity_maps([x[rows] for x in everything])), blocks)
    labels = [*names, *beside]
    return [
        [labels[a], labels[b], *(value for kind in range(len(MAPS)) for value in three(found, (kind, a, b)))]
        for a in range(len(names))
        for b in range(len(labels))
    ]
