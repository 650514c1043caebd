"""Texts from files: plain text by lines, paragraphs or whole files; tables with a column of texts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlsae.datasets import tables
from vlsae.datasets.base import Skipped
from vlsae.datasets.values import SPLIT_NAMES
from vlsae.errors import MissingFile, UserError, nearest, unknown

PLAIN = (".txt", ".text")
SUFFIXES = (*PLAIN, *tables.SUFFIXES)

UNITS = ("line", "paragraph", "file")

#: Names that a column goes by where the user maps none, likeliest first.
USUAL = {
    "id": ("sample_id", "id"),
    "text": ("text", "texts", "sentence", "prompt", "input"),
    "answer": ("answer",),
    "label": ("label",),
    "group": ("group",),
    "split": ("split",),
    "source": ("source",),
}

#: The columns that a user may map; ``label`` may name several.
COLUMNS = tuple(USUAL)

#: What ``dataset.columns`` holds.
Columns = Mapping[str, str | list[str] | None]


@dataclass(frozen=True)
class TextRow:
    """One row of a source: its place, its number, its text or texts, and the values of the mapped columns."""

    place: str
    number: str
    text: Any
    id: Any = None
    answer: Any = None
    labels: Mapping[str, Any] = field(default_factory=dict)
    group: Any = None
    split: Any = None
    source: Any = None


def files_of(path: Path) -> list[Path]:
    """Return the files behind a path: itself, or all texts or all tables below a folder, by name.

    Raises ``MissingFile`` where nothing is there, ``UserError`` for an unknown format and for a folder of both kinds.
    """
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise UserError(
                f"dataset.path={path} is of no known format.", f"Known: {', '.join(SUFFIXES)}; or a folder of these."
            )
        return [path]
    if not path.is_dir():
        if path.exists():
            raise UserError(f"dataset.path={path} is no regular file.", "Name a file, or a folder of files.")
        close = nearest(path.name, [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else [])
        hint = f"Did you mean {' or '.join(str(path.parent / name) for name in close)}?" if close else None
        raise MissingFile(f"dataset.path={path} does not exist.", hint)
    found = [one for one in sorted(path.rglob("*")) if one.suffix.lower() in SUFFIXES and one.is_file()]
    if not found:
        raise MissingFile(f"dataset.path={path} holds no file of texts.", f"Known: {', '.join(SUFFIXES)}.")
    if len({one.suffix.lower() in PLAIN for one in found}) > 1:
        raise UserError(
            f"dataset.path={path} holds both plain texts and tables: {', '.join(one.name for one in found[:4])}.",
            "Name one file, or a folder of one kind.",
        )
    return found


def read_texts(path: Path, columns: Columns, unit: str) -> tuple[list[TextRow], list[Skipped]]:
    """Return the rows of a file or folder, and the records that could not be read.

    A folder's files named after splits (``train.csv``, ``test.csv``) are these splits where no column says otherwise.
    Raises ``UserError`` for a key, a column, a format or an encoding that is not there.
    """
    for key in columns:
        if key not in COLUMNS:
            raise unknown("key in dataset.columns", key, COLUMNS)
    files = files_of(path)
    splits = len(files) > 1 and all(one.stem.lower() in SPLIT_NAMES for one in files)
    rows: list[TextRow] = []
    faults: list[Skipped] = []
    for one in files:
        prefix = "" if len(files) == 1 else f"{one.relative_to(path).as_posix()}:"
        split = one.stem if splits else None
        if one.suffix.lower() in PLAIN:
            rows.extend(_plain(one, unit, prefix, split))
        else:
            records = tables.read_records(one)
            faults.extend(records.faults)
            rows.extend(_mapped(records, one, columns, prefix, split))
    return rows, faults


def _plain(path: Path, unit: str, prefix: str, split: str | None) -> Iterator[TextRow]:
    """Yield the texts of a plain file; empty lines only part texts. Rows are numbered from 0 by the texts."""
    content = tables.read_text(path)
    if unit == "file":
        yield TextRow(path.name, prefix.rstrip(":") or path.name, content, source=path.name, split=split)
        return
    for number, (line, text) in enumerate(_pieces(content, unit)):
        yield TextRow(f"{path.name} line {line}", f"{prefix}{number}", text, source=path.name, split=split)


def _pieces(content: str, unit: str) -> Iterator[tuple[int, str]]:
    """Yield each text with the number of its first line."""
    pattern = r"[^\n]*\S[^\n]*" if unit == "line" else r"(?:[^\n]*\S[^\n]*(?:\n|$))+"
    line, end = 1, 0
    for found in re.finditer(pattern, content):
        line += content.count("\n", end, found.start())
        end = found.start()
        yield line, found.group()


def _mapped(records: tables.Records, path: Path, columns: Columns, prefix: str, split: str | None) -> Iterator[TextRow]:
    if not records.records and not records.names:
        return
    names = _names(records.names, path, columns)
    labels = _label_names(records.names, path, columns)
    for number, (place, record) in enumerate(records.records):
        values = {key: record.get(name) for key, name in names.items()}
        values["split"] = values.get("split", split)
        own = {name: record.get(name) for name in labels}
        yield TextRow(place, f"{prefix}{number}", labels=own, **{"source": path.name, **_present(values)})


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave an empty source to its default, the file."""
    return {key: value for key, value in values.items() if key != "source" or value not in (None, "")}


def _names(found: Sequence[str], path: Path, columns: Columns) -> dict[str, str]:
    names: dict[str, str] = {}
    for key in COLUMNS:
        if key == "label":
            continue
        asked = columns.get(key)
        if asked is not None and not isinstance(asked, str):
            raise UserError(f"dataset.columns.{key}={asked} names several columns.", "Only label may name several.")
        name = tables.column_name(key, asked, found, path, USUAL[key], needed=key == "text")
        if name is not None:
            names[key] = name
    return names


def _label_names(found: Sequence[str], path: Path, columns: Columns) -> list[str]:
    asked = columns.get("label")
    wanted = [asked] if asked is None or isinstance(asked, str) else list(dict.fromkeys(asked))
    names = [tables.column_name("label", one, found, path, USUAL["label"]) for one in wanted]
    return [name for name in names if name is not None]
