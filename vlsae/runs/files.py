"""Files that are whole or absent: atomic writes, strict JSON, and hashes."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

BLOCK = 1 << 20

#: How the names end of files that are not whole yet; they begin with a dot.
TEMPORARY = ".tmp"


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, and a machine that lost power, sees the old or the new one whole."""
    handle, temporary = temporary_beside(path)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content.encode("utf-8") if isinstance(content, str) else content)
            stream.flush()
            # mkstemp makes files private; a run is read by whoever may read its folder.
            os.fchmod(stream.fileno(), 0o666 & ~_umask())
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def temporary_beside(path: Path) -> tuple[int, str]:
    """Open a new file beside another, which will take its name once it is whole; return its handle and path."""
    return tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY)


def remove_temporary(folder: Path) -> None:
    """Remove what a process that was killed left half-written in a folder that nobody else writes to."""
    for file in sorted(folder.rglob(f".*{TEMPORARY}")):
        if file.is_file() and not file.is_symlink():
            file.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable, where the file system offers it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        # Some network file systems refuse to sync a folder; the rename itself stays atomic.
        pass
    finally:
        os.close(handle)


@contextmanager
def system_errors(path: Path) -> Iterator[None]:
    """Within the context, what the system refused while a file was written is an ``OSError``.

    Safetensors tells of a full disk in words alone.
    """
    try:
        yield
    except Exception as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None or isinstance(error, OSError):
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from error


def plain(value: Any) -> Any:
    """Return a value in strict JSON's types: NumPy as Python's, paths and dates as text, NaN and infinities as None."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, date):
        return value.isoformat()
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    raise TypeError(f"{type(value).__name__} {value!r} has no form in JSON.")


def dump_json(value: Any, indent: int | None = 2) -> str:
    """Return strict JSON text, without a line end."""
    return json.dumps(plain(value), indent=indent, ensure_ascii=False, allow_nan=False)


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON atomically."""
    write_atomic(path, dump_json(value) + "\n")


def load_json(text: str) -> Any:
    """Parse strict JSON; ``ValueError`` for anything else, NaN and Infinity included."""
    return json.loads(text, parse_constant=_refuse_constant)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
