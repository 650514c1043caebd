"""Products of centred rows, by whichever of n × n and d × d is smaller. n rows."""

from __future__ import annotations

import numpy as np

from vlsae.probes.distances import TILE


def unit_scale(x: np.ndarray) -> np.ndarray:
    """Return ``x`` over its largest absolute value, so that fourth powers stay in the range of floats; zeros stay."""
    largest = np.abs(x).max()
    return x / largest if largest > 0 else x


def squared_product(x: np.ndarray, y: np.ndarray) -> float:
    """Return ‖xᵀy‖²_F = ⟨xxᵀ, yyᵀ⟩ of ``x (n, p)``, ``y (n, q)``."""
    n, p, q = len(x), x.shape[1], y.shape[1]
    if p * q <= n * (p + q):
        return float(((x.T @ y) ** 2).sum())
    block = max(1, TILE // n)
    tiles = (slice(first, first + block) for first in range(0, n, block))
    return float(sum(((x[rows] @ x.T) * (y[rows] @ y.T)).sum() for rows in tiles))
