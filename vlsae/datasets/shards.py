"""Pictures and captions in WebDataset tar shards: an index of where each lies, and the bytes read there on demand."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlsae.datasets.archives import MOST_BYTES
from vlsae.datasets.base import Skipped
from vlsae.datasets.kept_index import kept_index
from vlsae.datasets.pictured import Source
from vlsae.datasets.tables import COLUMNS
from vlsae.datasets.tar import Member, TarBytes
from vlsae.errors import UserError, unknown
from vlsae.progress import progress

if TYPE_CHECKING:
    import datasets as hf
    import pyarrow as pa


class Shards(Source):
    """The samples of tar shards; a sample is its number in the index, which holds all but the pixels."""

    wanted = "no image with a caption"
    check_many = "none"

    def __init__(self, paths: Sequence[Path], origin: str, columns: Mapping[str, str], settings: Any) -> None:
        for name in columns:
            if name not in COLUMNS:
                raise unknown("key in dataset.columns", name, COLUMNS)
        self.paths, self._origin, self.columns, self.settings = list(paths), origin, columns, settings
        root = os.path.commonpath([path.parent for path in self.paths])
        self.names = [path.relative_to(root).as_posix() for path in self.paths]

    @property
    def origin(self) -> str:
        """The folder or the pattern of the shards."""
        return self._origin

    def found(self) -> tuple[Sequence[int], list[Skipped]]:
        """Index every shard: read its members' headers and its texts, no picture, or the index that was kept."""
        import pyarrow as pa
        import pyarrow.compute as pc

        parts, problems = [], []
        self._states = [(state.st_size, state.st_mtime_ns) for state in map(os.stat, self.paths)]
        with progress("index", len(self.paths), "shards") as advance:
            for path, name in zip(self.paths, self.names):
                parts.append(kept_index(path, self.columns))
                problems += [
                    Skipped(f"{name}:{one.row}" if one.row else name, one.reason) for one in parts[-1].problems
                ]
                advance(1)
        index = pa.concat_tables([_rows(number, self.names[number], part.table) for number, part in enumerate(parts)])
        if pc.count_distinct(index["sample_id"]).as_py() < len(index):
            places = [f"{name}:{key}" for name, part in zip(self.names, parts) for key in part.table["key"].to_pylist()]
            index = index.take(_first_of_each(index["sample_id"].to_pylist(), places, problems))
        self._index: pa.Table = index
        locators = self._index.column("locator").combine_chunks()
        self._shard = np.asarray(self._index.column("_shard"))
        self._offset, self._size = (np.asarray(locators.field(name)) for name in ("offset", "size"))
        return range(self._index.num_rows), problems

    def table(self, samples: Sequence[int]) -> hf.Dataset:
        """Return the table of samples; ``locator`` says where a picture's bytes lie: shard, offset and size."""
        import datasets as hf
        from datasets.table import InMemoryTable

        kept = self._index.take(np.asarray(samples, dtype=np.int64)).drop_columns(["_shard"])
        if kept.column("split").null_count == kept.num_rows:
            kept = kept.drop_columns(["split"])
        return hf.Dataset(InMemoryTable(kept.combine_chunks()))

    def read(self, sample: int) -> bytes:
        """Return the bytes of a sample's picture."""
        member = Member(self.picture(sample), int(self._offset[sample]), int(self._size[sample]))
        if member.size > MOST_BYTES:
            raise UserError(f"file of {member.size:,} bytes, more than {MOST_BYTES:,}")
        shard = int(self._shard[sample])
        return _opened(self.paths[shard], self._states[shard]).read(member)

    def place(self, sample: int) -> str:
        """Return the id of a sample: its shard and key."""
        return str(self._index.column("sample_id")[sample])

    def picture(self, sample: int) -> str:
        """Return the shard and the member of a sample's picture."""
        return str(self._index.column("source")[sample])

    def digest(self, samples: Sequence[int]) -> str:
        """Return the SHA-256 over the shards and the settings."""
        from vlsae.runs import content_digest

        total = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode())
        for name, path in zip(self.names, self.paths):
            total.update(f"{name}\0{content_digest(path)}\n".encode())
        return total.hexdigest()


@lru_cache(maxsize=64)
def _opened(path: Path, state: tuple[int, int]) -> TarBytes:
    archive = TarBytes(path)
    if archive.state != state:
        raise UserError(f"{path.name} has changed since it was indexed", "Start the command again.")
    return archive


def _first_of_each(identifiers: Sequence[str], places: Sequence[str], problems: list[Skipped]) -> list[int]:
    """Return the rows whose id is new; the others go to ``problems``."""
    first: dict[str, str] = {}
    rows = []
    for row, (identifier, place) in enumerate(zip(identifiers, places)):
        before = first.setdefault(identifier, place)
        if before is place:
            rows.append(row)
        else:
            problems.append(Skipped(place, f"duplicate id {identifier!r}, first at {before}"))
    return rows


def _rows(number: int, name: str, shard: pa.Table) -> pa.Table:
    """Return the rows of the dataset that a shard's index makes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = {one: shard[one].combine_chunks() for one in shard.column_names}
    own = pc.binary_join_element_wise(name.removesuffix(".tar"), column["key"], "/")
    identifiers = _filled(column["id"], own)
    place = [pa.repeat(name, len(shard)), column["offset"], column["size"]]
    return pa.table(
        {
            "sample_id": identifiers,
            "texts": column["texts"],
            "labels": pa.StructArray.from_arrays([column["label"]], ["label"]),
            "source": pc.binary_join_element_wise(name, column["image"], ":"),
            "group": _filled(column["group"], identifiers),
            "split": column["split"],
            "locator": pa.StructArray.from_arrays(place, ["shard", "offset", "size"]),
            "_shard": pa.repeat(pa.scalar(number, pa.int32()), len(shard)),
        }
    )


def _filled(values: pa.Array, others: pa.Array) -> pa.Array:
    import pyarrow.compute as pc

    return pc.if_else(pc.fill_null(pc.greater(pc.binary_length(values), 0), False), values, others)
