"""Norms of token rows by position: attention sinks and other rows of outsized norm show here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from vlsae.representations.pairs import column
from vlsae.representations.store import Store

#: A position is a sink where its median norm is this many times the median of all rows.
SINK_FACTOR = 10.0


@dataclass(frozen=True)
class PositionNorms:
    """Of a site: ``positions (p,)`` ascending, ``counts (p,)``, ``medians (p,)`` of the norms, ``median`` of all rows.

    ``outliers`` counts single rows above ten times the median, wherever they stand.
    """

    site: str
    positions: np.ndarray
    counts: np.ndarray
    medians: np.ndarray
    median: float
    outliers: int

    @property
    def sinks(self) -> np.ndarray:
        """The positions ``(k,)`` whose median norm is above ten times the median of all rows."""
        return self.positions[self.medians > SINK_FACTOR * self.median]

    @property
    def warning(self) -> str | None:
        """What a user should hear about sinks; None where there are none."""
        if not len(self.sinks) and not self.outliers:
            return None
        places = ", ".join(map(str, self.sinks[:8].tolist())) + ("…" if len(self.sinks) > 8 else "")
        where = f"positions {places}" if len(self.sinks) else "no fixed position"
        return (
            f"{self.site}: {self.outliers} rows have norms above {SINK_FACTOR:g} times the median {self.median:.3g} "
            f"({where}); such sinks dominate means and losses: leave them out with extract.tokens."
        )


def position_norms(store: Store, site: str, max_rows: int = 1_000_000) -> PositionNorms:
    """Return the norms of a site's rows by position, from at most ``max_rows`` rows spread evenly over the store."""
    info = store.site(site)
    stride = max(1, -(-info.rows // max_rows))
    norms, positions = [np.zeros(0, np.float32)], [np.zeros(0, np.int64)]
    for shard, start in enumerate(store.row_starts(info.stream)[:-1].tolist()):
        chosen = slice(-start % stride, None, stride)
        norms.append(torch.linalg.vector_norm(store.values(site, shard)[chosen].float(), dim=1).numpy())
        positions.append(column(store.shard_rows(info.stream, shard), "position")[chosen].astype(np.int64))
    lengths, places = np.concatenate(norms), np.concatenate(positions)
    order = np.argsort(places, kind="stable")
    found, first = np.unique(places[order], return_index=True)
    groups = np.split(lengths[order], first[1:])
    median = float(np.median(lengths)) if len(lengths) else 0.0
    return PositionNorms(
        site,
        found,
        np.array([len(group) for group in groups]) if len(found) else np.zeros(0, np.int64),
        np.array([np.median(group) for group in groups]) if len(found) else np.zeros(0),
        median,
        int((lengths > SINK_FACTOR * median).sum()),
    )
