"""What a stage found, on disk: ``result.json`` (notes, order, figures' data) and ``tables/`` (Parquet, CSV)."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlsae.errors import UserError
from vlsae.runs.files import load_json, plain, write_atomic, write_json

RESULT = "result.json"
TABLES = "tables"
PICTURES = "pictures"
PNG = b"\x89PNG"


def write_table(folder: Path, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write ``<name>.csv`` and ``<name>.parquet``; a column of mixed kinds is text in Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    folder.mkdir(parents=True, exist_ok=True)
    cells = [[plain(cell) for cell in row] for row in rows]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(["" if cell is None else cell for cell in row] for row in cells)
    write_atomic(folder / f"{name}.csv", buffer.getvalue())
    arrays = [_array([row[number] for row in cells]) for number in range(len(columns))]
    parquet.write_table(pa.table(arrays, names=list(columns)), folder / f"{name}.parquet")


def write_pictures(path: Path, name: str, pictures: Sequence[bytes | None]) -> list[str | None]:
    """Write the pictures of a table's rows into a run's ``pictures/``; return their names, None for a row without."""
    files = [
        None if one is None else f"{name}-{number:04d}.{'png' if one.startswith(PNG) else 'jpg'}"
        for number, one in enumerate(pictures, start=1)
    ]
    for file, one in zip(files, pictures):
        if file is not None and one is not None:
            (path / PICTURES).mkdir(exist_ok=True)
            write_atomic(path / PICTURES / file, one)
    return files


def read_table(folder: Path, name: str) -> tuple[list[str], list[list[Any]]]:
    """Return the columns and rows of a table; ``UserError`` where its file is gone or damaged."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    file = folder / f"{name}.parquet"
    try:
        table = parquet.read_table(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{file} cannot be read ({error}).", "Make the run anew.") from error
    return list(table.column_names), [list(row.values()) for row in table.to_pylist()]


def write_result_file(path: Path, content: Mapping[str, Any]) -> None:
    """Write a run directory's ``result.json`` atomically."""
    write_json(path / RESULT, content)


def read_result_file(path: Path) -> dict[str, Any] | None:
    """Return a run directory's ``result.json``, None without one; ``UserError`` for one that is not whole."""
    file = path / RESULT
    try:
        content = load_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise UserError(f"{file} is damaged ({error}).", "Make the run anew.") from error
    if not isinstance(content, dict) or not {"notes", "headline", "tables", "plots"} <= content.keys():
        raise UserError(f"{file} is damaged: it lacks its parts.", "Make the run anew.")
    return content


def _array(cells: list[Any]) -> Any:
    import pyarrow as pa

    try:
        return pa.array(cells)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if cell is None else str(cell) for cell in cells], pa.string())
