"""Removing a run: never one outside the root, at work, or that another run was made from."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

from filelock import Timeout

from vlsae.errors import UserError
from vlsae.runs.inventory import files_of
from vlsae.runs.latest import move_latest
from vlsae.runs.listing import entries_of
from vlsae.runs.locks import PATIENCE_SECONDS, RUN_LOCK, lock_file
from vlsae.runs.names import SWEEPS, RunId, version_number


class Removed(NamedTuple):
    """What was removed."""

    run_id: str
    path: Path
    bytes: int


def remove(path: Path, root: Path) -> Removed:
    """Remove a run directory under a root; its version is not given out again.

    Raises ``UserError`` for a directory outside the root, a run at work, and a run that others name as parent.
    """
    run_id = _id_within(path, root)
    lock = lock_file(path / RUN_LOCK)
    try:
        lock.acquire(timeout=PATIENCE_SECONDS)
    except Timeout as error:
        raise UserError(f"{run_id} is running and is not removed.", "Wait for it to end, or stop it first.") from error
    try:
        children = children_of(run_id, root)
        if children:
            raise UserError(f"{run_id} is not removed: {', '.join(children)} came of it.", "Remove those first.")
        size = sum((path / name).stat().st_size for name in files_of(path))
        # Renamed first, so that nobody ever sees half of a run.
        grave = path.parent / f".removed-{path.name}-{os.getpid()}"
        path.rename(grave)
        shutil.rmtree(grave)
    finally:
        lock.release()
    move_latest(path)
    return Removed(run_id, path, size)


def children_of(run_id: str, root: Path) -> list[str]:
    """Return the ids of the runs under a root that name a run as their parent."""
    return sorted(str(e.id) for e in entries_of(root) if e.manifest is not None and run_id in e.manifest["parents"])


def _id_within(path: Path, root: Path) -> str:
    place, top = path.resolve(), root.resolve()
    parts = place.relative_to(top).parts if place.is_relative_to(top) else ()
    version = version_number(parts[-1]) if len(parts) == 3 else None
    if version is None or parts[0] == SWEEPS:
        raise UserError(
            f"{path} is no run of {root} and is not removed.", "Set VLSAE_RUNS or --runs-dir to the folder it lies in."
        )
    return str(RunId(parts[0], parts[1], version))
