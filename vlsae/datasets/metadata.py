"""Metadata files of an image folder: what they say of each picture beyond its pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlsae.datasets.tables import USUAL, Row, Rows, column_name, read_records
from vlsae.errors import UserError, unknown

#: Names under which Hugging Face's image folders look for metadata.
NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")

#: Names that a column goes by where the user maps none, likeliest first.
COLUMNS = {**USUAL, "label": ("class", "label", "category")}

#: The keys of ``dataset.columns``: a column's own name; of ``label`` one or several.
Columns = Mapping[str, str | list[str]]


def read_metadata(root: Path, chosen: str | None, columns: Columns) -> Rows | None:
    """Return the rows of the metadata: the chosen file, else every one of a usual name below ``root``; None without.

    A file names its images from the folder that it lies in. Raises ``MissingFile`` for a chosen file that is not there
    and ``UserError`` for one that cannot be read or lacks a column.
    """
    for key in columns:
        if key not in COLUMNS:
            raise unknown("key in dataset.columns", key, COLUMNS)
    if chosen is not None:
        inside = root / chosen
        files = [inside if inside.exists() else Path(chosen).expanduser()]
    else:
        files = sorted(path for name in NAMES for path in root.rglob(name) if path.is_file())
    if not files:
        if columns:
            raise UserError(
                f"dataset.columns.{next(iter(columns))} is set, and {root} holds no metadata file.",
                f"Name one: dataset.metadata=FILE (found by themselves: {', '.join(NAMES)})",
            )
        return None
    rows = Rows(ids="samples" if columns.get("id") else "unsaid")
    for file in files:
        _add(rows, file, root, columns)
    return rows


def _add(rows: Rows, file: Path, root: Path, columns: Columns) -> None:
    found = read_records(file)
    rows.faults += found.faults
    if not found.records and not found.names:
        return
    names, labels = _names(found.names, file, columns)
    folder = file.parent.relative_to(root).as_posix() if file.is_relative_to(root) else "."
    for place, record in found.records:
        image = record.get(names["image"])
        if folder != "." and isinstance(image, str):
            image = f"{folder}/{image}"
        text = record.get(names["text"]) if "text" in names else []
        texts = text if isinstance(text, list) else [text]
        values = {key: record.get(names[key]) for key in ("id", "group", "split") if key in names}
        rows.rows.append(Row(place, image, texts, labels={name: record.get(name) for name in labels}, **values))


def _names(found: Sequence[str], file: Path, columns: Columns) -> tuple[dict[str, str], list[str]]:
    """Return the file's own name of each mapped column, and the columns of labels.

    A column that the user gave to one key is not guessed for another.
    """
    asked: dict[str, Any] = dict(columns)
    label = asked.pop("label", None)
    given = [label] if isinstance(label, str) else list(label or [])
    taken = {*given, *asked.values()}
    names = {}
    for key in ("id", "image", "text", "group", "split"):
        usual = [name for name in COLUMNS[key] if name not in taken]
        name = column_name(key, asked.get(key), found, file, usual, needed=key == "image")
        if name is not None:
            names[key] = name
    if label is None:
        usual = [name for name in COLUMNS["label"] if name in found and name not in taken]
        return names, usual[:1]
    wanted = [column_name("label", name, found, file) for name in given]
    return names, [name for name in wanted if name is not None]
