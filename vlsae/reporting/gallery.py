"""The cards of the gallery: a concept's statistics, pictures and texts at high, median and low activation."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlsae.dictionaries.names_file import NamedConcept
from vlsae.errors import UserError
from vlsae.reporting.concept_stream import Concept, vision_share
from vlsae.reporting.concept_table import excerpt
from vlsae.reporting.numbers import text_of
from vlsae.reporting.privacy import Privacy
from vlsae.reporting.token_marks import Marks, Piece

MOST_ITEMS = 5
#: Bytes of pictures on one page; a gallery ends with the concept that would pass them.
PICTURE_BYTES = 8 << 20
LONGEST_TEXT = 240
#: Lists of a card: what it is called, the ending of the field in ``concepts.jsonl``.
LEVELS = (("top", ""), ("median", "_median"), ("low", "_low"))


@dataclass(frozen=True)
class Picture:
    """An item of the vision stream: its name, its thumbnail as a source, and the activation of each patch by row.

    Patches lie within a margin, in patches, of the middle square where the picture is ``cut``, else of the whole.
    """

    name: str
    source: str | None
    activation: str
    patches: list[list[float]] | None = None
    cut: bool = True
    margin: float = 0.0


@dataclass(frozen=True)
class Text:
    """An item of the language stream; ``pieces`` are its tokens with their activations where rows are tokens."""

    text: str
    activation: str
    pieces: list[Piece] | None = None


@dataclass(frozen=True)
class Card:
    """A concept of the gallery; ``pictures`` and ``texts`` by level of activation."""

    number: int
    name: str
    score: str
    frequencies: list[tuple[str, str]]
    mean: str
    share: float | None
    densities: list[tuple[str, list[float]]]
    pictures: list[tuple[str, list[Picture]]]
    texts: list[tuple[str, list[Text]]]


@dataclass
class Sources:
    """Where pictures come from: thumbnails by pair id, and how many bytes of them may still be used."""

    thumbnails: Mapping[str, bytes]
    left: int = PICTURE_BYTES

    def of(self, pair_id: str) -> str | None:
        """Return an item's picture as a data URI, None where there is none."""
        picture = self.thumbnails.get(pair_id)
        if picture is None:
            return None
        source = data_uri(picture)
        self.left -= len(source)
        return source


def gallery(
    concepts: Sequence[Concept],
    names: Mapping[int, NamedConcept],
    sources: Sources,
    marks: Mapping[int, Marks],
    privacy: Privacy,
) -> list[Card]:
    """Return the cards of concepts, in their order, until the pictures that may stand on the page are used up."""
    cards = []
    for concept in concepts:
        card = card_of(concept, names.get(concept["id"]), sources, marks.get(concept["id"]), privacy)
        if sources.left < 0:
            break
        cards.append(card)
    return cards


def card_of(
    concept: Concept,
    named: NamedConcept | None,
    sources: Any,
    marks: Marks | None,
    privacy: Privacy,
    most: int = MOST_ITEMS,
) -> Card:
    """Return the card of one concept; ``sources.of(pair_id)`` gives pictures."""
    number = concept["id"]
    known = named or NamedConcept(number, concept.get("name"))
    streams = [
        (word, letter) for word, letter in (("vision", "v"), ("language", "l")) if concept[f"dead_{letter}"] is not None
    ]
    return Card(
        number,
        "" if privacy.redact or known.name is None else known.name,
        "" if known.score is None else text_of(known.score),
        [(word, _percent(concept[f"freq_{letter}"])) for word, letter in streams],
        text_of(concept["mean_activation"]),
        vision_share(concept),
        [
            (word, _heights(concept[f"density_{letter}"]))
            for word, letter in streams
            if concept.get(f"density_{letter}")
        ],
        [(level, _pictures(concept, f"images{ending}", sources, marks, privacy, most)) for level, ending in LEVELS],
        [(level, _texts(concept, f"texts{ending}", marks, privacy, most)) for level, ending in LEVELS],
    )


def wanted_pictures(concepts: Sequence[Concept], most: int = MOST_ITEMS) -> set[str]:
    """Return the pair ids whose pictures the cards of concepts show."""
    fields = [f"images{ending}" for _, ending in LEVELS]
    return {item["pair_id"] for concept in concepts for field in fields for item in concept.get(field, [])[:most]}


def thumbnails_of(stores: Sequence[Path], pair_ids: set[str]) -> dict[str, bytes]:
    """Return the thumbnails that stores keep of some samples; what cannot be read is left out."""
    import pyarrow as pa
    import pyarrow.compute as compute

    from vlsae.representations import Store

    found: dict[str, bytes] = {}
    for path in stores if pair_ids else ():
        try:
            samples = Store.open(path).samples
        except (UserError, OSError):
            continue
        if "thumbnail" not in samples.column_names:
            continue
        held = samples.select(["sample_id", "thumbnail"])
        mine = held.filter(compute.is_in(held.column("sample_id"), value_set=pa.array(sorted(pair_ids))))
        names, pictures = (mine.column(name).to_pylist() for name in ("sample_id", "thumbnail"))
        found |= {name: picture for name, picture in zip(names, pictures) if picture is not None}
    return found


def data_uri(picture: bytes) -> str:
    """Return an encoded picture as a data URI."""
    return f"data:image/{picture_kind(picture)};base64,{base64.b64encode(picture).decode('ascii')}"


def picture_kind(picture: bytes) -> str:
    """Return the kind of an encoded picture: png or jpeg."""
    return "png" if picture.startswith(b"\x89PNG") else "jpeg"


def _pictures(
    concept: Concept, field: str, sources: Any, marks: Marks | None, privacy: Privacy, most: int
) -> list[Picture]:
    pictures = []
    for number, item in enumerate(_strongest_first(concept, field, most), start=1):
        name, source = privacy.item(item["pair_id"], number), sources.of(item["pair_id"]) if privacy.pictures else None
        patches = marks.patches.get(item["pair_id"]) if marks else None
        framed = (marks.cut, round(len(patches) * (1 / marks.share - 1) / 2, 3)) if marks and patches else ()
        pictures.append(Picture(name, source, text_of(item["act"]), patches, *framed))
    return pictures


def _texts(concept: Concept, field: str, marks: Marks | None, privacy: Privacy, most: int) -> list[Text]:
    return [
        Text(
            privacy.text(excerpt(item["text"], LONGEST_TEXT)),
            text_of(item["act"]),
            marks.pieces.get(item["text"]) if marks and not privacy.redact else None,
        )
        for item in _strongest_first(concept, field, most)
    ]


def _strongest_first(concept: Concept, field: str, most: int) -> list[dict[str, Any]]:
    return sorted(concept.get(field, [])[:most], key=lambda item: -float(item["act"]))


def _heights(counts: Sequence[int]) -> list[float]:
    largest = max(counts, default=0)
    return [round(count / largest, 3) for count in counts] if largest else []


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.3g} %"
