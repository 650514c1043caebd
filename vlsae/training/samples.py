"""Batches of raw samples for learners: images and one caption each, prepared for a model."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from vlsae.datasets.base import Dataset, sample_splits
from vlsae.errors import UserError
from vlsae.representations.order import Order

if TYPE_CHECKING:
    from vlsae.models.base import Batch

#: Batches prepared ahead of the step that needs them.
AHEAD = 2

#: Keeps the draw of captions apart from the order of rows.
CAPTION_SALT = 7


class Prepares(Protocol):
    """Whatever turns images and texts into model inputs."""

    def prepare(self, images: Any = None, texts: Sequence[str] | None = None) -> Batch: ...


class SampleReader:
    """Prepared batches of one split of a dataset; which rows a step reads is a pure function of seed and step.

    Rows of a block (``dataset.block``) come in one batch. Each image is paired with one of its captions, drawn anew
    each epoch. A background thread prepares the next steps; it changes no number.
    """

    def __init__(
        self,
        dataset: Dataset,
        model: Prepares,
        *,
        batch_size: int,
        split: str = "train",
        split_settings: Mapping[str, Any] | None = None,
        seed: int = 0,
        shuffle: bool = True,
        limit: int | None = None,
    ) -> None:
        if batch_size < 1 or batch_size % dataset.block:
            raise UserError(
                f"batch_size={batch_size} must be a positive multiple of {dataset.block}, "
                "the rows that this dataset keeps together."
            )
        self.dataset, self.model, self.batch_size, self.seed, self.shuffle = dataset, model, batch_size, seed, shuffle
        samples = min(len(dataset), limit or len(dataset))
        splits = sample_splits(dataset, samples, split_settings or {})
        self.rows = np.flatnonzero(np.asarray(splits) == split)
        self._order = Order([len(self.rows)], seed, block=dataset.block, shuffle=shuffle)
        self._texts = dataset.table["texts"]
        self._prefetch = _Prefetch(self._prepare, AHEAD)

    @property
    def n_rows(self) -> int:
        """The number of samples of the split."""
        return len(self.rows)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one pass; the last may be short."""
        return -(-len(self.rows) // self.batch_size)

    def batch(self, step: int) -> Batch:
        """Return the prepared batch of a step, counted over all epochs."""
        return self._prefetch.get(step)

    def describe(self, step: int, mask: Any) -> list[str]:
        """Return the sample ids of a step's rows where ``mask`` is true."""
        chosen = self._samples(step)[np.asarray(mask, dtype=bool)]
        return [str(self.dataset.table[int(row)]["sample_id"]) for row in chosen]

    def _samples(self, step: int) -> np.ndarray:
        epoch, within = divmod(step, self.steps_per_epoch)
        start = within * self.batch_size
        return self.rows[self._order.rows(epoch, start, min(start + self.batch_size, len(self.rows)))]

    def _prepare(self, step: int) -> Batch:
        samples = self._samples(step)
        images = self.dataset.images(samples.tolist()) if self.dataset.has_images else None
        several = [self._texts[int(row)] for row in samples]
        if not any(several):
            return self.model.prepare(images, None)
        draws = np.random.default_rng((self.seed, CAPTION_SALT, step)).random(len(several))
        texts = [captions[int(draw * len(captions))] for captions, draw in zip(several, draws)]
        return self.model.prepare(images, texts)


class _Prefetch:
    """Values of a function of consecutive numbers, computed ahead in a thread."""

    def __init__(self, function: Any, ahead: int) -> None:
        self._function, self._ahead = function, ahead
        self._queue: queue.Queue[tuple[int, Any, BaseException | None]] = queue.Queue(maxsize=ahead)
        self._expected: int | None = None
        self._stop = threading.Event()

    def get(self, number: int) -> Any:
        """Return the function's value; a jump to another number starts the thread anew there."""
        if number != self._expected:
            self._restart(number)
        found, value, error = self._queue.get()
        self._expected = found + 1
        if error is not None:
            self._expected = None
            raise error
        return value

    def _restart(self, number: int) -> None:
        self._stop.set()
        self._stop = threading.Event()
        self._queue = queue.Queue(maxsize=self._ahead)
        arguments = (number, self._queue, self._stop)
        threading.Thread(target=self._work, args=arguments, name="sample-reader", daemon=True).start()

    def _work(self, number: int, results: queue.Queue, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                result: tuple[int, Any, BaseException | None] = (number, self._function(number), None)
            except BaseException as error:
                result = (number, None, error)
            while not stop.is_set():
                try:
                    results.put(result, timeout=0.2)
                    break
                except queue.Full:
                    continue
            if result[2] is not None:
                return
            number += 1
