"""The concepts that a page shows: chosen, with pictures as data, and figures of all of them."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlsae.errors import UserError
from vlsae.reporting.figures import COLORS, Figure, canvas, legend, log_axis
from vlsae.reporting.numbers import text_of
from vlsae.runs.files import load_json

MOST_CONCEPTS = 60
MOST_ITEMS = 5
#: Bytes of pictures on one page; what comes after is listed without a picture.
PICTURE_BYTES = 8 << 20
LONGEST_TEXT = 240
#: Share of rows from which a concept tells little about any of them.
DENSE = 0.1


@dataclass(frozen=True)
class Picture:
    """An item of the vision stream: what it is called, and its thumbnail as a data URI if there is one."""

    pair_id: str
    source: str | None
    activation: str


@dataclass(frozen=True)
class ShownConcept:
    """A row of the concept table."""

    number: int
    name: str
    frequency_vision: str
    frequency_language: str
    mean: str
    pictures: list[Picture]
    texts: list[tuple[str, str]]


@dataclass(frozen=True)
class ConceptTable:
    """The concepts shown and how many are not; ``dead`` counts those without any active row."""

    shown: list[ShownConcept]
    total: int
    dead: int
    pictures_left_out: int


def read_concepts(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's ``concepts.jsonl``, none where the run has no such file."""
    file = path / "concepts.jsonl"
    if not file.is_file():
        return []
    try:
        return [load_json(line) for line in file.read_text(encoding="utf-8").splitlines() if line]
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}).", "Make the run anew.") from error


def strongest(concepts: Sequence[Mapping[str, Any]], most: int = MOST_CONCEPTS) -> list[Mapping[str, Any]]:
    """Return the concepts whose listed items activate them most, by the weaker of the two streams; dense ones last."""

    def strength(concept: Mapping[str, Any]) -> float:
        sides = [concept["images"], concept["texts"]]
        known = [side for side, dead in zip(sides, (concept["dead_v"], concept["dead_l"])) if dead is not None]
        means = [sum(item["act"] for item in side) / len(side) if side else 0.0 for side in known]
        return min(means, default=0.0)

    def is_dense(concept: Mapping[str, Any]) -> bool:
        return max(concept["freq_v"] or 0.0, concept["freq_l"] or 0.0) > DENSE

    live = [concept for concept in concepts if concept["images"] or concept["texts"]]
    return sorted(live, key=lambda concept: (is_dense(concept), -strength(concept), concept["id"]))[:most]


def concept_table(
    concepts: Sequence[Mapping[str, Any]], thumbnails: Mapping[str, bytes], budget: int = PICTURE_BYTES
) -> ConceptTable:
    """Return the table of the strongest concepts; ``thumbnails`` maps pair ids to encoded pictures."""
    shown, left_out = [], 0
    for concept in strongest(concepts):
        pictures = []
        for item in concept["images"][:MOST_ITEMS]:
            picture = thumbnails.get(item["pair_id"])
            source = None
            if picture is not None and len(picture) <= budget:
                source = data_uri(picture)
                budget -= len(source)
            elif picture is not None:
                left_out += 1
            pictures.append(Picture(item["pair_id"], source, text_of(item["act"])))
        texts = [(_short(item["text"]), text_of(item["act"])) for item in concept["texts"][:MOST_ITEMS]]
        shown.append(
            ShownConcept(
                concept["id"],
                concept.get("name") or "",
                _percent(concept["freq_v"]),
                _percent(concept["freq_l"]),
                text_of(concept["mean_activation"]),
                pictures,
                texts,
            )
        )
    dead = sum(1 for concept in concepts if not concept["images"] and not concept["texts"])
    return ConceptTable(shown, len(concepts), dead, left_out)


def thumbnails_of(stores: Sequence[Path], pair_ids: set[str]) -> dict[str, bytes]:
    """Return the thumbnails that stores keep of some samples; what cannot be read is left out."""
    from vlsae.representations import Store

    found: dict[str, bytes] = {}
    for path in stores:
        try:
            samples = Store.open(path).samples
        except (UserError, OSError):
            continue
        if "thumbnail" not in samples.column_names:
            continue
        wanted = {i: name for i, name in enumerate(samples.column("sample_id").to_pylist()) if name in pair_ids}
        pictures = samples.column("thumbnail").take(list(wanted)).to_pylist() if wanted else []
        found |= {name: picture for name, picture in zip(wanted.values(), pictures) if picture is not None}
    return found


def data_uri(picture: bytes) -> str:
    """Return an encoded picture as a data URI."""
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode('ascii')}"


def concept_figures(concepts: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Return how often concepts fire in each stream, and how their activation divides between the streams."""
    figures = []
    columns = ("concept", "vision", "language")
    rows = [[concept["id"], concept["freq_v"], concept["freq_l"]] for concept in concepts]
    bins = [10 ** (-5 + 0.25 * step) for step in range(21)]
    with canvas("concept-frequency") as (axes, drawn):
        for place, (stream, color) in enumerate(zip(columns[1:], COLORS), start=1):
            values = [row[place] for row in rows if row[place]]
            if values:
                axes.hist(values, bins=bins, histtype="step", color=color, linewidth=1.8, label=stream)
        log_axis(axes, "x")
        axes.set_xlabel("share of rows on which a concept fires")
        axes.set_ylabel("live concepts")
        legend(axes)
    figures.append(Figure("concept-frequency", "How often concepts fire", drawn[0], columns, rows))
    means = [(concept["id"], concept["mean_v"], concept["mean_l"]) for concept in concepts]
    both = [(number, v, t) for number, v, t in means if v is not None and t is not None]
    shares = [(number, v / (v + t)) for number, v, t in both if v + t > 0]
    if shares:
        with canvas("concept-modality") as (axes, drawn):
            axes.hist(
                [share for _, share in shares], bins=[step / 20 for step in range(21)], color=COLORS[2], alpha=0.8
            )
            axes.set_xlabel("share of a concept's activation that comes from vision")
            axes.set_ylabel("live concepts")
        title = "Vision, language or both"
        figures.append(Figure("concept-modality", title, drawn[0], ("concept", "vision_share"), shares))
    return figures


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.3g} %"


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"
