"""One row a sample at every site, so that sites can be compared. n chosen samples, d columns."""

from __future__ import annotations

import numpy as np

from vlsae.probes.base import SiteRows


def rows_by_sample(rows: SiteRows, chosen: np.ndarray) -> np.ndarray:
    """Return the mean row ``(n, d)`` of each chosen sample, on one scale: columns have a mean variance of 1."""
    means = means_by_sample(rows, chosen)
    spread = np.sqrt(means.var(axis=0).mean())
    return means if spread == 0 else means / spread


def means_by_sample(rows: SiteRows, chosen: np.ndarray) -> np.ndarray:
    """Return the mean row ``(n, d)`` of each chosen sample, as it is."""
    values = rows.read().numpy().astype(np.float64)
    place = np.full(max(int(rows.sample.max()), int(chosen.max())) + 1, -1)
    place[chosen] = np.arange(len(chosen))
    number = place[rows.sample]
    kept = number >= 0
    sums = np.zeros((len(chosen), values.shape[1]))
    np.add.at(sums, number[kept], values[kept])
    return np.asarray(sums / np.bincount(number[kept], minlength=len(chosen))[:, None])
