"""What makes two runs the same: SHA-256 over stage, schema, identity, parents and content digests."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlsae.errors import MissingFile
from vlsae.runs.files import sha256
from vlsae.runs.listing import entries_of
from vlsae.runs.manifest import DONE

if TYPE_CHECKING:
    from vlsae.runs.run import Run

LARGE = 64 << 20
SAMPLE = 64 << 10
SAMPLES = 64


def fingerprint(
    stage: str, schema: int, identity: Mapping[str, Any], parents: Iterable[str], digests: Mapping[str, str]
) -> str:
    """Return the SHA-256 that identifies a run by what it is made from; the order of keys does not matter.

    ``parents`` are the parents' fingerprints, ``digests`` the content digests of weights and data by name. Raises
    ``TypeError`` or ``ValueError`` for identities without a form in strict JSON.
    """
    parts = {
        "stage": stage,
        "schema": schema,
        "identity": _strict(identity),
        "parents": list(parents),
        "digests": dict(digests),
    }
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def content_digest(path: str | os.PathLike[str], verify: bool = False) -> str:
    """Return the SHA-256 that identifies the content of a file or a folder.

    Files over 64 MiB count by size, modification time and sampled bytes unless ``verify``, which reads all of them. A
    folder counts by its files' relative paths and digests. Raises ``MissingFile``.
    """
    place = Path(path).expanduser()
    if place.is_file():
        return _file_digest(place, verify)
    if not place.is_dir():
        raise MissingFile(f"{place} does not exist.", "Name a file or a folder.")
    digest = hashlib.sha256(b"folder\n")
    for file in _files(place):
        digest.update(json.dumps([file.relative_to(place).as_posix(), _file_digest(file, verify)]).encode() + b"\n")
    return digest.hexdigest()


def find_done(root: Path, stage: str, predicate: Callable[[dict[str, Any]], bool]) -> Run | None:
    """Return the newest done run of a stage whose manifest satisfies the predicate, None without one."""
    from vlsae.runs.run import Run

    for entry in entries_of(root, stage=stage):
        if entry.status == DONE and entry.manifest is not None and predicate(entry.manifest):
            return Run(entry.path, entry.manifest)
    return None


def _file_digest(file: Path, verify: bool) -> str:
    state = file.stat()
    if verify or state.st_size <= LARGE:
        return sha256(file)
    digest = hashlib.sha256(f"sampled\n{state.st_size}\n{state.st_mtime_ns}\n".encode())
    with file.open("rb") as stream:
        for number in range(SAMPLES):
            stream.seek(number * (state.st_size - SAMPLE) // (SAMPLES - 1))
            digest.update(stream.read(SAMPLE))
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    found: list[Path] = []
    seen: set[str] = set()
    # Linked folders and files count by what they hold: model caches are made of links.
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        found += [Path(place, name) for name in names if Path(place, name).is_file()]
    return sorted(found, key=lambda file: file.relative_to(folder).as_posix())


def _strict(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise TypeError(f"An identity's keys are text; {wrong[0]!r} is a {type(wrong[0]).__name__}.")
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    raise TypeError(f"An identity holds JSON values; {value!r} is a {type(value).__name__}.")
