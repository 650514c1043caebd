"""The whole index: every layer, the headline, the axioms, and what speaks against believing them.

n rows, L layers, d width, A strata.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from vlsae.aqi import composites
from vlsae.aqi.axioms import Axiom, axioms_of
from vlsae.aqi.compare import PairedComparison, paired_blocks
from vlsae.aqi.confounds import Length, confound_notes, length_control, length_matched
from vlsae.aqi.crossfit import ScoredAUROC, scored_auroc
from vlsae.aqi.design import Design, permuted_labels
from vlsae.aqi.headline import Headline, headline
from vlsae.aqi.held_out import LearnedPooling, learned_pooling
from vlsae.aqi.labelling import Labelling
from vlsae.aqi.layer import Layer, measure, pairwise_indices
from vlsae.aqi.lexical import bag_of_words_scores
from vlsae.aqi.projection import Plane, balanced, project

#: Rows up to which Dunn and silhouette are computed at every layer, in n² d time each.
PAIRWISE_ROWS = 2000

#: Points of the projection.
POINTS = 1000


@dataclass(frozen=True)
class Settings:
    """What is computed beside the layers' own numbers."""

    permutations: int = 999
    pairwise: str = "auto"
    composites: Sequence[str] = ("paper_sum",)
    lam: float = 0.5
    gamma: float = 0.5
    chi_max: float | None = None
    length_match: bool = False
    learned_loss: str | None = "fisher"
    learned_map: str = "sparsemax"
    learned_rows: int = 2000
    projection: str = "pca"
    seed: int = 0


@dataclass(frozen=True)
class Source:
    """Where rows come from: sites with their widths, and ``fetch(place, rows)`` → ``(m, d)`` of a site.

    ``control`` gives the rows of the input of the first block, averaged over tokens: a bag of tokens.
    """

    sites: Sequence[str]
    widths: Sequence[int]
    fetch: Callable[[int, np.ndarray], np.ndarray]
    control: Callable[[np.ndarray], np.ndarray] | None = None


@dataclass(frozen=True)
class Analysis:
    """Everything that was found; what could not be computed is None, and ``notes`` say why."""

    labelling: Labelling
    design: Design
    layers: list[Layer]
    headline: Headline
    control: Layer | None = None
    gains: list[PairedComparison] = field(default_factory=list)
    lexical: ScoredAUROC | None = None
    length: Length | None = None
    confounds: dict[str, float] = field(default_factory=dict)
    axioms: list[Axiom] = field(default_factory=list)
    composites: dict[str, float] = field(default_factory=dict)
    learned: LearnedPooling | None = None
    matched: Layer | None = None
    within_sources: Layer | None = None
    plane: Plane | None = None
    plane_codes: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def dropped_words(self) -> str:
        """What was left out, in words; empty where nothing was."""
        dropped = self.labelling.dropped
        return f"Left out: {', '.join(f'{count} {reason}' for reason, count in dropped.items())}." if dropped else ""


def analyse(
    source: Source, labelling: Labelling, design: Design, settings: Settings, progress: Callable[[int], None]
) -> Analysis:
    """Return the whole index of two classes from rows that can be read again and again; ``progress`` counts layers."""
    every = np.arange(len(labelling.rows))
    permuted = permuted_labels(design, settings.permutations, settings.seed) if settings.permutations else None
    at_all = settings.pairwise == "all" or (settings.pairwise == "auto" and len(every) <= PAIRWISE_ROWS)
    layers = list(_measured(source, design, permuted, at_all, progress))
    found = from_layers(layers, labelling, design)
    control = None if source.control is None else measure("token_embeddings", source.control(every), design, permuted)
    found = replace(found, control=control, gains=gains(layers, control, design))
    if found.headline.layer >= 0:
        found = _at_headline(found, source, settings, permuted)
    if settings.learned_loss is not None and len(source.sites) > 1:
        found = _learned(found, source, settings)
    return found


def from_layers(layers: list[Layer], labelling: Labelling, design: Design) -> Analysis:
    """Return what follows from the layers' numbers and the samples alone, without their rows."""
    length = length_control(labelling, design)
    values, notes = confound_notes(labelling, length)
    lexical = None
    if labelling.texts is not None:
        scores = bag_of_words_scores(labelling.texts, design.codes, design.folds)
        lexical = scored_auroc(scores, design.codes == 0, design.folds, design.strata)
    return Analysis(
        labelling=labelling,
        design=design,
        layers=layers,
        headline=headline(layers, design),
        lexical=lexical,
        length=length,
        confounds=values,
        notes=[*labelling.notes, *notes],
    )


def _measured(
    source: Source, design: Design, permuted: np.ndarray | None, pairwise: bool, progress: Callable[[int], None]
) -> Iterator[Layer]:
    every = np.arange(len(design.codes))
    for place, site in enumerate(source.sites):
        yield measure(site, source.fetch(place, every), design, permuted, pairwise)
        progress(1)


def gains(layers: Sequence[Layer], control: Layer | None, design: Design) -> list[PairedComparison]:
    """Return how far each layer's δ² lies above that of the bag of tokens, block by block."""
    if control is None or not design.n_blocks:
        return []
    name = "stratified_delta_squared"
    return [paired_blocks(layer.intervals[name], control.intervals[name], design.n_blocks) for layer in layers]


def _at_headline(found: Analysis, source: Source, settings: Settings, permuted: np.ndarray | None) -> Analysis:
    """Add what is computed at one layer alone: the axioms' table, composites, matched rows, the picture."""
    design, labelling = found.design, found.labelling
    place = found.headline.layer
    x = np.asarray(source.fetch(place, np.arange(len(design.codes))), dtype=np.float64)
    layers = list(found.layers)
    if settings.pairwise != "none" and "dunn" not in layers[place].indices:
        more = {**layers[place].indices, **pairwise_indices(x, design.codes)}
        layers[place] = replace(layers[place], indices=more)
    layer, notes = layers[place], list(found.notes)
    axioms = axioms_of(x, layer, labelling, design, permuted, settings.pairwise != "none")
    matched = within = None
    if settings.length_match and labelling.texts is not None:
        chosen = length_matched(labelling)
        matched = measure(layer.site, x[chosen], design.take(chosen))
        notes.append(f"Length matched: {len(chosen)} of {len(design.codes)} rows are as long in both classes.")
    if len(set(labelling.sources)) > 1:
        within = _within_sources(layer.site, x, labelling, design)
        if within is None:
            notes.append("Within sources: not possible, no source holds enough rows of both classes.")
    points = balanced(design.codes, POINTS, settings.seed)
    scores, told = _composites(layer, axioms, settings)
    return replace(
        found,
        layers=layers,
        axioms=axioms,
        composites=scores,
        matched=matched,
        within_sources=within,
        plane=project(x[points], settings.projection, settings.seed),
        plane_codes=design.codes[points],
        notes=[*notes, *told],
    )


def _within_sources(site: str, x: np.ndarray, labelling: Labelling, design: Design) -> Layer | None:
    """Return the layer with strata of stratum and source, where some hold both classes."""
    names = [f"{labelling.strata_names[s]}/{source}" for s, source in zip(labelling.strata, labelling.sources)]
    finer = design.restratified(names)
    counts = np.zeros((finer.n_strata, 2), dtype=np.int64)
    np.add.at(counts, (finer.strata, finer.codes), 1)
    if not (counts >= 2).all(axis=1).any():
        return None
    return measure(site, x, finer)


def _composites(layer: Layer, axioms: Sequence[Axiom], settings: Settings) -> tuple[dict[str, float], list[str]]:
    """Return the composites by name of all rows of a layer; each axiom's are set in place."""
    values = dict(layer.indices)
    scores: dict[str, float] = {}
    for name in settings.composites:
        if name == "code_chi_xbi":
            cells = [axiom.indices for axiom in axioms] + [values]
            marks = composites.code_chi_xbi(
                [cell.get("chi", np.nan) for cell in cells], [cell.get("xbi", np.nan) for cell in cells], settings.gamma
            )
            scores[name] = float(marks.aqi[-1])
            for axiom, mark in zip(axioms, marks.aqi):
                axiom.composites[name] = float(mark)
            continue
        scores[name] = _composite(name, values, settings)
        for axiom in axioms:
            axiom.composites[name] = _composite(name, axiom.indices, settings)
    told = ["Composites move with the number of rows or by the other cells of the run; none compares runs."]
    return scores, told if scores else []


def _composite(name: str, values: dict[str, float], settings: Settings) -> float:
    known = {"dunn": np.nan, "silhouette": np.nan, "chi": np.nan, "xbi": np.nan, "dbs": np.nan, **values}
    return composites.composite(name, known, settings.lam, settings.gamma, settings.chi_max)


def _learned(found: Analysis, source: Source, settings: Settings) -> Analysis:
    if len(set(source.widths)) > 1:
        note = "AQI-L01: layers of different width are not pooled."
        return replace(found, notes=[*found.notes, note])
    learned = learned_pooling(
        source.fetch,
        source.widths,
        found.design,
        found.labelling.ids,
        kind=settings.learned_map,
        loss=settings.learned_loss or "fisher",
        most=settings.learned_rows,
        seed=settings.seed,
    )
    return replace(found, learned=learned)
