"""Removing runs: never one outside the root, at work, or that another run was made from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from filelock import Timeout

from vlsae.errors import UserError
from vlsae.runs.inventory import files_of
from vlsae.runs.latest import move_latest
from vlsae.runs.listing import entries_of
from vlsae.runs.locks import PATIENCE_SECONDS, RUN_LOCK, lock_file
from vlsae.runs.names import SWEEPS, RunId, version_number

#: How the name of a run on its way out begins.
GRAVE = ".removed-"


class Removed(NamedTuple):
    """What was removed."""

    run_id: str
    path: Path
    bytes: int


def remove(path: Path, root: Path) -> Removed:
    """Remove one run; see :func:`remove_all`."""
    (removed,) = remove_all([path], root)
    return removed


def remove_all(paths: Iterable[Path], root: Path) -> Iterator[Removed]:
    """Remove run directories under a root, giving each as it goes; their versions are not given out again.

    Raises ``UserError``, before anything is removed, for a directory outside the root, a run at work, and a run that
    a run which stays names as its parent.
    """
    runs = {_id_within(path, root): path for path in paths}
    with ExitStack() as locks:
        for run_id, path in runs.items():
            locks.enter_context(_lock(run_id, path))
        children = {run_id: children_of(run_id, root) for run_id in runs}
        for run_id, found in children.items():
            staying = [child for child in found if child not in runs]
            if staying:
                raise UserError(f"{run_id} is not removed: {', '.join(staying)} came of it.", "Remove those first.")
        while runs:
            # A run goes after those that came of it, so that a removal cut short leaves no run without its parent.
            run_id = next((one for one in runs if not runs.keys() & set(children[one])), next(iter(runs)))
            yield _remove_now(run_id, runs.pop(run_id))


@contextmanager
def _lock(run_id: str, path: Path) -> Iterator[None]:
    lock = lock_file(path / RUN_LOCK)
    try:
        lock.acquire(timeout=PATIENCE_SECONDS)
    except Timeout as error:
        raise UserError(f"{run_id} is running and is not removed.", "Wait for it to end, or stop it first.") from error
    try:
        yield
    finally:
        lock.release()


def clear_unfinished(root: Path) -> None:
    """Remove what is left of runs whose removal was cut short."""
    for grave in root.glob(f"*/*/{GRAVE}*"):
        if grave.resolve() == root.resolve() / grave.relative_to(root):  # no link leads elsewhere
            shutil.rmtree(grave, ignore_errors=True)


def _remove_now(run_id: str, path: Path) -> Removed:
    size = sum((path / name).stat().st_size for name in files_of(path))
    # Renamed first, so that nobody ever sees half of a run.
    grave = path.parent / f"{GRAVE}{path.name}-{os.getpid()}"
    path.rename(grave)
    # Another removal may be clearing it at the same time: what it takes first is no error.
    shutil.rmtree(grave, ignore_errors=True)
    if grave.exists():
        shutil.rmtree(grave)
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
