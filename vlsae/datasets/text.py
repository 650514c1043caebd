"""Texts from a local file or folder: lines, paragraphs or files of plain text, or rows of a table with labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from vlsae.bounds import OneOf, Range, conform
from vlsae.datasets.base import Dataset, Skipped
from vlsae.datasets.chunks import chunks
from vlsae.datasets.faults import OnError, first_left_out, settle
from vlsae.datasets.label_values import Label, label_struct, label_value, typed
from vlsae.datasets.text_files import UNITS, TextRow, files_of, read_texts
from vlsae.datasets.values import split_name, whole_text, word
from vlsae.errors import UserError

if TYPE_CHECKING:
    import datasets as hf
    import numpy as np
    from PIL import Image

#: The labelled sentences that ship with the package, read where no path is given.
BUNDLED = Path(__file__).parent.parent / "bundled" / "texts" / "sentences.csv"
BUNDLED_COLUMNS: dict[str, str | list[str]] = {"label": ["tense", "number", "mood", "place", "words"]}

Unit = Annotated[str, OneOf(*UNITS)]
Duplicates = Annotated[str, OneOf("keep", "drop")]


@dataclass(frozen=True)
class TextSample:
    """One sample: its texts (of a table usually one), the answer that goes with it, and its labels by column."""

    id: str
    place: str
    texts: list[str]
    answer: str | None
    labels: dict[str, Label | None]
    group: str | None
    split: str | None
    source: str


class Text(Dataset):
    """Texts from a file or a folder of files.

    ``path`` is plain text (``unit`` says what one text is: a ``line``, a ``paragraph`` or the whole ``file``), or a
    table: CSV, TSV, JSON, JSONL or Parquet; without one, the labelled sentences that ship with the package.
    ``columns`` maps id, text, answer, label (one or several), group, split and source to the table's own names.
    ``chunk`` cuts long texts into pieces of at most that many bytes. Equal texts fall into one split, and
    ``duplicates="drop"`` keeps the first alone. ``on_error="skip"`` leaves out a bad row and counts it.
    """

    def __init__(
        self,
        *,
        path: str | None = None,
        columns: dict[str, str | list[str] | None] | None = None,
        unit: Unit = "line",
        chunk: Annotated[int, Range(16, None)] | None = None,
        duplicates: Duplicates = "keep",
        on_error: OnError = "raise",
    ) -> None:
        conform("unit", unit, Unit)
        conform("duplicates", duplicates, Duplicates)
        conform("on_error", on_error, OnError)
        self.path = BUNDLED if path is None else Path(path).expanduser()
        given = {key: name for key, name in (columns or {}).items() if name is not None}
        self.columns = {**(BUNDLED_COLUMNS if path is None else {}), **given}
        self.unit, self.chunk, self.duplicates, self.on_error = unit, chunk, duplicates, on_error

    @property
    def has_images(self) -> bool:
        """Whether samples carry an image: never."""
        return False

    def images(self, indices: Sequence[int]) -> np.ndarray | list[Image.Image]:
        """Raise ``UserError``: there are none."""
        raise UserError("dataset=text has no images.", "Choose language sites only, such as language.last.")

    @property
    def skipped(self) -> list[Skipped]:
        """Rows that were left out."""
        return self._content[1]

    @cached_property
    def table(self) -> hf.Dataset:
        """One row a text; ``labels`` has a field a column of labels, ``answer`` is there where the source has one."""
        import datasets as hf

        samples = self._content[0]
        names = list(samples[0].labels)
        labels = {name: typed([sample.labels[name] for sample in samples]) for name in names} or {
            "label": [None] * len(samples)
        }
        columns: dict[str, Any] = {
            "sample_id": [sample.id for sample in samples],
            "texts": [sample.texts for sample in samples],
            "labels": label_struct(labels),
            "source": [sample.source for sample in samples],
            "group": [sample.group for sample in samples],
        }
        if any(sample.answer is not None for sample in samples):
            columns["answer"] = [sample.answer for sample in samples]
        if samples[0].split is not None:
            columns["split"] = [sample.split for sample in samples]
        return hf.Dataset.from_dict(columns)

    def digest(self) -> str:
        """Return the SHA-256 over the files and the settings."""
        from vlsae.runs import content_digest

        settings = {name: getattr(self, name) for name in ("columns", "unit", "chunk", "duplicates", "on_error")}
        total = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for file in files_of(self.path):
            name = file.name if file == self.path else file.relative_to(self.path).as_posix()
            total.update(f"{name}\0{content_digest(file)}\n".encode())
        return total.hexdigest()

    @cached_property
    def _content(self) -> tuple[list[TextSample], list[Skipped]]:
        rows, problems = read_texts(self.path, self.columns, self.unit)
        samples = _samples(rows, problems)
        settle(problems, self.on_error)
        if self.chunk is not None:
            samples = [piece for sample in samples for piece in _cut(sample, self.chunk)]
        samples = _grouped(samples)
        if self.duplicates == "drop":
            samples = _without_duplicates(samples, problems)
        if not samples:
            raise UserError(f"{self.path} holds no text that can be used{first_left_out(problems)}.")
        return samples, problems


def _samples(rows: Sequence[TextRow], problems: list[Skipped]) -> list[TextSample]:
    """Return the samples of rows that can be used; each fault goes to ``problems`` in the order of the rows."""
    ids = any(row.id not in (None, "") for row in rows)
    faults: dict[int, str] = {}
    samples: dict[int, TextSample] = {}
    for number, row in enumerate(rows):
        try:
            samples[number] = _sample(row, ids)
        except UserError as error:
            faults[number] = error.message
    splits = any(sample.split is not None for sample in samples.values())
    first: dict[str, TextSample] = {}
    for number, sample in samples.items():
        before = first.setdefault(sample.id, sample)
        if splits and sample.split is None:
            faults[number] = "no split, and other rows have one"
        elif before is not sample:
            faults[number] = f"duplicate id {sample.id!r}, first at {before.place}"
    problems.extend(Skipped(rows[number].place, faults[number]) for number in sorted(faults))
    return [sample for number, sample in samples.items() if number not in faults]


def _sample(row: TextRow, ids: bool) -> TextSample:
    texts = [_text(value) for value in (row.text if isinstance(row.text, list) else [row.text])]
    if not texts:
        raise UserError("empty text")
    identifier = word(row.id, "id") if ids else row.number
    if identifier is None:
        raise UserError("no id, and other rows have one")
    return TextSample(
        id=identifier,
        place=row.place,
        texts=texts,
        answer=_answer(row.answer),
        labels={name: label_value(value, f"label {name!r}") for name, value in row.labels.items()},
        group=word(row.group, "group"),
        split=split_name(word(row.split, "split")),
        source=word(row.source, "source") or row.place,
    )


def _text(value: Any) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise UserError("empty text")
    if not isinstance(value, str):
        raise UserError(f"text {value!r} is {type(value).__name__}; expected text")
    return whole_text(value.strip(), "text")


def _answer(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, str):
        raise UserError(f"answer {value!r} is {type(value).__name__}; expected text")
    return whole_text(value.strip(), "answer")


def _cut(sample: TextSample, size: int) -> Iterator[TextSample]:
    """Yield a sample for each piece of its texts; one that is short enough stays as it is."""
    if all(len(text.encode()) <= size for text in sample.texts):
        yield sample
        return
    pieces = [stripped for text in sample.texts for piece in chunks(text, size) if (stripped := piece.strip())]
    for number, piece in enumerate(pieces):
        yield replace(sample, id=f"{sample.id}#{number}", texts=[piece])


def _grouped(samples: list[TextSample]) -> list[TextSample]:
    """Put samples without a group of their own in that of the first with an equal text: no text is in two splits."""
    first: dict[str, str] = {}
    return [
        sample if sample.group else replace(sample, group=first.setdefault(sample.texts[0], sample.id))
        for sample in samples
    ]


def _without_duplicates(samples: list[TextSample], problems: list[Skipped]) -> list[TextSample]:
    """Keep the first of samples with equal texts, answers and labels."""
    first: dict[str, TextSample] = {}
    for sample in samples:
        content = json.dumps([sample.texts, sample.answer, sample.labels], sort_keys=True)
        before = first.setdefault(content, sample)
        if before is not sample:
            problems.append(Skipped(sample.place, f"the same as {before.place}"))
    return list(first.values())
