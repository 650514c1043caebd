"""Rows of caption files: JSON, JSONL, CSV, TSV, Parquet and COCO's own JSON, each with its place in the file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlsae.errors import MissingFile, UserError, nearest, unknown

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")

#: Names that a column goes by where the user maps none, likeliest first.
USUAL = {
    "image": ("image", "file_name", "filename", "file", "filepath", "image_path", "path", "image_name"),
    "text": ("text", "caption", "texts", "captions", "title", "sentence", "sentences"),
}

#: The columns that a user may map.
COLUMNS = ("id", "image", "text", "label", "group", "split")


@dataclass(frozen=True)
class Row:
    """One row of a caption file: where it stands, and the values of the mapped columns (None where absent)."""

    place: str
    image: Any
    texts: list[Any]
    id: Any = None
    label: Any = None
    group: Any = None
    split: Any = None


@dataclass(frozen=True)
class Rows:
    """The rows of a caption file, and how many images it lists without any caption."""

    rows: list[Row]
    uncaptioned: list[str] = field(default_factory=list)


def read_rows(path: Path, columns: Mapping[str, str | None]) -> Rows:
    """Return a caption file's rows.

    Raises ``MissingFile`` without the file, ``UserError`` for a format, an encoding or a column that is not there.
    """
    if not path.is_file():
        raise MissingFile(f"There is no caption file {path}.", "Name one that exists: dataset.captions=FILE")
    for name in columns:
        if name not in COLUMNS:
            raise unknown("key in dataset.columns", name, COLUMNS)
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _mapped(_parquet(path), path, columns)
    if suffix in (".csv", ".tsv"):
        return _mapped(_delimited(path, "\t" if suffix == ".tsv" else ","), path, columns)
    if suffix in (".jsonl", ".ndjson"):
        return _mapped(_json_lines(path), path, columns)
    if suffix == ".json":
        return _json(path, columns)
    raise UserError(f"{path.name} is of no known caption format.", f"Known: {', '.join(SUFFIXES)}.")


def is_captions(path: Path) -> bool:
    """Tell whether a file holds captions, by its columns or, for COCO's JSON, by its annotations."""
    try:
        found = read_rows(path, {})
    except (UserError, OSError):
        return False
    return bool(found.rows)


def _mapped(records: Iterator[tuple[str, dict[str, Any]]], path: Path, columns: Mapping[str, str | None]) -> Rows:
    rows, names = [], None
    for place, record in records:
        if names is None:
            names = _names(list(record), path, columns)
        values = {key: record.get(name) for key, name in names.items() if key not in ("text", "image")}
        text = record.get(names["text"])
        texts = text if isinstance(text, list) else [text]
        rows.append(Row(f"{path.name} {place}", record.get(names["image"]), texts, **values))
    return Rows(rows)


def _names(found: list[str], path: Path, columns: Mapping[str, str | None]) -> dict[str, str]:
    """Return the file's own name of each mapped column; image and text must be there."""
    names = {}
    for key in COLUMNS:
        asked = columns.get(key)
        if asked is not None and asked not in found:
            close = nearest(asked, found)
            hint = f" Did you mean {' or '.join(close)}?" if close else ""
            raise UserError(
                f"{path.name} has no column {asked!r} (dataset.columns.{key}).", f"It has {', '.join(found)}.{hint}"
            )
        usual = USUAL.get(key, (key,) if key in ("split", "label", "group") else ())
        name = asked or next((name for name in usual if name in found), None)
        if name is not None:
            names[key] = name
        elif key in USUAL:
            raise UserError(
                f"{path.name} has no {key} column: it has {', '.join(found) or 'no columns'}.",
                f"Say which one holds the {key}: dataset.columns.{key}=NAME",
            )
    return names


def _text(path: Path) -> str:
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path.name} line {line} is not UTF-8 (byte {raw[error.start]:#04x}).", "Save the file as UTF-8."
        ) from error


def _delimited(path: Path, delimiter: str) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(_text(path), newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    start = 1
    try:
        for values in reader:
            line, start = start, reader.line_num + 1
            if not values:
                continue
            if header is None:
                header = values
                continue
            if len(values) != len(header):
                raise UserError(
                    f"{path.name} line {line} has {len(values)} values; expected {len(header)}.",
                    "Quote values that hold the delimiter or a line break.",
                )
            yield f"line {line}", dict(zip(header, values))
    except csv.Error as error:
        raise UserError(f"{path.name} line {reader.line_num}: {error}.", "Mend the quotes of that line.") from error


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    # Only a line feed ends a line of JSON: the other Unicode separators may stand inside its strings.
    for number, line in enumerate(_text(path).split("\n"), 1):
        if line.strip():
            yield f"line {number}", _object(_parsed(line, path, f"line {number}"), path, f"line {number}")


def _json(path: Path, columns: Mapping[str, str | None]) -> Rows:
    content = _parsed(_text(path), path, "")
    if isinstance(content, list):
        places = [(f"row {number}", value) for number, value in enumerate(content)]
        return _mapped(((place, _object(value, path, place)) for place, value in places), path, columns)
    if isinstance(content, dict) and {"images", "annotations"} <= set(content):
        return _coco(content, path)
    if isinstance(content, dict) and all(isinstance(value, (str, list)) for value in content.values()):
        items = content.items()
        return Rows([Row(f"{path.name} {key!r}", key, [v] if isinstance(v, str) else v) for key, v in items])
    raise UserError(
        f"{path.name} is JSON of an unknown form.",
        "Expected a list of objects, {file: caption or captions}, or COCO's images and annotations.",
    )


def _coco(content: dict[str, Any], path: Path) -> Rows:
    try:
        files = {image["id"]: image["file_name"] for image in content["images"]}
        captions: dict[Any, list[Any]] = {number: [] for number in files}
        for number, annotation in enumerate(content["annotations"]):
            if annotation["image_id"] not in files:
                raise UserError(
                    f"{path.name} annotation {number} belongs to image {annotation['image_id']}, which is not listed."
                )
            captions[annotation["image_id"]].append(annotation["caption"])
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path.name} lacks {error} for captions in COCO's form.",
            "Each image needs id and file_name, each annotation image_id and caption.",
        ) from error
    rows = [Row(f"{path.name} image {n}", files[n], found, id=n) for n, found in captions.items() if found]
    return Rows(rows, [str(files[number]) for number, found in captions.items() if not found])


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        table = parquet.read_table(path)
    except pa.ArrowException as error:
        raise UserError(f"{path.name} is not readable Parquet: {error}.") from error
    for number, record in enumerate(table.to_pylist()):
        yield f"row {number}", record


def _parsed(text: str, path: Path, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = place or f"line {error.lineno}"
        raise UserError(f"{path.name} {where} is not JSON: {error.msg}.") from error


def _object(value: Any, path: Path, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{path.name} {place} is {type(value).__name__}; expected an object of columns.")
    return value
