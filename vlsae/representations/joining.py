"""Joining the shards of a store into what is one file: samples, pairs and statistics."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from vlsae.representations.files import map_tensors, read_arrow, write_arrow
from vlsae.representations.index import ShardInfo
from vlsae.representations.layout import PAIRS, SAMPLES, rows_file, samples_part, values_file
from vlsae.representations.moments import Moments, Statistics
from vlsae.representations.pairs import SCHEMA, as_table, pairs_of


def write_pairs(folder: Path, shards: Sequence[ShardInfo]) -> list[ShardInfo]:
    """Write the pairs of vision and language rows, one record batch a shard; return the shards with their counts."""
    counts: list[int] = []

    def tables() -> Iterator[pa.Table]:
        first = {"vision": 0, "language": 0}
        for number, shard in enumerate(shards):
            vision, language = (read_arrow(folder / rows_file(stream, number)) for stream in first)
            pairs = pairs_of(vision, language, (first["vision"], first["language"]))
            counts.append(len(pairs))
            for stream in first:
                first[stream] += shard.rows[stream]
            yield as_table(pairs)

    write_arrow(folder / PAIRS, tables(), SCHEMA)
    return [dataclasses.replace(shard, pairs=count) for shard, count in zip(shards, counts)]


def join_samples(folder: Path, shards: int) -> None:
    """Write the samples of all shards into one file, one record batch a shard."""
    parts = [folder / samples_part(number) for number in range(shards)]
    write_arrow(folder / SAMPLES, map(read_arrow, parts), read_arrow(parts[0]).schema)


def site_statistics(folder: Path, site: str, shards: Sequence[ShardInfo]) -> Statistics:
    """Return the statistics of a site from the moments that lie in its shards, merged in their order."""

    def moments() -> Iterator[Moments]:
        for number in range(len(shards)):
            tensors, _ = map_tensors(folder / values_file(site, number))
            yield Moments.from_tensors(tensors, tensors["values"].shape[0])

    return Statistics.of(moments())
