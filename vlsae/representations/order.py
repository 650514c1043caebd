"""What is read when: a pure function of (seed, epoch), found for any step by arithmetic.

Shards are permuted, then rows within windows of consecutive shards of that permutation, so that a reader needs one
window in memory. Each window draws from a stream of its own: the order of one window needs no other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlsae.errors import UserError

Indices = np.ndarray


def epoch_order(
    n: int,
    seed: int,
    epoch: int,
    block: int = 1,
    shard_sizes: Sequence[int] | None = None,
    window: int | None = None,
) -> Indices:
    """Return the order ``(n,)`` in which an epoch reads rows 0…n−1, each once.

    ``shard_sizes`` add up to ``n`` (default: one shard); rows are mixed within ``window`` shards (default: all).
    ``block`` adjacent rows, counted from a shard's start, stay together in their order.

    Raises:
        UserError: sizes that do not add up, or a block or window below 1.
    """
    sizes = [n] if shard_sizes is None else list(shard_sizes)
    if sum(sizes) != n:
        raise UserError(f"shard_sizes add up to {sum(sizes)}; expected n = {n}.")
    order = Order(sizes, seed, window=window or max(1, len(sizes)), block=block)
    return order.rows(epoch, 0, n)


class Order:
    """The order of every epoch over shards of given sizes; holds no position, only its settings and one window.

    ``salt`` tells apart the orders of several streams that share a seed. Without ``shuffle`` rows come as they lie.
    A window is ``window`` shards, or with ``window_rows`` as many as have at most so many rows together, at least one.
    """

    def __init__(
        self,
        sizes: Sequence[int] | Indices,
        seed: int,
        *,
        window: int = 8,
        block: int = 1,
        salt: int = 0,
        shuffle: bool = True,
        window_rows: int | None = None,
    ) -> None:
        for name, value in (("block", block), ("window", window), ("window_rows", window_rows)):
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1; got {value}.")
        self.sizes = np.asarray(sizes, dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)])
        self.seed, self.window, self.block, self.salt, self.shuffle = seed, window, block, salt, shuffle
        self.window_rows = window_rows
        self._window: tuple[tuple[int, int], Indices] | None = None
        self._shards: tuple[int, Indices] | None = None
        self._cuts: tuple[int, Indices, Indices] | None = None

    def __len__(self) -> int:
        """Return the number of rows of an epoch."""
        return int(self.starts[-1])

    def shards(self, epoch: int) -> Indices:
        """Return the order ``(shards,)`` in which an epoch visits the shards."""
        if not self.shuffle:
            return np.arange(len(self.sizes))
        if self._shards is None or self._shards[0] != epoch:
            self._shards = (epoch, _permutation(len(self.sizes), (self.seed, epoch, self.salt, 0)))
        return self._shards[1]

    def windows(self, epoch: int, start: int, stop: int) -> list[tuple[int, int, int]]:
        """Return ``(window, from, to)`` for each window that positions ``start`` to ``stop`` of an epoch lie in.

        ``from`` and ``to`` count within the window.
        """
        _, bounds = self._windows(epoch)
        first = int(np.searchsorted(bounds, start, side="right")) - 1
        found = []
        while start < stop:
            end = min(stop, int(bounds[first + 1]))
            if end > start:
                found.append((first, start - int(bounds[first]), end - int(bounds[first])))
            start, first = max(start, end), first + 1
        return found

    def window_shards(self, epoch: int, window: int) -> Indices:
        """Return the shards of a window, in the order in which their rows are counted."""
        cuts, _ = self._windows(epoch)
        return self.shards(epoch)[cuts[window] : cuts[window + 1]]

    def within(self, epoch: int, window: int) -> Indices:
        """Return the order of a window's rows, counted over its shards as :meth:`window_shards` lists them."""
        key = (epoch, window)
        if self._window is None or self._window[0] != key:
            sizes = self.sizes[self.window_shards(epoch, window)]
            if self.shuffle:
                mixed = _mix(sizes, self.block, (self.seed, epoch, self.salt, 1 + window))
            else:
                mixed = np.arange(int(sizes.sum()))
            self._window = (key, mixed)
        return self._window[1]

    def rows(self, epoch: int, start: int, stop: int) -> Indices:
        """Return the rows at positions ``start`` to ``stop`` of an epoch, counted over all shards as they lie."""
        parts = []
        for window, low, high in self.windows(epoch, start, stop):
            shards = self.window_shards(epoch, window)
            lying = _ranges(self.starts[shards], self.sizes[shards])
            parts.append(lying[self.within(epoch, window)[low:high]])
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def _windows(self, epoch: int) -> tuple[Indices, Indices]:
        """Return before which shard, and at which position, each window of an epoch starts, and both ends."""
        if self._cuts is None or self._cuts[0] != epoch:
            sums = np.concatenate([[0], np.cumsum(self.sizes[self.shards(epoch)])])
            cuts = self._starts_of_windows(sums)
            self._cuts = (epoch, cuts, sums[cuts])
        return self._cuts[1:]

    def _starts_of_windows(self, sums: Indices) -> Indices:
        n = len(sums) - 1
        if self.window_rows is None:
            return np.append(np.arange(0, n, self.window), n)
        cuts = [0]
        while cuts[-1] < n:
            fits = int(np.searchsorted(sums, sums[cuts[-1]] + self.window_rows, side="right")) - 1
            cuts.append(max(cuts[-1] + 1, fits))
        return np.asarray(cuts)


def _mix(sizes: Indices, block: int, entropy: tuple[int, ...]) -> Indices:
    """Return a permutation of the blocks of several shards, rows of a block in their order."""
    if block == 1:
        return _permutation(int(sizes.sum()), entropy)
    counts = -(-sizes // block)
    number = _ranges(np.zeros_like(counts), counts)
    shard = np.repeat(np.arange(len(sizes)), counts)
    start = (np.cumsum(sizes) - sizes)[shard] + number * block
    length = np.minimum(block, sizes[shard] - number * block)
    mixed = _permutation(len(start), entropy)
    return _ranges(start[mixed], length[mixed])


def _ranges(starts: Indices, lengths: Indices) -> Indices:
    """Return ``start, start + 1, …`` of each length, one after the other."""
    offsets = np.cumsum(lengths) - lengths
    return np.repeat(starts - offsets, lengths) + np.arange(int(lengths.sum()))


def _permutation(n: int, entropy: tuple[int, ...]) -> Indices:
    """Return a permutation of n that no version of NumPy changes: only raw bits are promised to stay."""
    bits = np.random.PCG64(np.random.SeedSequence([part % 2**64 for part in entropy]))
    return np.argsort(bits.random_raw(n), kind="stable")


def sample_positions(n: int, count: int, seed: int) -> Indices:
    """Return ``count`` of the positions 0…n−1, ascending, drawn by the seed; all of them where there are no more."""
    if count < 1:
        raise UserError(f"The number of rows must be at least 1; got {count}.")
    if count >= n:
        return np.arange(n)
    if 2 * count > n:
        return np.sort(_permutation(n, (seed,))[:count])
    # Few of many: drawing again what came twice needs memory for the drawn ones only.
    bits = np.random.PCG64(np.random.SeedSequence(seed % 2**64))
    drawn = np.zeros(0, np.int64)
    while len(drawn) < count:
        more = (bits.random_raw(count) % np.uint64(n)).astype(np.int64)
        drawn = np.concatenate([drawn, more])
        drawn = drawn[np.sort(np.unique(drawn, return_index=True)[1])]
    return np.sort(drawn[:count])
