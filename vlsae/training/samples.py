"""Batches of raw samples for learners: images and one caption each, prepared for a model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from vlsae import ranks
from vlsae.datasets.base import Dataset, sample_splits
from vlsae.errors import UserError
from vlsae.representations.order import Order
from vlsae.representations.reading_threads import ReadingThreads, in_time

if TYPE_CHECKING:
    from vlsae.models.base import Batch

#: Batches prepared ahead of the step that needs them.
AHEAD = 2

#: Keeps the draw of captions apart from the order of rows.
CAPTION_SALT = 7


class Prepares(Protocol):
    """Whatever turns images and texts into model inputs."""

    def prepare(self, images: Any = None, texts: Sequence[str] | None = None, **more: Any) -> Batch: ...


class SampleReader:
    """Prepared batches of one split of a dataset; which rows a step reads is a pure function of seed and step.

    Rows of a block (``dataset.block``) come in one batch. Each image is paired with one of its captions, drawn anew
    each epoch, or with ``every_text`` with all of them: language ``(n, texts, length)``. A model that ``reads_answers``
    gets the samples' too. A background thread prepares the next steps; it changes no number.
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
        every_text: bool = False,
    ) -> None:
        if batch_size < 1 or batch_size % dataset.block:
            raise UserError(
                f"batch_size={batch_size} must be a positive multiple of {dataset.block}, "
                "the rows that this dataset keeps together."
            )
        self.dataset, self.model, self.batch_size, self.seed, self.shuffle = dataset, model, batch_size, seed, shuffle
        self.every_text = every_text
        samples = min(len(dataset), limit or len(dataset))
        splits = sample_splits(dataset, samples, split_settings or {})
        self.rows = np.flatnonzero(np.asarray(splits) == split)
        self._order = Order([len(self.rows)], seed, block=dataset.block, shuffle=shuffle)
        self._texts = dataset.table["texts"]
        answered = getattr(model, "reads_answers", False) and "answer" in dataset.table.column_names
        self._answers = dataset.table["answer"] if answered else None
        self._in_parts = False
        self._prefetch = _Prefetch(AHEAD)

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
        return self._prefetch.get(step, self._prepare)

    def describe(self, step: int, mask: Any) -> list[str]:
        """Return the sample ids of a step's rows where ``mask`` is true."""
        samples = self._samples(step)
        chosen = samples[self._own(step, len(samples))][np.asarray(mask, dtype=bool)]
        return [str(self.dataset.table[int(row)]["sample_id"]) for row in chosen]

    def divided(self) -> SampleReader:
        """Return a reader of this rank's part of each batch, whole blocks of rows."""
        other = copy.copy(self)
        other._in_parts, other._prefetch = True, _Prefetch(AHEAD)
        return other

    def divides(self, step: int) -> bool:
        """Tell whether each rank reads a part of a step's batch, and not all of it because its rows are too few."""
        return self._in_parts and -(-len(self._samples(step)) // self.dataset.block) >= ranks.size()

    def _own(self, step: int, rows: int) -> slice:
        """Return which of a step's rows are read here."""
        if not self.divides(step):
            return slice(None)
        blocks = ranks.part(-(-rows // self.dataset.block))
        return slice(blocks.start * self.dataset.block, blocks.stop * self.dataset.block)

    def _samples(self, step: int) -> np.ndarray:
        if not len(self.rows):
            raise UserError("The split has no samples.", "Change split.validation, split.test or limit.")
        epoch, within = divmod(step, self.steps_per_epoch)
        start = within * self.batch_size
        return self.rows[self._order.rows(epoch, start, min(start + self.batch_size, len(self.rows)))]

    def _prepare(self, step: int) -> Batch:
        samples = self._samples(step)
        own = self._own(step, len(samples))
        # A draw for each row of the whole batch: what a row is paired with does not depend on the number of ranks.
        draws = np.random.default_rng((self.seed, CAPTION_SALT, step)).random(len(samples))[own]
        samples = samples[own]
        images = self.dataset.images(samples.tolist()) if self.dataset.has_images else None
        several = [self._texts[int(row)] for row in samples]
        if not any(several):
            return self.model.prepare(images, None)
        if not all(several):
            bare = self.dataset.table[int(samples[several.index([])])]["sample_id"]
            raise UserError(f"Sample {bare!r} has no text, and others of its batch have.", "Leave it out.")
        if self.every_text:
            return self._with_every_text(images, several)
        texts = [captions[int(draw * len(captions))] for captions, draw in zip(several, draws)]
        if self._answers is None:
            return self.model.prepare(images, texts)
        return self.model.prepare(images, texts, answers=[self._answers[int(row)] for row in samples])

    def _with_every_text(self, images: Any, several: list[list[str]]) -> Batch:
        counts = {len(texts) for texts in several}
        if len(counts) > 1:
            raise UserError(
                f"Images have from {min(counts)} to {max(counts)} captions; all are read only where all have as many.",
                "Set objective.every_text=false: one caption an image, drawn anew each epoch.",
            )
        batch = self.model.prepare(images, [text for texts in several for text in texts])
        if batch.language is not None:
            batch.language = batch.language.unflatten(0, (len(several), -1))
        return batch


class _Prefetch:
    """Values of a function of consecutive numbers, computed ahead in one thread that ends with its owner."""

    def __init__(self, ahead: int) -> None:
        self._ahead = ahead
        self._threads = ReadingThreads(1, "sample-reader")
        self._pending: dict[int, Future[Any]] = {}

    def get(self, number: int, function: Callable[[int], Any]) -> Any:
        """Return the function's value, or raise what it raised, or that it takes too long.

        After a jump what is no longer ahead is dropped.
        """
        wanted = range(number, number + self._ahead + 1)
        for other in [other for other in self._pending if other not in wanted]:
            self._pending.pop(other).cancel()
        for one in wanted:
            if one not in self._pending:
                self._pending[one] = self._threads.submit(function, one)
        return in_time(self._pending.pop(number))
