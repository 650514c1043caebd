"""A fair sample of each concept's active rows, kept while codes stream by: memory for h · S entries.

h concepts, S rows sampled a concept, r rows of a chunk.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from vlsae.dictionaries.base import positive

_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


class RunningSample:
    """Of each concept the S active rows of lowest hash: bottom-k sampling (Cohen and Kaplan, 2007).

    Each active row is as likely as any other, and the sample depends on rows and concepts alone: neither on the order
    nor on the size of the chunks that they are added in.
    """

    def __init__(self, n_concepts: int, size: int) -> None:
        self.n_concepts = positive("n_concepts", n_concepts)
        self.size = positive("size", size)
        self._concepts = np.zeros(0, dtype=np.int64)
        self._ranks = np.zeros(0, dtype=np.uint64)
        self._rows = np.zeros(0, dtype=np.int64)
        self._values = np.zeros(0, dtype=np.float32)
        # The rank below which a row enters a concept's sample.
        self._entry = np.full(n_concepts, np.iinfo(np.uint64).max, dtype=np.uint64)

    def add(self, codes: sparse.csr_matrix, rows: np.ndarray) -> None:
        """Add codes ``(r, h)`` of the rows numbered ``rows (r,)``."""
        concepts = codes.indices.astype(np.int64)
        numbers = np.asarray(rows, dtype=np.int64)[np.repeat(np.arange(codes.shape[0]), np.diff(codes.indptr))]
        ranks = _hash(numbers.astype(np.uint64) * np.uint64(self.n_concepts) + concepts.astype(np.uint64))
        able = ranks <= self._entry[concepts]
        concepts = np.concatenate([self._concepts, concepts[able]])
        ranks = np.concatenate([self._ranks, ranks[able]])
        order = np.lexsort((ranks, concepts))
        sizes = np.bincount(concepts, minlength=self.n_concepts)
        place = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        order = order[place < self.size]
        self._concepts, self._ranks = concepts[order], ranks[order]
        self._rows = np.concatenate([self._rows, numbers[able]])[order]
        self._values = np.concatenate([self._values, codes.data[able].astype(np.float32)])[order]
        sizes = np.minimum(sizes, self.size)
        full = np.flatnonzero(sizes == self.size)
        self._entry[full] = self._ranks[(np.cumsum(sizes) - 1)[full]]

    def of(self, concept: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a concept's sampled rows and their activations, lowest activation first."""
        first, last = np.searchsorted(self._concepts, [concept, concept + 1])
        rows, values = self._rows[first:last], self._values[first:last]
        order = np.lexsort((rows, values))
        return rows[order], values[order]

    @property
    def kept_rows(self) -> np.ndarray:
        """Every row that is in some concept's sample, ascending."""
        return np.unique(self._rows)


def _hash(numbers: np.ndarray) -> np.ndarray:
    """Mix 64 bits so that near numbers lie far apart (the finaliser of SplitMix64; Steele et al., 2014)."""
    with np.errstate(over="ignore"):
        x = numbers + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * _MULTIPLIERS[0]
        x = (x ^ (x >> np.uint64(27))) * _MULTIPLIERS[1]
    return x ^ (x >> np.uint64(31))
