"""All concepts of a run in one pass: a row of the searchable table each, figures, and the few that a gallery shows."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlsae.dictionaries.names_file import NamedConcept
from vlsae.reporting.concept_stream import Concept, each_concept, is_dead, strength, vision_share
from vlsae.reporting.curves import LOG_RATIO
from vlsae.reporting.figures import COLORS, Figure, canvas, legend, log_axis
from vlsae.reporting.privacy import Privacy

#: Concepts in the gallery.
MOST_CONCEPTS = 120
#: Share of rows from which a concept tells little about any of them.
DENSE = 0.1
#: Share of its activation in a stream below which a concept is the other stream's.
ONE_STREAM = 0.05
LONGEST_EXCERPT = 60

COLUMNS = ("concept", "name", "score", "vision", "language", "mean", "vision_share", "text")


@dataclass(frozen=True)
class ConceptTable:
    """``rows``: of every concept what :data:`COLUMNS` name; ``chosen``: the most informative ones, best first."""

    rows: list[list[Any]]
    chosen: list[Concept]
    dead: int
    names: Mapping[int, NamedConcept]
    figures: list[Figure]

    @property
    def total(self) -> int:
        """The number of concepts."""
        return len(self.rows)

    @property
    def named(self) -> int:
        """The number of concepts with a name."""
        return sum(1 for row in self.rows if row[1])


def concept_table(
    path: Path, names: Mapping[int, NamedConcept], privacy: Privacy, *, draw: bool = True
) -> ConceptTable | None:
    """Return the table of a run's concepts, None where it has none; only the chosen ones are held in memory."""
    rows: list[list[Any]] = []
    means: list[list[Any]] = []
    best: list[tuple[tuple[bool, bool, float, float], int, Concept]] = []
    dead = 0
    for concept in each_concept(path):
        number = concept["id"]
        named = names.get(number) or NamedConcept(number, concept.get("name"))
        rows.append(_row(concept, named, privacy))
        means.append([number, *(_when_active(concept, letter) for letter in "vl")])
        if is_dead(concept):
            dead += 1
            continue
        entry = (informativeness(concept, named), -number, concept)
        (heapq.heappush if len(best) < MOST_CONCEPTS else heapq.heappushpop)(best, entry)
    if not rows:
        return None
    chosen = [concept for *_, concept in sorted(best, key=lambda entry: entry[:2], reverse=True)]
    return ConceptTable(rows, chosen, dead, names, _figures(rows, means, names) if draw else [])


def most_informative(path: Path, names: Mapping[int, NamedConcept]) -> list[Concept]:
    """Return the concepts that the gallery of a run shows, best first."""
    table = concept_table(path, names, Privacy(), draw=False)
    return table.chosen if table else []


def informativeness(concept: Concept, named: NamedConcept) -> tuple[bool, bool, float, float]:
    """Return by what a concept is ranked: neither everywhere nor in one of two streams, its name's score, strength."""
    dense = max(concept["freq_v"] or 0.0, concept["freq_l"] or 0.0) > DENSE
    share = vision_share(concept)
    serves_all = share is None or ONE_STREAM < share < 1 - ONE_STREAM
    return not dense, serves_all, (named.score or 0.0) if named.name else 0.0, strength(concept)


def excerpt(text: str, longest: int = LONGEST_EXCERPT) -> str:
    """Return the beginning of a text."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _row(concept: Concept, named: NamedConcept, privacy: Privacy) -> list[Any]:
    text = concept["texts"][0]["text"] if concept["texts"] and not privacy.redact else ""
    return [
        concept["id"],
        None if privacy.redact else named.name,
        _rounded(named.score),
        _rounded(concept["freq_v"]),
        _rounded(concept["freq_l"]),
        _rounded(concept["mean_activation"]),
        _rounded(vision_share(concept)),
        excerpt(text),
    ]


def _when_active(concept: Concept, letter: str) -> float | None:
    mean, share = concept[f"mean_{letter}"], concept[f"freq_{letter}"]
    return mean / share if mean is not None and share else None


def _rounded(value: float | None) -> float | None:
    """Return a number in four digits: the page holds one for each concept."""
    return None if value is None else float(f"{value:.4g}")


def _figures(
    rows: Sequence[Sequence[Any]], means: Sequence[Sequence[Any]], names: Mapping[int, NamedConcept]
) -> list[Figure]:
    columns = ("concept", "vision", "language")
    frequencies = [[row[0], row[3], row[4]] for row in rows]
    bins = [10 ** (-5 + 0.25 * step) for step in range(21)]
    figures = [
        _by_stream("concept-frequency", "How often concepts fire", columns, frequencies, bins, _FIRES),
        _by_stream("concept-activation", "How strongly they fire", columns, means, None, _STRENGTH),
    ]
    shares = [[row[0], row[6]] for row in rows if row[6] is not None]
    if shares:
        label = "share of a concept's activation that comes from vision"
        title = "Vision, language or both"
        figures.append(_shares("concept-modality", title, label, ("concept", "vision_share"), shares, (0, 1)))
    tested = [[one.concept, one.score, one.shuffled] for one in names.values() if one.score is not None]
    if tested:
        figures.append(_scores(tested))
    return figures


_FIRES = "share of rows on which a concept fires"
_STRENGTH = "mean activation of a concept where it fires"


def _by_stream(
    name: str, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], bins: list[float] | None, label: str
) -> Figure:
    values = [[row[place] for row in rows if row[place]] for place in (1, 2)]
    every = [value for side in values for value in side if value > 0]
    wide = bins is not None or (bool(every) and max(every) / min(every) > LOG_RATIO)
    if bins is None:
        low, high = (min(every), max(every)) if every else (0.0, 1.0)
        steps = [step / 24 for step in range(25)]
        bins = [low * (high / low) ** step if wide else high * step for step in steps]
    with canvas(name) as (axes, drawn):
        for side, stream, color in zip(values, columns[1:], COLORS):
            if side:
                axes.hist(side, bins=bins, histtype="step", color=color, linewidth=1.8, label=stream)
        if wide:
            log_axis(axes, "x")
        axes.set_xlabel(label)
        axes.set_ylabel("live concepts")
        legend(axes)
    return Figure(name, title, drawn, columns, rows, f"A histogram of {label}, by stream.")


def _shares(
    name: str,
    title: str,
    label: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    limits: tuple[float, float],
) -> Figure:
    low, high = limits
    with canvas(name) as (axes, drawn):
        bins = [low + (high - low) * step / 20 for step in range(21)]
        axes.hist([row[1] for row in rows], bins=bins, color=COLORS[2], alpha=0.8)
        axes.set_xlabel(label)
        axes.set_ylabel("live concepts")
    return Figure(name, title, drawn, columns, rows, f"A histogram of the {label}.")


def _scores(rows: Sequence[Sequence[Any]]) -> Figure:
    bins = [step / 40 for step in range(41)]
    with canvas("concept-names") as (axes, drawn):
        for place, label, color in ((1, "own name", COLORS[0]), (2, "names of other concepts", COLORS[1])):
            values = [row[place] for row in rows if row[place] is not None]
            if values:
                axes.hist(values, bins=bins, histtype="step", color=color, linewidth=1.8, label=label)
        axes.set_xlabel("detection score of the name (AUROC, held-out rows)")
        axes.set_ylabel("concepts tested")
        legend(axes)
    columns = ("concept", "score", "shuffled")
    return Figure("concept-names", "Do the names tell when concepts fire?", drawn, columns, rows)
