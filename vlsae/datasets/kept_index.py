"""Indices of shards that outlive a command: kept in the user's cache, and made anew where anything is amiss."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlsae.datasets.base import Skipped
from vlsae.datasets.shard_index import ShardIndex, index_shard, schema
from vlsae.runs.files import write_atomic

#: Raised where an index of the same shard and columns would hold something else than before.
FORMAT = 1

#: Bytes of a shard's beginning that are compared: where times say little, a copy of another shard is noticed.
HEAD = 64 << 10

_DIGEST = hashlib.sha256().digest_size
_FACTS = b"vlsae"

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return the folder of what can be made anew: ``VLSAE_CACHE``, else ``vlsae`` in the user's own cache folder."""
    own = os.environ.get("VLSAE_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vlsae"


def kept_index(path: Path, columns: Mapping[str, str]) -> ShardIndex:
    """Return the index of a shard: the kept one while the shard is what it was, else a new one, which is then kept.

    A shard is what it was while its path, size, times of change and first 64 KiB are the same. A kept index counts
    only where its own SHA-256 is right. That none can be kept costs time alone, and stands in the log.
    """
    facts = _facts(path, columns)
    # By path and columns alone: the index of a changed shard takes the place of the old one.
    name = hashlib.sha256(json.dumps([facts["path"], facts["columns"]]).encode()).hexdigest()
    place = cache_folder() / "shards" / name[:40]
    found = _read(place, facts)
    if found is not None:
        return found
    made = index_shard(path, columns)
    if made.whole and _facts(path, columns) == facts:
        _keep(place, made, facts)
    return made


def _facts(path: Path, columns: Mapping[str, str]) -> dict[str, Any]:
    state = path.stat()
    with path.open("rb") as file:
        head = hashlib.sha256(file.read(HEAD)).hexdigest()
    return {
        "format": FORMAT,
        "path": os.path.realpath(path),
        "columns": dict(sorted(columns.items())),
        "size": state.st_size,
        "times": [state.st_mtime_ns, state.st_ctime_ns],
        "head": head,
    }


def _read(place: Path, facts: Mapping[str, Any]) -> ShardIndex | None:
    import pyarrow as pa

    try:
        content = place.read_bytes()
        if hashlib.sha256(memoryview(content)[_DIGEST:]).digest() != content[:_DIGEST]:
            raise ValueError("its digest is another")
        table = pa.ipc.open_stream(pa.py_buffer(content).slice(_DIGEST)).read_all()
        table.validate(full=True)
        told = json.loads(table.schema.metadata[_FACTS])
        if told["shard"] != facts or not table.schema.equals(schema()):
            return None
        return ShardIndex(table.replace_schema_metadata(), [Skipped(*one) for one in told["problems"]], True)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        logger.warning("The kept index %s cannot be used (%s) and is made anew.", place, error)
        return None


def _keep(place: Path, made: ShardIndex, facts: Mapping[str, Any]) -> None:
    import pyarrow as pa

    told = {"shard": facts, "problems": [[one.row, one.reason] for one in made.problems]}
    table = made.table.replace_schema_metadata({_FACTS: json.dumps(told).encode()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    content = sink.getvalue().to_pybytes()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(place, hashlib.sha256(content).digest() + content)
    except OSError as error:
        logger.info("The index of %s is not kept: %s; VLSAE_CACHE names another folder.", facts["path"], error)
