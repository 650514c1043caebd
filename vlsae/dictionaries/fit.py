"""What has no gradient to follow: a fit reads rows and gives a dictionary. The stage picks it, the loop knows none.

Shapes: n rows, d width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from vlsae.dictionaries.base import STREAMS, Dictionary
from vlsae.errors import UserError


class RowReader(Protocol):
    """Batches of rows by stream; every row comes once in ``steps_per_epoch`` steps."""

    @property
    def steps_per_epoch(self) -> int: ...

    def batch(self, step: int) -> dict[str, Tensor]: ...


class Fit(ABC):
    """A method that makes a dictionary of rows in one go; its keyword-only signature is its configuration's schema."""

    #: As of an objective: what it learns from.
    source: str = "representations"

    @abstractmethod
    def fit(self, reader: RowReader) -> Dictionary:
        """Return the dictionary of a reader's rows; memory does not grow with their number."""


def stream_means(reader: RowReader) -> Tensor:
    """Return the mean row of each stream ``(2, d)`` in float64; zeros for a stream that is not read.

    Raises ``ValueError`` where the reader has no rows.
    """
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    for batch in passes(reader):
        for stream, x in batch.items():
            sums[stream] = sums.get(stream, torch.zeros(x.shape[1], dtype=torch.float64)) + x.double().sum(dim=0)
            counts[stream] = counts.get(stream, 0) + len(x)
    if not sums:
        raise UserError("There is no row to fit a dictionary to.", "Check the split, the limit and the sites.")
    width = len(next(iter(sums.values())))
    zero = torch.zeros(width, dtype=torch.float64)
    return torch.stack([sums[stream] / counts[stream] if stream in sums else zero for stream in STREAMS])


def passes(reader: RowReader, epochs: int = 1) -> Iterator[dict[str, Tensor]]:
    """Yield the batches of whole passes over a reader's rows, streams only."""
    for step in range(epochs * reader.steps_per_epoch):
        yield {stream: x for stream, x in reader.batch(step).items() if stream in STREAMS}


def chunks(reader: RowReader, least: int, means: Tensor | None = None, epochs: int = 1) -> Iterator[np.ndarray]:
    """Yield rows of all streams ``(at least least, d)`` in float64, less their stream's mean ``means (2, d)``.

    Rows that are left over at the end go with the last chunk; fewer rows than ``least`` in all come as one.
    """
    held: list[np.ndarray] = []
    ready: np.ndarray | None = None
    for batch in passes(reader, epochs):
        for stream, x in batch.items():
            rows = x.double()
            held.append((rows if means is None else rows - means[STREAMS.index(stream)]).numpy())
        if sum(map(len, held)) >= least:
            if ready is not None:
                yield ready
            ready, held = np.concatenate(held), []
    last = [part for part in (ready, *held) if part is not None]
    if last:
        yield np.concatenate(last)


def sampled(reader: RowReader, most: int, means: Tensor | None = None) -> np.ndarray:
    """Return at most ``most`` rows of all streams, the reader's first ones, as :func:`chunks` gives them."""
    found: list[np.ndarray] = []
    for rows in chunks(reader, 1, means):
        found.append(rows)
        if sum(map(len, found)) >= most:
            break
    return np.concatenate(found)[:most]
