"""``tables/names.csv`` of a run: the names of concepts as a person may edit them, read back by reports and tasks."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from vlsae.errors import MissingFile, UserError

NAMES = "tables/names.csv"
UNNAMED = "unnamed"


@dataclass(frozen=True)
class NamedConcept:
    """A concept's name, None where it stayed unnamed, and what the file tells of how it was tested."""

    concept: int
    name: str | None
    score: float | None = None
    shuffled: float | None = None


def has_names(run_path: str | Path) -> bool:
    """Tell whether a run holds names."""
    return (Path(run_path) / NAMES).is_file()


def read_names(run_path: str | Path) -> dict[int, NamedConcept]:
    """Return the names of a run's concepts by their numbers, from its ``tables/names.csv`` or from a CSV file itself.

    The columns ``concept`` and ``name`` are needed; an empty name and ``unnamed`` leave a concept without one. Raises
    ``MissingFile`` where there is no such file and ``UserError`` that names the line which is wrong.
    """
    path = Path(run_path)
    file = path / NAMES if path.is_dir() else path
    if not file.is_file():
        raise MissingFile(
            f"There are no names of concepts in {file}.", "Make them by: vlsae probe probe=naming --run RUN"
        )
    with file.open(encoding="utf-8-sig", newline="") as stream:
        rows = csv.DictReader(stream)
        if not {"concept", "name"} <= set(rows.fieldnames or ()):
            found = ", ".join(rows.fieldnames or ()) or "none"
            raise UserError(f"{file} has the columns {found}.", "It needs the columns concept and name.")
        names: dict[int, NamedConcept] = {}
        for row in rows:
            one = _named(row, f"{file}, line {rows.line_num}")
            if one.concept in names:
                raise UserError(f"{file}, line {rows.line_num}: concept {one.concept} is there twice.")
            names[one.concept] = one
    return names


def _named(row: dict[str, str], where: str) -> NamedConcept:
    text = row["name"].strip() if row["name"] else ""
    number = _number(row, "concept", where)
    if number is None or not number.is_integer() or number < 0:
        raise UserError(f"{where}: concept is {row['concept']!r}.", "It is a whole number, 0 or more.")
    name = None if text in ("", UNNAMED) else text
    return NamedConcept(int(number), name, _number(row, "score", where), _number(row, "shuffled", where))


def _number(row: dict[str, str], column: str, where: str) -> float | None:
    text = (row.get(column) or "").strip()
    if not text:
        return None
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"{where}: {column} is {text!r}.", "It is a number, or empty.") from error
