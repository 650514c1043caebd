"""A stage's notes, tables and figures as the report shows them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlsae.reporting.figures import Figure
from vlsae.reporting.gallery import data_uri
from vlsae.reporting.numbers import text_of
from vlsae.reporting.plots import draw
from vlsae.reporting.privacy import Privacy
from vlsae.runs.results import PICTURES, TABLES, read_result_file, read_table

#: Rows of a table that stand on the page; all of them lie in its file.
MOST_ROWS = 200


@dataclass(frozen=True)
class ShownTable:
    """A table as the page shows it: texts, which columns are numbers, and the pictures before its rows, if any."""

    name: str
    title: str
    description: str
    columns: list[str]
    numeric: list[bool]
    rows: list[list[str]]
    total: int
    pictures: list[str | None]


@dataclass(frozen=True)
class ResultSection:
    """What a stage found: sentences, figures, tables."""

    notes: list[str]
    headline: list[str]
    figures: list[Figure]
    tables: list[ShownTable]


def result_section(path: Path, privacy: Privacy) -> ResultSection | None:
    """Return a run's section, None where its stage left no ``result.json``."""
    content = read_result_file(path)
    if content is None:
        return None
    tables = [_table(path, entry, privacy) for entry in content["tables"]]
    notes = [privacy.paths(note) for note in content["notes"]]
    return ResultSection(notes, content["headline"], [draw(plot) for plot in content["plots"]], tables)


def _table(path: Path, entry: dict[str, Any], privacy: Privacy) -> ShownTable:
    columns, rows = read_table(path / TABLES, entry["name"])
    numeric = [
        all(row[number] is None or isinstance(row[number], (int, float)) for row in rows)
        for number in range(len(columns))
    ]
    shown = [
        [text_of(privacy.cell(column, cell)) for column, cell in zip(columns, row, strict=True)]
        for row in rows[:MOST_ROWS]
    ]
    # Runs of before pictures stood beside rows name none.
    files = entry.get("pictures", [])[:MOST_ROWS] if privacy.pictures else []
    pictures = [_picture(path, file) for file in files]
    pictures = pictures if any(pictures) else []
    return ShownTable(entry["name"], entry["title"], entry["description"], columns, numeric, shown, len(rows), pictures)


def _picture(path: Path, name: str | None) -> str | None:
    """Return a picture of the run as a data URI, None where there is none."""
    if name is None:
        return None
    # A run of a stranger may name any file of this machine: none but the run's own is read.
    file = path / PICTURES / Path(name).name
    return data_uri(file.read_bytes()) if file.is_file() and not file.is_symlink() else None
