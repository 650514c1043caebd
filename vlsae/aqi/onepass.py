"""Layers' numbers while the model runs: nothing of a row is kept, memory does not grow with the rows.

n rows, L layers, d width, A strata, G blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vlsae.aqi.accumulators import ClassMoments
from vlsae.aqi.crossfit import CrossfitAUROC, Tally, comparisons, crossfitted
from vlsae.aqi.design import Design
from vlsae.aqi.inputs import rows
from vlsae.aqi.layer import Layer, kept_cells, layer_of
from vlsae.errors import UserError

#: Rows whose scores are compared with each other, and held until then.
COMPARED = 1024


class OnePass:
    """Moments by cell of every layer, and AUROC along the direction of the blocks before.

    Rows come block by block, in ascending order (``order`` gives one): each block is scored with the direction that
    the blocks before it give, so nothing is scored by itself. The first two blocks only teach.
    """

    def __init__(self, widths: Mapping[str, int], design: Design, memory_bytes: float = 4e9) -> None:
        needed = self.state_bytes(widths, design)
        if needed > memory_bytes:
            fits = int(design.n_blocks * memory_bytes / needed)
            raise UserError(
                f"AQI-M01: the moments of {len(widths)} layers in {design.n_cells} cells take {needed / 1e9:.1f} GB, "
                f"more than {memory_bytes / 1e9:.1f}.",
                f"Use at most {max(fits, 5)} blocks (aqi.blocks), fewer layers (--layer), or raise aqi.memory_gb.",
            )
        self.design = design
        self.cells = {site: ClassMoments(design.n_cells, width) for site, width in widths.items()}
        self._cell = design.cells
        self._block = -1
        self._directions: dict[str, np.ndarray] = {}
        self._waiting: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []
        self._tally = {site: Tally(design.n_strata) for site in widths}

    @staticmethod
    def state_bytes(widths: Mapping[str, int], design: Design) -> int:
        """Return the bytes of the moments, whatever the number of rows."""
        return sum(2 * 8 * design.n_cells * width for width in widths.values())

    @property
    def order(self) -> np.ndarray:
        """The places of all rows in the order in which they must come."""
        return np.argsort(self.design.blocks, kind="stable")

    def add(self, places: Sequence[int] | np.ndarray, values: Mapping[str, Any]) -> None:
        """Add rows: their places ``(m,)`` in the design and each layer's values ``(m, d)``.

        Raises ``UserError`` for values that are not finite (AQI-D12) and for a block before the last one's.
        """
        chosen = np.asarray(places, dtype=np.int64)
        found = {site: rows(values[site], site) for site in self.cells}
        for block in np.unique(self.design.blocks[chosen]).tolist():
            inside = self.design.blocks[chosen] == block
            self._enter(block)
            self._add(chosen[inside], {site: x[inside] for site, x in found.items()})

    def layers(self) -> list[Layer]:
        """Return what has been gathered of each layer."""
        self._compare()
        return [
            replace(layer_of(site, cells, self.design), auroc=self._auroc(site)) for site, cells in self.cells.items()
        ]

    def _enter(self, block: int) -> None:
        if block < self._block:
            raise UserError(f"Rows of block {block} came after those of block {self._block}; see OnePass.order.")
        if block == self._block:
            return
        self._compare()
        self._block = block
        self._directions = {}
        if block < 2:
            return
        for site, cells in self.cells.items():
            before = kept_cells(cells, self.design, np.arange(block))
            both = before.regroup(np.arange(before.n_classes) % 2, 2)
            if (both.count > 0).all():
                self._directions[site] = both.shifted_mean[0] - both.shifted_mean[1]

    def _add(self, places: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
        cells = self._cell[places]
        for site, x in values.items():
            self.cells[site].update(x, cells)
        if self._directions:
            self._waiting.append((places, {site: values[site] @ way for site, way in self._directions.items()}))
            if sum(len(places) for places, _ in self._waiting) >= COMPARED:
                self._compare()

    def _compare(self) -> None:
        """Compare the scores that wait, and forget them."""
        if not self._waiting:
            return
        places = np.concatenate([part for part, _ in self._waiting])
        strata, positive = self.design.strata[places], self.design.codes[places] == 0
        sets = [(0, stratum, np.flatnonzero(strata == stratum)) for stratum in range(self.design.n_strata)]
        for site in self._waiting[0][1]:
            scores = np.concatenate([part[site] for _, part in self._waiting])
            for one in comparisons(scores, positive, sets):
                self._tally[site].add(one)
        self._waiting = []

    def _auroc(self, site: str) -> CrossfitAUROC:
        # A block is scored by those before it, so that its error owes nothing to theirs.
        found = self._tally[site].result(0.0, np.ones(self.design.n_strata))
        return crossfitted(found, np.zeros(0))
