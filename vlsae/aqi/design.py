"""How rows are divided for intervals, cross-fitting and permutations: by hashes of their ids, so that order is nothing.

n rows, K classes, A strata, G blocks, F folds, B permutations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlsae.aqi.labelling import Labelling, hash_order

#: Fewer blocks than this give no interval.
FEWEST_BLOCKS = 5


@dataclass(frozen=True)
class Design:
    """Each row's class, stratum, block and fold, all ``(n,)``; folds are unions of blocks.

    ``n_blocks`` is 0 where there are too few rows for intervals; one block then holds all of a fold.
    """

    codes: np.ndarray
    strata: np.ndarray
    blocks: np.ndarray
    folds: np.ndarray
    n_classes: int
    n_strata: int
    n_blocks: int
    n_folds: int

    @property
    def cells(self) -> np.ndarray:
        """Each row's cell ``(block · A + stratum) · K + class``, ``(n,)``."""
        return (self.blocks * self.n_strata + self.strata) * self.n_classes + self.codes

    @property
    def n_cells(self) -> int:
        """The number of cells of all blocks."""
        return max(self.n_blocks, self.n_folds) * self.n_strata * self.n_classes

    def take(self, chosen: np.ndarray) -> Design:
        """Return the design of some of the rows, ``(m,)``."""
        return Design(
            self.codes[chosen],
            self.strata[chosen],
            self.blocks[chosen],
            self.folds[chosen],
            self.n_classes,
            self.n_strata,
            self.n_blocks,
            self.n_folds,
        )

    def restratified(self, strata: Sequence[str]) -> Design:
        """Return the design with other strata, in the same blocks and folds."""
        names, codes = np.unique(np.asarray(strata, dtype=object).astype(str), return_inverse=True)
        return Design(
            self.codes,
            codes.reshape(-1),
            self.blocks,
            self.folds,
            self.n_classes,
            len(names),
            self.n_blocks,
            self.n_folds,
        )


def design_of(labelling: Labelling, blocks: int = 20, folds: int = 5, seed: int = 0) -> Design:
    """Return the division of rows into blocks and folds; rows of one group stay together.

    Cells of stratum and class are dealt evenly. Where the smallest cell has fewer than two rows a block, there
    are fewer blocks; below :data:`FEWEST_BLOCKS` no intervals.
    """
    cells = labelling.strata * len(labelling.classes) + labelling.codes
    smallest = int(labelling.counts[:, np.unique(labelling.codes)].min())
    count = min(blocks, smallest // 2)
    intervals = count >= FEWEST_BLOCKS
    dealt = max(count, folds) if intervals else folds
    number = _dealt(labelling, cells, dealt, seed)
    return Design(
        codes=labelling.codes,
        strata=labelling.strata,
        blocks=number,
        folds=number % folds,
        n_classes=len(labelling.classes),
        n_strata=len(labelling.strata_names),
        n_blocks=dealt if intervals else 0,
        n_folds=folds,
    )


def permuted_labels(design: Design, permutations: int, seed: int = 0) -> np.ndarray:
    """Return labels ``(B, n)`` shuffled within strata."""
    generator = np.random.default_rng(seed)
    table = np.empty((permutations, len(design.codes)), dtype=np.int8)
    for stratum in range(design.n_strata):
        members = np.flatnonzero(design.strata == stratum)
        labels = np.broadcast_to(design.codes[members].astype(np.int8), (permutations, len(members)))
        table[:, members] = generator.permuted(labels, axis=1)
    return table


def _dealt(labelling: Labelling, cells: np.ndarray, blocks: int, seed: int) -> np.ndarray:
    """Return each row's block: groups by cell in the order of their hashes, dealt round by round."""
    names, first, owner = np.unique(
        np.asarray(labelling.groups, dtype=object).astype(str), return_index=True, return_inverse=True
    )
    order = hash_order(names.tolist(), f"block {seed}")
    # A group counts to the cell of its first row; going on where the last cell ended keeps blocks equal.
    order = order[np.argsort(cells[first][order], kind="stable")]
    block = np.empty(len(names), dtype=np.int64)
    block[order] = np.arange(len(names)) % blocks
    return block[owner.reshape(-1)]
