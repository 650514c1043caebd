"""The most activating rows of every concept, kept while codes stream by: memory for h · M entries.

h concepts, M items a concept, r rows of a chunk.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from vlsae.dictionaries.base import positive


class RunningTop:
    """The M largest activations of each concept over all rows added, at most one for each key.

    Rows of one key count as the same item (an identical caption): the one with the largest activation stands for them.
    Ties go to the lower row. Rows may be added in any chunks.
    """

    def __init__(self, n_concepts: int, items: int) -> None:
        self.n_concepts = positive("n_concepts", n_concepts)
        self.items = positive("items", items)
        self.counts = np.zeros(n_concepts, dtype=np.int64)
        self.sums = np.zeros(n_concepts)
        self.rows_seen = 0
        self._concepts = np.zeros(0, dtype=np.int64)
        self._values = np.zeros(0, dtype=np.float32)
        self._rows = np.zeros(0, dtype=np.int64)
        self._keys = np.zeros(0, dtype=np.int64)
        # What an activation must reach to enter a concept's list.
        self._entry = np.full(n_concepts, -np.inf, dtype=np.float32)

    def add(self, codes: sparse.csr_matrix, rows: np.ndarray, keys: np.ndarray) -> None:
        """Add codes ``(r, h)`` of the rows numbered ``rows (r,)``, whose items are told apart by ``keys (r,)``."""
        self.rows_seen += codes.shape[0]
        self.counts += np.bincount(codes.indices, minlength=self.n_concepts)
        self.sums += np.bincount(codes.indices, weights=codes.data, minlength=self.n_concepts)
        local = np.repeat(np.arange(codes.shape[0]), np.diff(codes.indptr))
        able = codes.data >= self._entry[codes.indices]
        local = local[able]
        self._keep(
            np.concatenate([self._concepts, codes.indices[able].astype(np.int64)]),
            np.concatenate([self._values, codes.data[able].astype(np.float32)]),
            np.concatenate([self._rows, np.asarray(rows, dtype=np.int64)[local]]),
            np.concatenate([self._keys, np.asarray(keys, dtype=np.int64)[local]]),
        )

    def of(self, concept: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows and activations of a concept's top items, largest first."""
        first, last = np.searchsorted(self._concepts, [concept, concept + 1])
        return self._rows[first:last], self._values[first:last]

    @property
    def kept_rows(self) -> np.ndarray:
        """Every row that is in some concept's list, ascending."""
        return np.unique(self._rows)

    def _keep(self, concepts: np.ndarray, values: np.ndarray, rows: np.ndarray, keys: np.ndarray) -> None:
        order = np.lexsort((rows, -values, concepts))
        _, dense_keys = np.unique(keys, return_inverse=True)
        items = concepts[order] * (dense_keys.max(initial=0) + 1) + dense_keys[order]
        order = order[np.sort(np.unique(items, return_index=True)[1])]
        sizes = np.bincount(concepts[order], minlength=self.n_concepts)
        starts = np.cumsum(sizes) - sizes
        place = np.arange(len(order)) - np.repeat(starts, sizes)
        order = order[place < self.items]
        self._concepts, self._values = concepts[order], values[order]
        self._rows, self._keys = rows[order], keys[order]
        full = np.flatnonzero(sizes >= self.items)
        sizes = np.minimum(sizes, self.items)
        self._entry[full] = self._values[(np.cumsum(sizes) - 1)[full]]
