"""All runs under a root, whole or damaged, newest first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import Timeout

from vlsae.errors import MissingFile
from vlsae.runs.locks import CLAIM_LOCK, PATIENCE_SECONDS, RUN_LOCK, is_held, lock_file
from vlsae.runs.manifest import DAMAGED, DamagedRun, effective_status, read_manifest
from vlsae.runs.names import SWEEPS, RunId, version_number


@dataclass(frozen=True)
class Entry:
    """A run as it lies on disk; ``manifest`` is None and ``fault`` says why where the run is damaged."""

    id: RunId
    path: Path
    status: str
    manifest: dict[str, Any] | None
    fault: str | None = None

    @property
    def start(self) -> str:
        """When the run began; of a damaged run, when its directory last changed."""
        if self.manifest is not None:
            return str(self.manifest["start"])
        return datetime.fromtimestamp(self.path.stat().st_mtime, timezone.utc).isoformat(timespec="microseconds")


def entries_of(root: Path, stage: str | None = None, name: str | None = None) -> list[Entry]:
    """Return the runs under a root, newest first; runs that are being claimed at this moment are left out."""
    entries = [entry for entry in map(entry_of, run_folders(root, stage, name)) if entry is not None]
    return sorted(entries, key=lambda entry: (entry.start, entry.id.version), reverse=True)


def run_folders(root: Path, stage: str | None = None, name: str | None = None) -> Iterator[Path]:
    """Give the directories ``stage/name/vNNNN`` under a root, whatever is in them."""
    for stage_folder in _folders(root):
        if stage_folder.name == SWEEPS or (stage is not None and stage_folder.name != stage):
            continue
        for name_folder in _folders(stage_folder):
            if name is not None and name_folder.name != name:
                continue
            for folder in _folders(name_folder):
                if version_number(folder.name) is not None:
                    yield folder


def entry_of(path: Path) -> Entry | None:
    """Return the run in a directory ``stage/name/vNNNN``, None if it is being claimed or removed at this moment."""
    run_id = RunId(path.parent.parent.name, path.parent.name, version_number(path.name) or 0)
    try:
        manifest = _read_claimed(path)
        if manifest is None:
            return None
        status = effective_status(path, manifest)
    except DamagedRun as error:
        return Entry(run_id, path, DAMAGED, None, error.message)
    except MissingFile as error:
        return Entry(run_id, path, DAMAGED, None, error.message) if path.is_dir() else None
    if manifest["run_id"] != str(run_id):
        fault = f"The run in {path} is damaged: its manifest says that it is {manifest['run_id']}."
        return Entry(run_id, path, DAMAGED, None, fault)
    return Entry(run_id, path, status, {**manifest, "status": status})


def _read_claimed(path: Path) -> dict[str, Any] | None:
    try:
        return read_manifest(path)
    except MissingFile:
        if is_held(path / RUN_LOCK) or not _claim_ended(path.parent):
            return None
        return read_manifest(path)


def _claim_ended(folder: Path) -> bool:
    # A claim makes the directory first and its manifest a moment later, all under the claim lock.
    if not (folder / CLAIM_LOCK).exists():
        return True
    lock = lock_file(folder / CLAIM_LOCK)
    try:
        lock.acquire(timeout=PATIENCE_SECONDS)
    except Timeout:
        return False
    except OSError:
        return True
    lock.release()
    return True


def _folders(folder: Path) -> list[Path]:
    try:
        children = sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [child for child in children if not child.name.startswith(".") and child.is_dir() and not child.is_symlink()]
