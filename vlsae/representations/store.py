"""A finished store of representations: sites by shard, row tables, samples, pairs and statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from vlsae.datasets.base import SPLITS
from vlsae.errors import UserError, unknown
from vlsae.representations.files import MEND, DamagedStore, map_tensors, read_arrow
from vlsae.representations.index import Index, ShardInfo
from vlsae.representations.layout import INDEX, PAIRS, SAMPLES, SiteInfo, rows_file, values_file
from vlsae.representations.moments import Moments, Statistics
from vlsae.representations.pairs import check_paired, column, pairs_of
from vlsae.runs.files import sha256

Rows = Sequence[int] | np.ndarray | Tensor


class Store:
    """Representations on disk, read through memory maps. Rows of a stream are numbered over all shards.

    ``Store.open`` gives all of it; ``limit`` its first samples, without copying.
    """

    def __init__(self, path: Path, index: Index, shards: list[ShardInfo]) -> None:
        self.path, self.index, self.shards = path, index, shards
        self.sites: dict[str, SiteInfo] = {
            name: replace(info, rows=sum(shard.rows[info.stream] for shard in shards))
            for name, info in index.sites.items()
        }
        self._starts = {stream: _starts([shard.rows[stream] for shard in shards]) for stream in index.streams}

    @classmethod
    def open(cls, path: Path | str) -> Store:
        """Open a finished store; its index and the sizes and headers of its files are checked, not their content.

        Raises:
            MissingFile: there is none, or it is not finished.
            DamagedStore: a file is missing or not as it was written.
        """
        folder = Path(path)
        index = Index.read(folder)
        index.check(folder)
        store = cls(folder, index, index.shards)
        for site in store.sites:
            for shard in {0, len(store.shards) - 1}:
                store.values(site, shard)
        return store

    @property
    def streams(self) -> list[str]:
        """The streams that the store has rows of."""
        return self.index.streams

    @property
    def bytes(self) -> int:
        """The size of all its files."""
        return sum(facts["bytes"] for facts in self.index.files.values())

    @property
    def attributes(self) -> dict[str, Any]:
        """What the writer noted about the store: the digests of model and data set."""
        return self.index.attributes

    @property
    def n_samples(self) -> int:
        """The number of samples."""
        return sum(shard.samples for shard in self.shards)

    @cached_property
    def samples(self) -> pa.Table:
        """Every column of the samples but the pixels, and small pictures in ``thumbnail``; one row a sample."""
        return read_arrow(self.path / SAMPLES).slice(0, self.n_samples)

    def row_table(self, stream: str) -> pa.Table:
        """Return a stream's rows: ``sample`` (row of ``samples``), ``item``, ``position`` (−1 is pooled), ``split``.

        ``item`` counts a sample's captions. Token rows also have ``token`` (id, −1 for image patches) and ``role``.
        """
        self.row_starts(stream)
        if stream not in self._tables:
            tables = [self.shard_rows(stream, shard) for shard in range(len(self.shards))]
            self._tables[stream] = pa.concat_tables(tables).unify_dictionaries()
        return self._tables[stream]

    def shard_rows(self, stream: str, shard: int) -> pa.Table:
        """Return the part of :meth:`row_table` that lies in one shard."""
        return read_arrow(self.path / rows_file(stream, shard)).slice(0, self.shards[shard].rows[stream])

    def row_starts(self, stream: str) -> np.ndarray:
        """Return the number of the first row of each shard, and the number of rows: ``(shards + 1,)``."""
        if stream not in self._starts:
            raise UserError(f"The store {self.path} has no {stream!r} rows.", f"It has {' and '.join(self.streams)}.")
        return self._starts[stream]

    def offsets(self, stream: str) -> np.ndarray:
        """Return ``(samples + 1,)`` numbers: the rows of sample i are those from entry i to before entry i + 1."""
        return np.searchsorted(column(self.row_table(stream), "sample"), np.arange(self.n_samples + 1))

    @cached_property
    def pairs(self) -> np.ndarray:
        """Return ``(p, 2)`` vision row and language row of each pair; empty where rows are tokens or of one stream."""
        parts = [self.shard_pairs(shard) for shard in range(len(self.shards))]
        return np.concatenate([np.zeros((0, 2), np.int64), *parts])

    @cached_property
    def pair_starts(self) -> np.ndarray:
        """Return the number of the first pair of each shard, and the number of pairs: ``(shards + 1,)``."""
        return _starts([shard.pairs for shard in self.shards])

    def shard_pairs(self, shard: int) -> np.ndarray:
        """Return the part of :attr:`pairs` that lies in one shard."""
        if PAIRS not in self.index.files:
            return np.zeros((0, 2), np.int64)
        table = self._pair_table.slice(int(self.pair_starts[shard]), self.shards[shard].pairs)
        return np.stack([column(table, "vision"), column(table, "language")], axis=1)

    def check_pairs(self, vision: Rows, language: Rows) -> None:
        """Refuse rows of which the i-th of each stream are not a pair, naming the first that is not."""
        check_paired(self, self._numbers("vision", vision), self._numbers("language", language))

    def values(self, site: str, shard: int, ahead: bool = False) -> Tensor:
        """Return one shard of a site ``(rows, width)`` as stored, memory-mapped; ``ahead`` begins to read all of it.

        Raises :class:`DamagedStore` where the file's header is not that of the site and shard.
        """
        return self._tensors(site, shard, ahead)["values"][: self.shards[shard].rows[self.site(site).stream]]

    def read(self, site: str, rows: Rows | None = None) -> Tensor:
        """Return rows of a site ``(r, width)`` in float32, in the order asked for; all of them by default.

        Raises :class:`~vlsae.errors.UserError` for a site or row that the store has not got.
        """
        info = self.site(site)
        if rows is None:
            parts = [self.values(site, shard, ahead=True) for shard in range(len(self.shards))]
            return torch.cat(parts).float()
        numbers, starts = self._numbers(info.stream, rows), self.row_starts(info.stream)
        return gather(numbers, starts, info.width, lambda shard: self.values(site, shard))

    def statistics(self, site: str) -> Statistics:
        """Return mean and variance of each dimension and facts of the norms, over all rows of a site."""
        self.site(site)
        if self.shards == self.index.shards:
            return self.index.statistics[site]
        return Statistics.of(self._moments(site))

    def split_rows(self, stream: str, split: str | None) -> np.ndarray:
        """Return the numbers ``(r,)`` of a stream's rows in a split; all of them for None."""
        self.row_starts(stream)
        parts = [self.shard_split(stream, shard, split) for shard in range(len(self.shards))]
        return np.concatenate(
            [np.zeros(0, np.int64), *(part + start for part, start in zip(parts, self._starts[stream]))]
        )

    def shard_split(self, stream: str, shard: int, split: str | None) -> np.ndarray:
        """Return the rows of a split within one shard, counted from the shard's first."""
        if split is None:
            return np.arange(self.shards[shard].rows[stream])
        chunk = self.shard_rows(stream, shard)["split"].combine_chunks()
        names = chunk.dictionary.to_pylist() if len(chunk) else []
        if split in names:
            return np.flatnonzero(chunk.indices.to_numpy() == names.index(split))
        if split not in SPLITS and split not in (known := self._splits()):
            raise unknown("split", split, {*SPLITS, *known})
        return np.zeros(0, np.int64)

    def limit(self, n_samples: int) -> Store:
        """Return the store of the first ``n_samples`` samples, or of all where there are no more."""
        if n_samples < 1:
            raise UserError(f"limit must be at least 1; got {n_samples}.", f"The store has {self.n_samples} samples.")
        if n_samples >= self.n_samples:
            return self
        size = self.index.shard_samples
        whole, left = divmod(n_samples, size)
        shards = list(self.shards[:whole])
        if left:
            shards.append(self._cut(whole, n_samples))
        return Store(self.path, self.index, shards)

    def verify(self) -> None:
        """Hash every file and refuse the store where one differs from what was written.

        Raises :class:`DamagedStore` that names each such file, the expected and the found SHA-256.
        """
        Index.read(self.path).check(self.path)
        damaged = [
            f"{self.path / path}: expected SHA-256 {facts['sha256']}, found {found}"
            for path, facts in self.index.files.items()
            if (found := sha256(self.path / path)) != facts["sha256"]
        ]
        if damaged:
            raise DamagedStore("The store is not as it was written.\n" + "\n".join(damaged), MEND)

    def name_row(self, stream: str, row: int) -> str:
        """Return a row's sample id, and for a token its position, for messages."""
        starts = self.row_starts(stream)
        shard = int(np.searchsorted(starts, row, side="right")) - 1
        entry = self.shard_rows(stream, shard).slice(row - int(starts[shard]), 1).to_pylist()[0]
        name = str(self.samples["sample_id"][entry["sample"]].as_py())
        return name if entry["position"] < 0 else f"{name}, position {entry['position']}"

    @cached_property
    def _pair_table(self) -> pa.Table:
        return read_arrow(self.path / PAIRS)

    @cached_property
    def _tables(self) -> dict[str, pa.Table]:
        return {}

    def site(self, site: str) -> SiteInfo:
        """Return what is known of a site; refuse one that the store has not got, naming those it has."""
        if site not in self.sites:
            held = ", ".join(f"{name} ({info.rows} rows, {info.width} wide)" for name, info in self.sites.items())
            raise UserError(f"The store {self.path} holds no site {site!r}.", f"It holds {held}.")
        return self.sites[site]

    def _numbers(self, stream: str, rows: Rows) -> np.ndarray:
        numbers = np.asarray(rows)
        if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
            raise UserError(f"rows must be whole numbers (r,); got {numbers.dtype} of shape {numbers.shape}.")
        count = int(self.row_starts(stream)[-1])
        bad = (numbers < 0) | (numbers >= count)
        if bad.any():
            raise UserError(
                f"The store {self.path} has no {stream} row {numbers[bad][0]}.", f"It has {count}: 0…{count - 1}."
            )
        return numbers.astype(np.int64)

    def _tensors(self, site: str, shard: int, ahead: bool = False) -> dict[str, Tensor]:
        info, path = self.site(site), self.path / values_file(site, shard)
        tensors, metadata = map_tensors(path, ahead)
        rows = self.index.shards[shard].rows[info.stream]
        expected = f"{site} shard {shard}: {info.dtype} ({rows}, {info.width})"
        values = tensors.get("values")
        kind = "no values" if values is None else f"{str(values.dtype).removeprefix('torch.')} {tuple(values.shape)}"
        found = f"{metadata.get('site')} shard {metadata.get('shard')}: {kind}"
        if found != expected:
            raise DamagedStore(f"{path}: expected {expected}, found {found}.", MEND)
        return tensors

    def _moments(self, site: str) -> Iterator[Moments]:
        stream = self.site(site).stream
        for shard, (held, whole) in enumerate(zip(self.shards, self.index.shards)):
            if held == whole:
                yield Moments.from_tensors(self._tensors(site, shard), held.rows[stream])
            else:
                yield Moments.of(self.values(site, shard))

    def _cut(self, shard: int, n_samples: int) -> ShardInfo:
        """Return what is left of a shard that ends before sample ``n_samples``."""
        tables = {stream: self.shard_rows(stream, shard) for stream in self.streams}
        tables = {
            stream: table.slice(0, int(np.searchsorted(column(table, "sample"), n_samples)))
            for stream, table in tables.items()
        }
        pairs = len(pairs_of(tables["vision"], tables["language"])) if PAIRS in self.index.files else 0
        rows = {stream: table.num_rows for stream, table in tables.items()}
        return ShardInfo(n_samples - shard * self.index.shard_samples, rows, pairs)

    def _splits(self) -> set[str]:
        return set(self.samples["split"].unique().to_pylist()) if "split" in self.samples.column_names else set()

    def __repr__(self) -> str:
        held = ", ".join(f"{name} ({info.rows}, {info.width})" for name, info in self.sites.items())
        return f"Store({str(self.path / INDEX)!r}: {self.n_samples} samples; {held})"


def gather(rows: np.ndarray, starts: np.ndarray, width: int, fetch: Callable[[int], Tensor]) -> Tensor:
    """Return rows ``(r, width)`` in float32, in their order, out of shards that ``fetch`` gives by number."""
    shard_of = np.searchsorted(starts, rows, side="right") - 1
    order = np.argsort(shard_of, kind="stable")
    shards, first = np.unique(shard_of[order], return_index=True)
    parts = [
        fetch(shard)[torch.from_numpy(rows[places] - starts[shard])]
        for shard, places in zip(shards.tolist(), np.split(order, first[1:]))
    ]
    if not parts:
        return torch.empty(0, width)
    # Put in order as stored, and only then widened: half the bytes are moved.
    return torch.cat(parts)[torch.from_numpy(np.argsort(order))].float()


def _starts(sizes: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.asarray(sizes, dtype=np.int64))])
