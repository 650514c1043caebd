"""The files of a run with their sizes and hashes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vlsae.runs.files import sha256
from vlsae.runs.locks import RUN_LOCK
from vlsae.runs.manifest import DONE, MANIFEST, read_manifest, write_manifest


class KnownDigest(NamedTuple):
    """A hash taken while a file was written, valid as long as size and time of the file stay."""

    sha256: str
    size: int
    modified: int


def know(path: Path, digest: str) -> KnownDigest:
    """Remember a file's hash together with what shows that the file is still the same."""
    state = path.stat()
    return KnownDigest(digest, state.st_size, state.st_mtime_ns)


def inventory(path: Path, known: Mapping[str, KnownDigest]) -> list[dict[str, Any]]:
    """Return ``{path, bytes, sha256}`` of every file but the manifest and the lock, sorted; ``known`` saves hashing."""
    return _entries(path, files_of(path), known)


def relist(path: Path, wanted: Callable[[str], bool]) -> None:
    """Record anew, in the manifest of a run that is done, those files that were written again after its end.

    ``wanted`` takes a relative path; all other entries stay as they are, so that damage to them stays visible.
    """
    manifest = read_manifest(path)
    if manifest["status"] != DONE:
        return
    kept = [entry for entry in manifest["files"] if not wanted(entry["path"])]
    written = _entries(path, filter(wanted, files_of(path)), {})
    write_manifest(path, {**manifest, "files": sorted(kept + written, key=lambda entry: str(entry["path"]))})


def _entries(path: Path, names: Iterable[str], known: Mapping[str, KnownDigest]) -> list[dict[str, Any]]:
    entries = []
    for relative in names:
        file = path / relative
        state = file.stat()
        remembered = known.get(relative)
        if remembered is not None and (remembered.size, remembered.modified) == (state.st_size, state.st_mtime_ns):
            digest = remembered.sha256
        else:
            digest = sha256(file)
        entries.append({"path": relative, "bytes": state.st_size, "sha256": digest})
    return entries


def files_of(path: Path) -> list[str]:
    """Return the relative paths of a run directory's files, sorted, but the manifest and the lock."""
    return sorted(name for name in _walk(path) if name not in (MANIFEST, RUN_LOCK))


def changed_files(path: Path, entries: list[dict[str, Any]]) -> list[str]:
    """Return the files that are missing, or whose bytes differ from a manifest's ``files``."""
    changed = []
    for entry in entries:
        file = path / entry["path"]
        if not file.is_file() or file.stat().st_size != entry["bytes"] or sha256(file) != entry["sha256"]:
            changed.append(str(entry["path"]))
    return changed


def _walk(path: Path) -> Iterator[str]:
    for folder, _, names in os.walk(path):
        for name in names:
            file = Path(folder, name)
            # What a link points to may lie outside and change; a run is made of its own files.
            if file.is_file() and not file.is_symlink():
                yield file.relative_to(path).as_posix()
