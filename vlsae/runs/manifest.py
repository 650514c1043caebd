"""``manifest.json``: what a run is, what made it and what it holds."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from vlsae.errors import MissingFile, UserError
from vlsae.runs.files import load_json, write_json
from vlsae.runs.locks import RUN_LOCK, is_held

MANIFEST = "manifest.json"
SCHEMA = 1

RUNNING, DONE, FAILED, INTERRUPTED, DAMAGED = "running", "done", "failed", "interrupted", "damaged"
STATUSES = (RUNNING, DONE, FAILED, INTERRUPTED)

_FIELDS: dict[str, tuple[type, ...]] = {
    "run_id": (str,),
    "stage": (str,),
    "name": (str,),
    "version": (int,),
    "status": (str,),
    "device": (str,),
    "threads": (int,),
    "fingerprint": (str,),
    "seeds": (dict,),
    "sweep": (str, type(None)),
    "job": (int, type(None)),
    "command": (list,),
    "parents": (list,),
    "git_commit": (str, type(None)),
    "start": (str,),
    "end": (str, type(None)),
    "error": (str, type(None)),
    "packages": (dict,),
    "reproducible": (bool,),
    "files": (list,),
}


class DamagedRun(UserError):
    """A run directory whose manifest cannot be read."""


def is_partial(manifest: Mapping[str, Any]) -> bool:
    """Tell whether a run was made with ``--limit``, which is said wherever the run shows."""
    return bool(manifest.get("identity", {}).get("limit"))


def read_manifest(path: Path) -> dict[str, Any]:
    """Read and check a run directory's manifest.

    Raises ``MissingFile`` without a manifest and ``DamagedRun``, which says what is wrong, for one that is not whole.
    """
    file = path / MANIFEST
    special = _special_file(path)
    if special is not None:
        raise _damaged(path, f"{special} is no regular file, and reading it might never end")
    try:
        manifest = load_json(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingFile(f"{file} does not exist, so {path} is no run.", "Name a run directory.") from error
    except (ValueError, OSError) as error:
        raise _damaged(path, f"{MANIFEST} is not readable JSON ({error})") from error
    fault = _fault(manifest)
    if fault is not None:
        raise _damaged(path, fault)
    return manifest


def write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """Write a run directory's manifest atomically."""
    write_json(path / MANIFEST, manifest)


def effective_status(path: Path, manifest: dict[str, Any]) -> str:
    """Return a run's status; ``running`` without a process that holds its lock means interrupted."""
    status = str(manifest["status"])
    if status == RUNNING and not is_held(path / RUN_LOCK):
        # It may have ended between the reading and the asking.
        status = str(read_manifest(path)["status"])
        return INTERRUPTED if status == RUNNING else status
    return status


def _special_file(path: Path) -> str | None:
    """Return the name of a pipe, a device or a socket in a directory, None where there is none."""
    with suppress(OSError), os.scandir(path) as entries:
        for entry in entries:
            with suppress(OSError):
                kind = stat.S_IFMT(entry.stat().st_mode)
                if kind not in (stat.S_IFREG, stat.S_IFDIR):
                    return entry.name
    return None


def _fault(manifest: Any) -> str | None:
    if not isinstance(manifest, dict):
        return f"{MANIFEST} holds a {type(manifest).__name__} where an object is expected"
    for field, kinds in _FIELDS.items():
        if field not in manifest:
            return f"{MANIFEST} lacks {field!r}"
        value = manifest[field]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            return f"{MANIFEST} has {field} = {value!r}, expected {' or '.join(kind.__name__ for kind in kinds)}"
    for field in ("start", "end"):
        if manifest[field] is not None and not _is_time(manifest[field]):
            return f"{MANIFEST} has {field} = {manifest[field]!r}, expected a time with its zone in ISO 8601"
    for field in ("parents", "command"):
        wrong = [item for item in manifest[field] if not isinstance(item, str)]
        if wrong:
            return f"{MANIFEST} has {wrong[0]!r} in {field}, expected texts"
    for entry in manifest["files"]:
        if not _is_file_entry(entry):
            return f"{MANIFEST} has {entry!r} in files, expected a path within the run, bytes and sha256"
    if manifest["status"] not in STATUSES:
        return f"{MANIFEST} has status {manifest['status']!r}, expected one of {', '.join(STATUSES)}"
    if not isinstance(manifest.get("schema", SCHEMA), int) or manifest.get("schema", SCHEMA) > SCHEMA:
        return f"{MANIFEST} has schema {manifest['schema']!r}, written by a newer vlsae; this one knows {SCHEMA}"
    return None


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _is_file_entry(entry: Any) -> bool:
    kinds = {"path": str, "bytes": int, "sha256": str}
    if not isinstance(entry, dict) or not all(isinstance(entry.get(name), kind) for name, kind in kinds.items()):
        return False
    # A manifest that came from elsewhere must not have files outside of its run read.
    place = PurePosixPath(entry["path"])
    return bool(place.parts) and not place.is_absolute() and ".." not in place.parts


def _damaged(path: Path, fault: str) -> DamagedRun:
    return DamagedRun(
        f"The run in {path} is damaged: {fault}.", "Restore the file, or remove the run and make it anew."
    )
