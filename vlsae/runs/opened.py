"""A run as a library user sees it: ``vlsae.open_run("train/clip-shapes-vl_sae/latest")``."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlsae.errors import MissingFile, unknown
from vlsae.runs.inventory import changed_files, files_of
from vlsae.runs.manifest import effective_status, read_manifest
from vlsae.runs.metrics import read_metrics, read_summary
from vlsae.runs.names import runs_root
from vlsae.runs.reference import resolve

if TYPE_CHECKING:
    import pyarrow as pa
    from omegaconf import DictConfig

    from vlsae.dictionaries import VLSAE
    from vlsae.representations import Store

TABLES = (".parquet", ".csv", ".jsonl", ".arrow")


class OpenedRun:
    """The content of a run directory, read when asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest: dict[str, Any] = read_manifest(path)

    def __repr__(self) -> str:
        return f"OpenedRun({self.id!r}, {self.status})"

    @property
    def id(self) -> str:
        """The run id, ``stage/name/vNNNN``."""
        return str(self.manifest["run_id"])

    @property
    def status(self) -> str:
        """``running``, ``done``, ``failed`` or ``interrupted``; a running run without a process is interrupted."""
        return effective_status(self.path, self.manifest)

    @cached_property
    def config(self) -> DictConfig:
        """The composed configuration, checked before it is handed out."""
        from vlsae.config import load

        return load(self.path)

    @property
    def summary(self) -> dict[str, Any] | None:
        """The final numbers as ``summary.json`` holds them, None while there are none."""
        return read_summary(self.path)

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of ``metrics.jsonl``."""
        return read_metrics(self.path)

    def files(self) -> list[str]:
        """Return the relative paths of the run's files."""
        return files_of(self.path)

    def changed_files(self) -> list[str]:
        """Return the files that are missing or differ from the manifest's SHA-256; empty when the run is whole."""
        return changed_files(self.path, self.manifest["files"])

    def tables(self) -> list[str]:
        """Return the names of the run's tables: its Parquet, CSV, JSONL and Arrow files, relative."""
        return [name for name in self.files() if name.endswith(TABLES)]

    def table(self, name: str) -> pa.Table:
        """Return a table by its relative path, with or without its ending; ``UserError`` names the nearest."""
        names = self.tables()
        for candidate in (name, *(name + ending for ending in TABLES)):
            if candidate in names:
                return _read_table(self.path / candidate)
        raise unknown("table", name, names)

    def representations(self) -> Store:
        """Return the store of an extraction."""
        from vlsae.representations import Store

        return Store.open(self._folder("representations"))

    def dictionary(self) -> VLSAE:
        """Return the dictionary of a training, of whatever class was trained."""
        from vlsae.dictionaries import from_pretrained

        return from_pretrained(self._folder("dictionary"))

    def _folder(self, name: str) -> Path:
        folder = self.path / name
        if not folder.is_dir():
            message = f"{self.id} holds no {name}: {folder} does not exist."
            raise MissingFile(message, f"It is a run of the stage {self.manifest['stage']}.")
        return folder


def open_run(reference: str | os.PathLike[str], runs_dir: str | os.PathLike[str] | None = None) -> OpenedRun:
    """Return a run by path, run id, ``stage/name/vNNNN`` or ``…/latest``; ``UserError`` names the nearest."""
    return OpenedRun(resolve(os.fspath(reference), runs_root(runs_dir)))


def _read_table(file: Path) -> pa.Table:
    if file.suffix == ".parquet":
        from pyarrow import parquet

        return parquet.read_table(file)
    if file.suffix == ".csv":
        from pyarrow import csv

        return csv.read_csv(file)
    if file.suffix == ".jsonl":
        import pyarrow as pa

        from vlsae.runs.files import load_json

        return pa.Table.from_pylist([load_json(line) for line in file.read_text(encoding="utf-8").splitlines()])
    import pyarrow as pa

    with pa.memory_map(str(file)) as source:
        return pa.ipc.open_file(source).read_all()
