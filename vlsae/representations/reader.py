"""Batches of stored rows by step number, in bounded memory and without state."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from vlsae import ranks
from vlsae.errors import UserError
from vlsae.representations.order import Order, sample_positions
from vlsae.representations.pairs import column, unpaired
from vlsae.representations.store import Store, gather

Encode = Callable[[Tensor, str], Tensor]


class Reader:
    """Batches of one site a stream; what step s holds is a pure function of the seed and s.

    ``paired``: row i of vision and of language is one pair. Else each stream goes its own way through the epoch: the
    longest in batches of ``batch_size``, the others spread evenly over the same steps. Every row (pair) is read once
    an epoch, the last short batch too. At most ``window_shards`` shards, two windows at their border, are mapped.
    """

    def __init__(
        self,
        store: Store,
        sites: Mapping[str, str],
        *,
        batch_size: int,
        split: str | None = None,
        seed: int = 0,
        shuffle: bool = True,
        window_shards: int = 8,
        paired: bool = True,
    ) -> None:
        """Count the rows of the split; values are first touched by :meth:`batch`.

        Raises:
            UserError: a site the store has not got or of another stream, a batch size below 1, pairs where there are
                none, or a stream with too few rows.
        """
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1; got {batch_size}.")
        if not sites:
            raise UserError("A reader needs a site.", f"The store holds {', '.join(store.sites)}.")
        for stream, site in sites.items():
            if store.site(site).stream != stream:
                raise UserError(f"{site} is a site of {store.site(site).stream}, not of {stream}.")
        self.store, self.sites, self.batch_size, self.split, self.seed = store, dict(sites), batch_size, split, seed
        self.paired = paired and len(sites) > 1
        if self.paired and not store.pair_starts[-1]:
            raise unpaired(store)
        lanes = [list(sites)] if self.paired else [[stream] for stream in sites]
        self._lanes = [
            _Lane(store, streams, split, seed, salt, shuffle=shuffle, window=window_shards)
            for salt, streams in enumerate(lanes)
        ]
        self.n_rows = max(len(lane) for lane in self._lanes)
        self._encode: Encode | None = None
        self._labels: np.ndarray | None = None
        self._mapped: dict[tuple[str, int], Tensor] = {}
        self._in_parts = False
        self._check_lengths()

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches that hold every row once."""
        return -(-self.n_rows // self.batch_size)

    def rows(self, step: int) -> dict[str, np.ndarray]:
        """Return the numbers ``(b,)`` of the store's rows in a step's batch, by stream; of a divided one its part."""
        found: dict[str, np.ndarray] = {}
        for lane in self._lanes:
            found |= lane.rows(*self._place(lane, step))
        if self._in_parts:
            own = ranks.part(len(found[next(iter(self.sites))]))
            found = {stream: rows[own.start : own.stop] for stream, rows in found.items()}
        return {stream: found[stream] for stream in self.sites}

    def batch(self, step: int) -> dict[str, Tensor]:
        """Return a step's rows ``(b, d)`` in float32, by stream; steps count on over epochs."""
        needed = {
            (self.sites[stream], shard)
            for lane in self._lanes
            for shard in lane.near(*self._place(lane, step))
            for stream in lane.streams
        }
        self._mapped = {key: tensor for key, tensor in self._mapped.items() if key in needed}
        rows = self.rows(step)
        values = {stream: self._values(stream, numbers, keep=True) for stream, numbers in rows.items()}
        return values if self._labels is None else {**values, **self._labels_of(rows)}

    def evaluation(self, max_rows: int) -> dict[str, Tensor]:
        """Return at most ``max_rows`` rows (pairs) by stream ``(n, d)``, drawn once and for all by the seed."""
        found: dict[str, np.ndarray] = {}
        for lane in self._lanes:
            found |= lane.lying(sample_positions(len(lane), max_rows, self.seed))
        return {stream: self._values(stream, found[stream], keep=False) for stream in self.sites}

    def describe(self, step: int, row_mask: np.ndarray | Tensor) -> list[str]:
        """Return the sample ids of a batch's rows where ``row_mask (b,)`` is true.

        Where streams go their own ways, the rows are those of the first stream with as many rows as the mask.
        """
        mask = np.asarray(row_mask, dtype=bool)
        for stream, rows in self.rows(step).items():
            if len(rows) == len(mask):
                return [self.store.name_row(stream, row) for row in rows[mask].tolist()]
        raise UserError(f"The mask has {len(mask)} rows; step {step} has another number.")

    def mapped(self, encode: Encode) -> Reader:
        """Return a reader of the same rows seen through ``encode(values, stream)``, without gradient."""
        other, before = copy.copy(self), self._encode
        other._encode = encode if before is None else lambda x, stream: encode(before(x, stream), stream)
        other._mapped = {}
        return other

    def divided(self) -> Reader:
        """Return a reader of this rank's part of each batch; ``UserError`` where streams go their own ways."""
        if len(self._lanes) > 1:
            raise UserError(
                "Several ranks read one stream, or pairs; these are streams whose rows are not paired.",
                "Use hardware.ranks=1, or train on one stream.",
            )
        other = copy.copy(self)
        other._in_parts, other._mapped = True, {}
        return other

    def divides(self, step: int) -> bool:
        """Tell whether each rank reads a part of a step's batch, and not all of it because its rows are too few."""
        _, start, stop = self._place(self._lanes[0], step)
        return self._in_parts and stop - start >= ranks.size()

    def labelled(self, labels: np.ndarray) -> Reader:
        """Return a reader whose batches also hold ``labels/<stream>`` ``(b,)``, int64: those of the rows' samples.

        ``labels (samples,)`` number each sample's class.
        """
        if np.shape(labels) != (self.store.n_samples,):
            raise UserError(f"labels must be one number a sample, ({self.store.n_samples},); got {np.shape(labels)}.")
        other = copy.copy(self)
        other._labels, other._mapped = np.asarray(labels, dtype=np.int64), {}
        return other

    def _labels_of(self, rows: dict[str, np.ndarray]) -> dict[str, Tensor]:
        if self._labels is None:
            return {}
        owners = {stream: column(self.store.row_table(stream), "sample") for stream in rows}
        return {f"labels/{s}": torch.from_numpy(self._labels[owners[s][numbers]]) for s, numbers in rows.items()}

    def _check_lengths(self) -> None:
        for lane in self._lanes:
            if self.n_rows and len(lane) < self.steps_per_epoch:
                words = f"{len(lane)} rows" + (f" in split {self.split!r}" if self.split else "")
                raise UserError(
                    f"{' and '.join(lane.streams)} has {words}, for {self.steps_per_epoch} steps an epoch.",
                    "Raise batch_size, or train on one stream.",
                )

    def _place(self, lane: _Lane, step: int) -> tuple[int, int, int]:
        """Return the epoch of a step, and the positions in it where a lane's batch starts and ends."""
        epoch, number = divmod(step, max(1, self.steps_per_epoch))
        if len(lane) == self.n_rows:
            return epoch, number * self.batch_size, min((number + 1) * self.batch_size, self.n_rows)
        steps = self.steps_per_epoch
        return epoch, number * len(lane) // steps, (number + 1) * len(lane) // steps

    def _values(self, stream: str, rows: np.ndarray, keep: bool) -> Tensor:
        site = self.sites[stream]

        def fetch(shard: int) -> Tensor:
            if not keep:
                return self.store.values(site, shard)
            if (site, shard) not in self._mapped:
                self._mapped[site, shard] = self.store.values(site, shard, ahead=True)
            return self._mapped[site, shard]

        values = gather(rows, self.store.row_starts(stream), self.store.sites[site].width, fetch)
        if self._encode is None:
            return values
        with torch.no_grad():
            return self._encode(values, stream)


class _Lane:
    """Rows, or pairs of rows, that are read in one order; only the window read last is held."""

    def __init__(
        self, store: Store, streams: list[str], split: str | None, seed: int, salt: int, *, shuffle: bool, window: int
    ) -> None:
        self.store, self.streams, self.split = store, streams, split
        sizes = [len(self._of_shard(shard)[streams[0]]) for shard in range(len(store.shards))]
        self.order = Order(sizes, seed, window=window, salt=salt, shuffle=shuffle)
        self._held: tuple[tuple[int, ...], dict[str, np.ndarray]] | None = None

    def __len__(self) -> int:
        return len(self.order)

    def rows(self, epoch: int, start: int, stop: int) -> dict[str, np.ndarray]:
        """Return the store's rows at positions ``start`` to ``stop`` of an epoch, by stream."""
        parts: list[dict[str, np.ndarray]] = []
        for window, low, high in self.order.windows(epoch, start, stop):
            lying = self._of_shards(tuple(self.order.window_shards(epoch, window).tolist()))
            chosen = self.order.within(epoch, window)[low:high]
            parts.append({stream: rows[chosen] for stream, rows in lying.items()})
        return _joined(parts, self.streams)

    def near(self, epoch: int, start: int, stop: int) -> set[int]:
        """Return the shards of the windows that some positions of an epoch lie in."""
        windows = self.order.windows(epoch, start, stop)
        return {int(shard) for window, _, _ in windows for shard in self.order.window_shards(epoch, window)}

    def lying(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """Return the store's rows at ascending positions counted as they lie, by stream."""
        starts = self.order.starts
        parts = []
        for shard in range(len(self.order.sizes)):
            low, high = np.searchsorted(positions, [starts[shard], starts[shard + 1]])
            if high > low:
                chosen = positions[low:high] - starts[shard]
                parts.append({stream: rows[chosen] for stream, rows in self._of_shard(shard).items()})
        return _joined(parts, self.streams)

    def _of_shards(self, shards: tuple[int, ...]) -> dict[str, np.ndarray]:
        if self._held is None or self._held[0] != shards:
            self._held = (shards, _joined([self._of_shard(shard) for shard in shards], self.streams))
        return self._held[1]

    def _of_shard(self, shard: int) -> dict[str, np.ndarray]:
        """Return the rows of the split in one shard as they lie, by stream."""
        first = self.streams[0]
        start = int(self.store.row_starts(first)[shard])
        own = self.store.shard_split(first, shard, self.split)
        if len(self.streams) == 1:
            return {first: own + start}
        by_stream = dict(zip(("vision", "language"), self.store.shard_pairs(shard).T))
        held = np.zeros(self.store.shards[shard].rows[first], dtype=bool)
        held[own] = True
        chosen = held[by_stream[first] - start]
        return {stream: by_stream[stream][chosen] for stream in self.streams}


def _joined(parts: list[dict[str, np.ndarray]], streams: list[str]) -> dict[str, np.ndarray]:
    return {stream: np.concatenate([np.zeros(0, np.int64), *(part[stream] for part in parts)]) for stream in streams}
