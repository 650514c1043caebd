"""Rows of caption files: JSON, JSONL, CSV, TSV, Parquet and COCO's own JSON, each with its place in the file."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlsae.datasets.base import Skipped
from vlsae.errors import MissingFile, UserError, nearest, unknown

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")

#: Names that a column goes by where the user maps none, likeliest first.
USUAL = {
    "id": ("sample_id", "id"),
    "image": ("image", "file_name", "filename", "file", "filepath", "image_path", "path", "image_name"),
    "text": ("text", "caption", "texts", "captions", "title", "sentence", "sentences"),
    "label": ("label",),
    "group": ("group",),
    "split": ("split",),
}

#: The columns that a user may map, and those that a file must have.
COLUMNS = tuple(USUAL)
NEEDED = ("image", "text")


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
    labels: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Rows:
    """The rows of a caption file, the rows that could not be read, and the images that it lists without any caption.

    ``ids`` says whose the ids are: the ``samples``', or ``unsaid`` where a column happens to go by a usual name.
    """

    rows: list[Row] = field(default_factory=list)
    uncaptioned: list[str] = field(default_factory=list)
    faults: list[Skipped] = field(default_factory=list)
    ids: str = "samples"


@dataclass
class Records:
    """What a file holds before its columns are mapped: place and values of each record."""

    names: list[str] = field(default_factory=list)
    records: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    faults: list[Skipped] = field(default_factory=list)

    def add(self, place: str, value: Any) -> None:
        """Take an object, or note that the value is none."""
        if isinstance(value, dict):
            self.records.append((place, value))
            self.names.extend(name for name in value if name not in self.names)
        else:
            self.faults.append(Skipped(place, f"{type(value).__name__}; expected an object of columns"))


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


def read_records(path: Path) -> Records:
    """Return a table's records before any column is mapped; of JSON, a list of objects.

    Raises ``MissingFile`` without the file, ``UserError`` for a format or an encoding that is not known.
    """
    if not path.is_file():
        raise MissingFile(f"There is no file {path}.", "Name one that exists.")
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet(path)
    if suffix in (".csv", ".tsv"):
        return _delimited(path, "\t" if suffix == ".tsv" else ",")
    if suffix in (".jsonl", ".ndjson"):
        return _json_lines(path)
    if suffix != ".json":
        raise UserError(f"{path.name} is of no known format of tables.", f"Known: {', '.join(SUFFIXES)}.")
    content = _json_content(path)
    if not isinstance(content, list):
        raise UserError(f"{path.name} is JSON of an unknown form.", "Expected a list of objects.")
    return _listed(content, path)


def is_captions(path: Path) -> bool:
    """Tell whether a file holds captions, by its columns or, for COCO's JSON, by its annotations."""
    try:
        found = read_rows(path, {})
    except (UserError, OSError):
        return False
    return bool(found.rows)


def _mapped(found: Records, path: Path, columns: Mapping[str, str | None]) -> Rows:
    rows = Rows(faults=found.faults, ids="samples" if columns.get("id") else "unsaid")
    if not found.records and not found.names:
        return rows
    names = _names(found.names, path, columns)
    for place, record in found.records:
        values: dict[str, Any] = {key: record.get(name) for key, name in names.items() if key not in NEEDED}
        text = record.get(names["text"])
        if text == []:
            rows.uncaptioned.append(str(record.get(names["image"])))
            continue
        texts = text if isinstance(text, list) else [text]
        rows.rows.append(Row(place, record.get(names["image"]), texts, **values))
    return rows


def column_name(
    key: str, asked: str | None, found: Sequence[str], path: Path, usual: Sequence[str] = (), needed: bool = False
) -> str | None:
    """Return a file's own name of the column that ``dataset.columns.KEY`` asks for, by default of a usual name.

    None where there is none, or where the asked name is empty. Raises ``UserError`` for a name that the file lacks and
    for a needed column that is not found.
    """
    if asked == "" and not needed:
        return None
    if asked is not None and asked not in found:
        close = nearest(asked, found)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise UserError(
            f"{path.name} has no column {asked!r} (dataset.columns.{key}).", f"It has {', '.join(found)}.{hint}"
        )
    name = asked or next((name for name in usual if name in found), None)
    if name is None and needed:
        raise UserError(
            f"{path.name} has no {key} column: it has {', '.join(found) or 'no columns'}.",
            f"Say which one holds the {key}: dataset.columns.{key}=NAME",
        )
    return name


def _names(found: Sequence[str], path: Path, columns: Mapping[str, str | None]) -> dict[str, str]:
    """Return the file's own name of each mapped column; image and text must be there. An empty name maps none."""
    names = {key: column_name(key, columns.get(key), found, path, USUAL[key], key in NEEDED) for key in COLUMNS}
    return {key: name for key, name in names.items() if name is not None}


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file; ``UserError`` names the first line that is not."""
    raw = path.read_bytes()
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path.name} line 1 is UTF-16, not UTF-8.", "Save the file as UTF-8.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path.name} line {line} is not UTF-8 (byte {raw[error.start]:#04x}).", "Save the file as UTF-8."
        ) from error


def _delimited(path: Path, delimiter: str) -> Records:
    found = Records()
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    start = 1
    try:
        for values in reader:
            line, start = start, reader.line_num + 1
            if not values:
                continue
            if header is None:
                header = [value.strip() for value in values]
                _refuse_twins(header, path)
            elif len(values) != len(header):
                reason = f"{len(values)} values; expected {len(header)} (quote those that hold the delimiter)"
                found.faults.append(Skipped(f"{path.name} line {line}", reason))
            else:
                found.records.append((f"{path.name} line {line}", dict(zip(header, values))))
    except csv.Error as error:
        raise UserError(f"{path.name} line {start}: {error}.", "Mend the quotes of that row.") from error
    found.names = header or []
    return found


def _json_lines(path: Path) -> Records:
    found = Records()
    # Only a line feed ends a line of JSON: the other Unicode separators may stand inside its strings.
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path.name} line {number}"
        try:
            found.add(place, _parsed(line))
        except (ValueError, RecursionError) as error:
            found.faults.append(Skipped(place, f"not JSON: {_words(error)}"))
    return found


def _json_content(path: Path) -> Any:
    try:
        return _parsed(read_text(path))
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        line = f" line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise UserError(f"{path.name}{line} is not JSON: {_words(error)}.", "Mend the file.") from error


def _listed(content: list[Any], path: Path) -> Records:
    found = Records()
    for number, value in enumerate(content):
        found.add(f"{path.name} row {number}", value)
    return found


def _json(path: Path, columns: Mapping[str, str | None]) -> Rows:
    content = _json_content(path)
    if isinstance(content, list):
        return _mapped(_listed(content, path), path, columns)
    if isinstance(content, dict) and {"images", "annotations"} <= set(content):
        return _coco(content, path)
    if isinstance(content, dict) and all(isinstance(value, (str, list)) for value in content.values()):
        rows = Rows(uncaptioned=[name for name, value in content.items() if value == []])
        for name, value in content.items():
            if value != []:
                rows.rows.append(Row(f"{path.name} {name!r}", name, [value] if isinstance(value, str) else value))
        return rows
    raise UserError(
        f"{path.name} is JSON of an unknown form.",
        "Expected a list of objects, {file: caption or captions}, or COCO's images and annotations.",
    )


def _coco(content: dict[str, Any], path: Path) -> Rows:
    found = Rows()
    files: dict[Any, Any] = {}
    try:
        for number, image in enumerate(content["images"]):
            if image["id"] in files:
                found.faults.append(Skipped(f"{path.name} images[{number}]", f"duplicate id {image['id']!r}"))
            else:
                files[image["id"]] = image["file_name"]
        captions: dict[Any, list[Any]] = {number: [] for number in files}
        for number, annotation in enumerate(content["annotations"]):
            owner, caption = annotation["image_id"], annotation["caption"]
            if owner in files:
                captions[owner].append(caption)
            else:
                reason = f"belongs to image {owner}, which is not listed"
                found.faults.append(Skipped(f"{path.name} annotation {number}", reason))
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path.name} lacks {error} for captions in COCO's form.",
            "Each image needs id and file_name, each annotation image_id and caption.",
        ) from error
    found.rows = [Row(f"{path.name} image {n}", files[n], texts, id=n) for n, texts in captions.items() if texts]
    found.uncaptioned = [str(files[number]) for number, texts in captions.items() if not texts]
    return found


def _parquet(path: Path) -> Records:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        table = parquet.read_table(path)
        _refuse_twins(table.column_names, path)
        records = table.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path.name} is not readable Parquet: {_words(error)}.") from error
    return Records(table.column_names, [(f"{path.name} row {number}", record) for number, record in enumerate(records)])


def _refuse_twins(names: Sequence[str], path: Path) -> None:
    twins = [name for name, times in Counter(names).items() if times > 1]
    if twins:
        raise UserError(f"{path.name} has the column {twins[0]!r} twice.", "Give each column a name of its own.")


def _parsed(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_without_twins)


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object that names a key twice: the captions of the first would be lost without a word."""
    values = dict(pairs)
    if len(values) < len(pairs):
        ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {key!r} stands twice in one object")
    return values


def _words(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return str(getattr(error, "msg", None) or error).split("\n")[0].rstrip(".")
