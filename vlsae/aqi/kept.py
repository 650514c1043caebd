"""Some rows of one pass, kept for what cannot be told from moments; their number is fixed before the pass.

n rows, m rows kept, d width, L layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vlsae.aqi.analysis import Analysis, Source
from vlsae.aqi.design import Design
from vlsae.aqi.inputs import real
from vlsae.aqi.labelling import hash_order
from vlsae.errors import UserError

#: Indices that need rows, and move with their number: of kept rows they get a name of their own.
OF_ROWS = ("dbs", "dunn", "silhouette")


def kept_places(design: Design, ids: Sequence[str], most: int, seed: int = 0) -> np.ndarray:
    """Return the places ``(m,)`` of at most ``most`` rows, ascending: as many of each block, stratum and class.

    Which of a cell's rows is decided by the hashes of their ids, so that order and batches are nothing.
    """
    if len(ids) <= most:
        return np.arange(len(ids))
    order = hash_order(ids, f"kept {seed}")
    ordered = design.cells[order]
    by_cell = np.argsort(ordered, kind="stable")
    cell = ordered[by_cell]
    rank = np.arange(len(cell)) - np.searchsorted(cell, cell)
    return np.sort(order[by_cell[np.argsort(rank, kind="stable")[:most]]])


class KeptRows:
    """Rows of every layer at some places, in float32; memory is 4·m·Σd bytes, whatever n."""

    def __init__(self, widths: Mapping[str, int], places: np.ndarray, memory_bytes: float = 4e9) -> None:
        needed = 4 * len(places) * sum(widths.values())
        if needed > memory_bytes:
            fits = int(memory_bytes // (4 * sum(widths.values())))
            raise UserError(
                f"AQI-M01: {len(places)} rows of {len(widths)} layers take {needed / 1e9:.2g} GB, more than "
                f"{memory_bytes / 1e9:.2g}.",
                f"Keep fewer (aqi.live_rows={fits}), fewer layers (--layer), or raise aqi.memory_gb.",
            )
        self.places, self.widths = places, dict(widths)
        self._values = {site: np.zeros((len(places), width), dtype=np.float32) for site, width in widths.items()}

    @property
    def bytes(self) -> int:
        """The memory of the rows."""
        return sum(values.nbytes for values in self._values.values())

    def add(self, places: np.ndarray, values: Mapping[str, Any]) -> None:
        """Keep those of the rows at ``places (b,)`` that are wanted, of each layer's values ``(b, d)``."""
        slots = np.searchsorted(self.places, places)
        wanted = np.flatnonzero(np.isin(places, self.places))
        if len(wanted) == 0:
            return
        for site, kept in self._values.items():
            kept[slots[wanted]] = real(values[site][wanted], site)

    def source(self, control: str | None) -> Source:
        """Return the rows as a source; ``control`` names the site that is a bag of tokens."""
        sites = list(self.widths)

        def fetch(place: int, chosen: np.ndarray) -> np.ndarray:
            return self._values[sites[place]][chosen].astype(np.float64)

        first = None if control is None else sites.index(control)
        return Source(
            sites, list(self.widths.values()), fetch, None if first is None else lambda chosen: fetch(first, chosen)
        )


def with_kept(found: Analysis, kept: Analysis, rows: int) -> Analysis:
    """Return what one pass found with what ``rows`` kept ones add: permutations, indices, pooling, the projection."""
    layers = []
    for layer, own in zip(found.layers, kept.layers):
        more = {f"{name}_subsampled": own.indices[name] for name in OF_ROWS if name in own.indices}
        layers.append(replace(layer, indices={**layer.indices, **more}, permutation=own.permutation))
    note = (
        f"One pass: {rows} of {len(found.design.codes)} rows were kept (aqi.live_rows), as many of each block, axiom "
        "and class. p, pooling, the projection and *_subsampled are of these alone; fewer rows raise Dunn. AUROC is "
        "along the direction of the blocks before. Left out: composites, indices by axiom, rows matched in length "
        "(aqi.source=store)."
    )
    return replace(
        found,
        layers=layers,
        headline=found.headline._replace(p_value=kept.headline.p_value),
        learned=kept.learned,
        plane=kept.plane,
        plane_codes=kept.plane_codes,
        notes=[*found.notes, note],
    )
