"""Which vision row belongs with which language row: those of one sample, and no others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from vlsae.errors import UserError
from vlsae.representations.pooling import POOLED

if TYPE_CHECKING:
    from vlsae.representations.store import Store

SCHEMA = pa.schema([("vision", pa.int64()), ("language", pa.int64())])


def pairs_of(vision: pa.Table, language: pa.Table, starts: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Return the pairs ``(p, 2)`` of a shard's pooled rows: each vision row of a sample with each of its language rows.

    ``starts`` are the numbers of the tables' first rows; pairs come in the order of the vision rows.
    """
    rows = [np.flatnonzero(column(table, "position") == POOLED) for table in (vision, language)]
    owners = [column(table, "sample")[numbers] for table, numbers in zip((vision, language), rows)]
    low = np.searchsorted(owners[1], owners[0], side="left")
    counts = np.searchsorted(owners[1], owners[0], side="right") - low
    first = np.cumsum(counts) - counts
    partner = np.repeat(low - first, counts) + np.arange(int(counts.sum()))
    return np.stack([np.repeat(rows[0], counts) + starts[0], rows[1][partner] + starts[1]], axis=1).astype(np.int64)


def as_table(pairs: np.ndarray) -> pa.Table:
    """Return pairs as a table of two columns."""
    return pa.table([pairs[:, 0], pairs[:, 1]], schema=SCHEMA)


def column(table: pa.Table, name: str) -> np.ndarray:
    """Return a numeric column as an array."""
    return np.asarray(table.column(name).to_numpy())


def check_paired(store: Store, vision: np.ndarray, language: np.ndarray) -> None:
    """Refuse rows that are not pairs: row i of each stream must be pooled and of one sample.

    Raises :class:`~vlsae.errors.UserError` that names the first row that does not fit.
    """
    if len(vision) != len(language):
        raise UserError(f"There are {len(vision)} vision rows and {len(language)} language rows.", _MEND)
    tables = [store.row_table(stream).take(rows) for stream, rows in (("vision", vision), ("language", language))]
    owners = [column(table, "sample") for table in tables]
    bad = owners[0] != owners[1]
    for table in tables:
        bad |= column(table, "position") != POOLED
    if bad.any():
        first = int(bad.argmax())
        words = [
            _words(store, stream, int(rows[first])) for stream, rows in (("vision", vision), ("language", language))
        ]
        raise UserError(f"Rows are not paired: at row {first}, {words[0]} stands beside {words[1]}.", _MEND)


def unpaired(store: Store) -> UserError:
    """Return the error for paired numbers on a store that has no pairs, naming the first row without a partner."""
    missing = [stream for stream in ("vision", "language") if stream not in store.streams]
    if missing:
        return UserError(f"The store has no pairs: it holds no {missing[0]} rows.", _MEND)
    for stream in ("vision", "language"):
        tokens = np.flatnonzero(column(store.row_table(stream), "position") != POOLED)
        if len(tokens):
            return UserError(f"The store has no pairs: {_words(store, stream, int(tokens[0]))} is a token.", _MEND)
    return UserError("The store has no pairs: no sample has rows of both streams.", _MEND)


_MEND = "Paired numbers need pooled rows of both streams (extract.tokens.pooling=default), or use train.unpaired=true."


def _words(store: Store, stream: str, row: int) -> str:
    return f"{stream} row {row} ({store.name_row(stream, row)})"
