"""Small stores of random rows for tests, also as a process that can be killed: ``python tests/stores.py FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from vlsae.representations import SiteInfo, Store, StoreWriter

WIDTHS = {"vision.1": 3, "vision.embedding": 4, "language.embedding": 4}
CAPTIONS = 2


def sample_id(number: int) -> str:
    return f"s{number:04d}"


def split_of(number: int) -> str:
    return "validation" if number % 5 == 0 else "train"


def samples(first: int, last: int) -> pa.Table:
    numbers = range(first, last)
    return pa.table(
        {
            "sample_id": [sample_id(n) for n in numbers],
            "texts": [[f"caption {n} {i}" for i in range(CAPTIONS)] for n in numbers],
            "split": [split_of(n) for n in numbers],
            "thumbnail": pa.array([bytes([n % 256]) if n % 2 else None for n in numbers], pa.binary()),
        }
    )


def rows(stream: str, first: int, last: int, tokens: bool = False) -> pa.Table:
    """One pooled row an image and CAPTIONS rows a sample of text; with ``tokens`` three token rows each instead."""
    items = CAPTIONS if stream == "language" else 1
    table = [(n, i, p) for n in range(first, last) for i in range(items) for p in (range(3) if tokens else [-1])]
    sample, item, position = (np.array([row[k] for row in table], dtype=np.int64) for k in range(3))
    columns = {"sample": sample, "item": item, "position": position, "split": [split_of(n) for n in sample]}
    if tokens:
        columns |= {"token": position + 100, "role": np.ones_like(position)}
    return pa.table(columns)


def values(site: str, table: pa.Table) -> torch.Tensor:
    """Values that tell their row: sample, item and position, and noise by site that bfloat16 rounds."""
    columns = [torch.from_numpy(table[name].to_numpy().astype(np.float32)) for name in ("sample", "item", "position")]
    noise = torch.sin(torch.arange(WIDTHS[site]) + columns[0][:, None] * 0.37 + columns[1][:, None] + len(site))
    return torch.stack([*columns, *[columns[0] * 0] * (WIDTHS[site] - 3)], dim=1) + 0.01 * noise


def write(
    path: Path,
    n: int = 23,
    shard_samples: int = 5,
    sites: list[str] | None = None,
    tokens: bool = False,
    finish: bool = True,
    dtype: str = "bfloat16",
) -> StoreWriter:
    """Write, or go on with, a store of n samples."""
    names = list(WIDTHS) if sites is None else sites
    infos = {site: SiteInfo(WIDTHS[site], module=f"tower.{site}", pooling="default") for site in names}
    writer = StoreWriter(path, sites=infos, shard_samples=shard_samples, dtype=dtype, attributes={"model": "m"})
    for number in range(writer.next_shard, -(-n // shard_samples)):
        write_shard(writer, number, n, tokens)
    if finish:
        writer.finish()
    return writer


def write_shard(writer: StoreWriter, number: int, n: int, tokens: bool = False) -> None:
    """Write one shard."""
    first, last = number * writer.shard_samples, min((number + 1) * writer.shard_samples, n)
    tables = {stream: rows(stream, first, last, tokens) for stream in writer.streams}
    found = {site: values(site, tables[site.split(".")[0]]) for site in writer.sites}
    writer.write_shard(number, samples=samples(first, last), rows=tables, values=found)


def opened(path: Path, **settings) -> Store:
    """Write a store and open it."""
    write(path, **settings)
    return Store.open(path)


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by relative path, with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    write(Path(sys.argv[1]), n=100, shard_samples=5)
