"""From rows of a caption file to samples: one image with all its captions; each fault keeps its row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from vlsae.datasets.archives import Location
from vlsae.datasets.base import Skipped
from vlsae.datasets.label_values import Label, label_value
from vlsae.datasets.tables import Row, Rows
from vlsae.datasets.values import split_name, whole_text, word
from vlsae.errors import UserError


class Files(Protocol):
    """Image files by name, such as :class:`~vlsae.datasets.archives.ImageFiles`; ``faults`` are those left out."""

    faults: list[Skipped]

    def find(self, name: str) -> Location: ...

    def read(self, place: Location) -> bytes: ...

    def digest(self, places: list[Location]) -> str: ...


@dataclass
class Sample:
    """One image with its captions, gathered from the rows that name it."""

    id: str
    place: str
    location: Location
    texts: list[str] = field(default_factory=list)
    label: str | None = None
    group: str | None = None
    split: str | None = None
    labels: dict[str, Label | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """A row whose image was found: its id (None without one), captions and further values."""

    number: int
    place: str
    location: Location
    id: str | None
    texts: list[str]
    values: dict[str, str | None]
    labels: dict[str, Label | None]


def gather(rows: Rows, files: Files, problems: list[Skipped]) -> list[Sample]:
    """Merge rows of one image into one sample; each fault goes to ``problems`` with its row.

    Rows are of one sample where they share an id. Where ids are ``unsaid`` and one image has several, they number
    captions, and rows are of one sample where they share the image.
    """
    faults: list[tuple[int, Skipped]] = []
    found = list(_found(rows.rows, files, faults))
    by_image = not any(row.id for row in found) or (rows.ids == "unsaid" and _number_captions(found))
    splits = any(row.values["split"] for row in found)
    samples: dict[str, Sample] = {}
    first: dict[str, Found] = {}
    for row in found:
        try:
            _refuse_duplicate(row, first, by_image, samples)
            if splits and row.values["split"] is None:
                raise UserError("no split, and other rows have one")
            identifier = row.location.member if by_image else row.id
            if identifier is None:
                raise UserError("no id, and other rows have one")
            sample = samples.get(identifier) or Sample(identifier, row.place, row.location)
            _set_once(sample, row)
            sample.texts.extend(row.texts)
            samples[identifier] = sample
        except UserError as error:
            faults.append((row.number, Skipped(row.place, error.message)))
    problems += files.faults + rows.faults + [fault for _, fault in sorted(faults, key=lambda fault: fault[0])]
    return _grouped(list(samples.values()))


def _found(rows: Sequence[Row], files: Files, faults: list[tuple[int, Skipped]]) -> Iterator[Found]:
    for number, row in enumerate(rows):
        try:
            texts = list(strings(row.texts))
            location = files.find(_image_name(row))
            values = {name: word(getattr(row, name), name) for name in ("label", "group", "split")}
            values["split"] = split_name(values["split"])
            labels = {name: label_value(value, f"label {name!r}") for name, value in row.labels.items()}
            yield Found(number, row.place, location, word(row.id, "id"), texts, values, labels)
        except UserError as error:
            faults.append((number, Skipped(row.place, error.message)))


def _number_captions(rows: Sequence[Found]) -> bool:
    """Tell whether some image has several ids."""
    first: dict[Location, str | None] = {}
    return any(first.setdefault(row.location, row.id) != row.id for row in rows)


def _refuse_duplicate(row: Found, first: dict[str, Found], by_image: bool, samples: dict[str, Sample]) -> None:
    """An id is a duplicate at another image, at a second caption that it numbers, and at a caption that it has."""
    if row.id is None:
        return
    before = first.setdefault(row.id, row)
    if before is row:
        return
    again = by_image or (row.id in samples and set(row.texts) <= set(samples[row.id].texts))
    if before.location != row.location or again:
        raise UserError(f"duplicate id {row.id!r}, first at {before.place}")


def _set_once(sample: Sample, row: Found) -> None:
    """Take label, group and split from the first row that gives them; a second row may not say otherwise."""
    have: dict[str, Any] = {name: getattr(sample, name) for name in row.values}
    for before, now in ((have, row.values), (sample.labels, row.labels)):
        for name, value in now.items():
            if value is not None and before.get(name) is not None and before[name] != value:
                raise UserError(f"{name} {value!r} of {sample.id!r} contradicts {before[name]!r}")
    for name, value in row.values.items():
        if value is not None:
            setattr(sample, name, value)
    sample.labels |= {name: value for name, value in row.labels.items() if sample.labels.get(name) is None}


def _grouped(samples: list[Sample]) -> list[Sample]:
    """Put samples without a group of their own in that of their image, so that no image falls into two splits."""
    first: dict[Location, str] = {}
    for sample in samples:
        sample.group = sample.group or first.setdefault(sample.location, sample.id)
    return samples


def strings(texts: Sequence[Any]) -> Iterator[str]:
    """Yield captions without the space around them; ``UserError`` for one that is empty or no text."""
    for text in texts:
        if text is None or (isinstance(text, str) and not text.strip()):
            raise UserError("empty caption")
        if not isinstance(text, str):
            raise UserError(f"caption {text!r} is {type(text).__name__}; expected text")
        yield whole_text(text.strip(), "caption")


def _image_name(row: Row) -> str:
    if not isinstance(row.image, str) or not row.image.strip():
        raise UserError(f"image {row.image!r}; expected a file name")
    return whole_text(row.image.strip(), "image")
