"""Reading and writing a store's files: whole or absent, memory-mapped, hashed."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from safetensors.torch import save_file
from torch import Tensor

from vlsae.errors import UserError
from vlsae.runs.files import TEMPORARY, sha256, sync_folder, system_errors

_SAFETENSORS = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
}


class DamagedStore(UserError):
    """A store whose files are not as they were written."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; at the end it is made durable and takes the name of ``path``.

    The temporary name is fixed: a second attempt after a kill overwrites what the first one left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}{TEMPORARY}"
    yield temporary
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def write_arrow(path: Path, tables: Iterator[pa.Table], schema: pa.Schema) -> None:
    """Write one record batch a table into an Arrow IPC file."""
    with whole_file(path) as temporary, pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as file:
        for table in tables:
            for batch in table.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], schema)]:
                file.write_batch(batch)


def read_arrow(path: Path) -> pa.Table:
    """Return the table of an Arrow IPC file, memory-mapped; the file itself is closed again."""
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as file:
            return file.read_all()
    except (OSError, pa.ArrowException) as error:
        raise DamagedStore(f"{path} cannot be read: {error}.", MEND) from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write a safetensors file; its metadata lie under one key, for the library writes several in any order."""
    with whole_file(path) as temporary, system_errors(path):
        save_file(dict(tensors), temporary, {"vlsae": json.dumps(metadata, sort_keys=True)})
        # safetensors makes files private; a site is read by whoever may read its folder.
        temporary.chmod(path.parent.stat().st_mode & 0o666)


def map_tensors(path: Path, ahead: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a safetensors file, memory-mapped and not copied, and its metadata.

    ``ahead`` has the system begin to read the whole file.

    Raises:
        DamagedStore: the header is no safetensors header, or its offsets do not fit the file.
    """
    try:
        with path.open("rb") as stream:
            # A private mapping: torch asks for writable memory, and what is written there never reaches the file.
            view = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        length = int.from_bytes(view[:8], "little")
        header = json.loads(view[8 : 8 + length])
        metadata = json.loads(header.pop("__metadata__")["vlsae"])
        tensors = {name: _tensor(view, 8 + length, entry) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RuntimeError) as error:
        raise DamagedStore(f"{path} has no sound safetensors header: {error}.", MEND) from error
    if ahead and hasattr(mmap, "MADV_WILLNEED"):
        view.madvise(mmap.MADV_WILLNEED)
    return tensors, metadata


def described(path: Path) -> dict[str, Any]:
    """Return the size and the SHA-256 of a file, as an index lists them."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def text_digest(text: str) -> str:
    """Return the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


MEND = "Extract the representations anew (train --force does), or copy the store again from where it came."


def _tensor(view: mmap.mmap, start: int, entry: Mapping[str, Any]) -> Tensor:
    dtype, shape = _SAFETENSORS[entry["dtype"]], [int(length) for length in entry["shape"]]
    first, last = entry["data_offsets"]
    count = 1
    for length in shape:
        count *= length
    if not 0 <= first <= last <= len(view) - start or last - first != count * dtype.itemsize:
        raise ValueError(f"offsets {first}…{last} do not fit shape {shape} in {len(view)} bytes")
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(view, dtype=dtype, count=count, offset=start + first).view(shape)
