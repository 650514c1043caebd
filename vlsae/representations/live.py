"""Batches of a model's rows that never lie on disk: forward pass, a bounded window in which they mix, batch.

Shapes: r rows of a window, d width, b rows of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vlsae.errors import UserError
from vlsae.progress import progress
from vlsae.representations import workers as ahead
from vlsae.representations.extraction import Numbered, numbered, prepare
from vlsae.representations.order import Order

if TYPE_CHECKING:
    from vlsae.datasets.base import Dataset
    from vlsae.models.base import Batch, Model, Rows, TokenSelection


class ModelRows:
    """The rows of one site of a model over a data set, by samples: made when they are asked for, and not kept.

    ``batch_size`` samples go through the model at a time, ``workers`` threads prepare the next ones.
    """

    def __init__(
        self, model: Model, dataset: Dataset, site: str, tokens: TokenSelection, *, batch_size: int, workers: int = 1
    ) -> None:
        self.model, self.dataset, self.site, self.tokens = model, dataset, site, tokens
        self.batch_size, self.workers = batch_size, workers
        self.stream = site.split(".")[0]
        self.width = model.sites()[site].width

    def of(self, samples: np.ndarray) -> Iterator[tuple[np.ndarray, Rows]]:
        """Yield the rows of some samples in their order, with the number ``(r,)`` of each row's sample."""
        return self._at(self.site, samples)

    def counts(self, samples: np.ndarray) -> np.ndarray:
        """Return how many rows each sample has.

        All sites of a stream have the same rows, so the input of its first block tells, and no block runs.
        """
        first = f"{self.stream}.0"
        found = np.zeros(len(self.dataset), np.int64)
        with progress("count rows", len(samples), "samples") as advance:
            for owners, _ in self._at(first if first in self.model.sites() else self.site, samples):
                found += np.bincount(owners, minlength=len(found))
                advance(len(np.unique(owners)))
        return found[samples]

    def _at(self, site: str, samples: np.ndarray) -> Iterator[tuple[np.ndarray, Rows]]:
        parts = [samples[at : at + self.batch_size].tolist() for at in range(0, len(samples), self.batch_size)]
        with closing(ahead.in_threads(self._prepared, parts, max(1, self.workers))) as several:
            for current, batch in several:
                rows = self.model.represent_in_groups(batch, [site], self.tokens)[site]
                owners = current.samples if self.stream == "vision" else current.owner
                yield np.asarray(owners, dtype=np.int64)[rows.sample.numpy()], rows

    def _prepared(self, samples: Sequence[int]) -> tuple[Numbered, Batch]:
        current = numbered(self.dataset, samples)
        return current, prepare(self.model, self.dataset, current, [self.site])


class LiveReader:
    """Batches of a model's rows; which rows a step reads is a pure function of the seed and the step.

    An epoch permutes the samples and cuts them into windows of at most ``window`` rows, which mix; every row comes
    once, the last short batch too. One window is held, where the model left it, and nothing else: a step finds its
    window by arithmetic over ``counts``, the rows of each of ``samples``.
    """

    def __init__(
        self,
        rows: ModelRows,
        samples: np.ndarray,
        counts: np.ndarray,
        *,
        batch_size: int,
        window: int,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        """Count steps; the model first runs in :meth:`batch`.

        Raises:
            UserError: a batch size below 1, or a window that holds no batch or not all rows of a sample.
        """
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1; got {batch_size}.")
        largest = max(batch_size, int(counts.max(initial=0)))
        if window < largest:
            what = f"a batch has {batch_size}" if largest == batch_size else f"one sample has {largest}"
            raise UserError(f"A window of {window} rows is too small: {what}.", f"Use at least {largest}.")
        self.source, self.samples, self.batch_size = rows, samples, batch_size
        self.sites = {rows.stream: rows.site}
        self.order = Order(counts, seed, shuffle=shuffle, window_rows=window)
        self.n_rows = len(self.order)
        self._held: tuple[tuple[int, int], _Window] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches that hold every row once."""
        return -(-self.n_rows // self.batch_size)

    def batch(self, step: int) -> dict[str, Tensor]:
        """Return a step's rows ``(b, d)`` in float32, by stream; steps count on over epochs."""
        return {self.source.stream: torch.cat([values for values, _, _ in self._parts(step)]).float()}

    def describe(self, step: int, row_mask: np.ndarray | Tensor) -> list[str]:
        """Return sample id and position of a batch's rows where ``row_mask (b,)`` is true."""
        _, *numbers = zip(*self._parts(step))
        owners, positions = map(np.concatenate, numbers)
        mask = np.asarray(row_mask, dtype=bool)
        ids = self.source.dataset.table[owners[mask].tolist()]["sample_id"]
        places = positions[mask].tolist()
        return [name if place < 0 else f"{name}, position {place}" for name, place in zip(ids, places)]

    def _parts(self, step: int) -> Iterator[tuple[Tensor, np.ndarray, np.ndarray]]:
        """Yield a step's rows window by window, copied: of two windows at their border one at a time is held."""
        epoch, number = divmod(step, max(1, self.steps_per_epoch))
        start = number * self.batch_size
        for window, low, high in self.order.windows(epoch, start, min(start + self.batch_size, self.n_rows)):
            yield self._window(epoch, window).take(self.order.within(epoch, window)[low:high])

    def _window(self, epoch: int, number: int) -> _Window:
        if self._held is None or self._held[0] != (epoch, number):
            self._held = None
            places = self.order.window_shards(epoch, number)
            size = int(self.order.sizes[places].sum())
            self._held = ((epoch, number), _Window.read(self.source, self.samples[places], size))
        return self._held[1]


class _Window:
    """The rows of some samples: ``values (r, d)``, the sample ``owners (r,)`` and ``positions (r,)`` of each."""

    def __init__(self, size: int) -> None:
        self.values = torch.empty(0)
        self.owners, self.positions = np.zeros(size, np.int64), np.zeros(size, np.int64)

    def take(self, places: np.ndarray) -> tuple[Tensor, np.ndarray, np.ndarray]:
        """Return values, owners and positions of the rows at some places."""
        return self.values[torch.from_numpy(places)], self.owners[places], self.positions[places]

    @classmethod
    def read(cls, source: ModelRows, samples: np.ndarray, size: int) -> _Window:
        """Run the model over some samples, whose rows are ``size`` in all."""
        window, at = cls(size), 0
        for owners, rows in source.of(samples):
            end = at + len(owners)
            if end > size:
                break
            if at == 0:
                window.values = rows.values.new_empty(size, source.width)
            window.values[at:end] = rows.values
            window.owners[at:end], window.positions[at:end] = owners, rows.position.numpy()
            at = end
        if at != size or end > size:
            raise UserError(
                f"Samples that were counted at {size} rows now have another number.",
                "The data or the model changed while they were read: train anew.",
            )
        return window
