"""Information that a layer holds of its input and of labels: binning and kernel density bounds, in bits.

Shapes: n rows, d units. After Shwartz-Ziv and Tishby (2017, arXiv 1703.00810), Saxe et al. (2018), and Kolchinsky and
Tracey (2017) for the bounds. All rows stand for different inputs of a deterministic network, so I(X;T) = H(T).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from vlsae.errors import UserError
from vlsae.probes.distances import distance_tiles
from vlsae.probes.inputs import above_zero, integers, matrix, one_hot, one_of

#: Codes of several units are merged into one number up to this size.
LARGEST_CODE = 1 << 62


class MutualInformation(NamedTuple):
    """``h_t`` = I(X;T) and ``i_ty`` = I(T;Y) in bits; ``n_symbols`` distinct codes, ``singletons`` their share of rows
    that no other row shares its code with: above one half, ``h_t`` measures the sample, not the layer."""

    h_t: float
    i_ty: float
    n_symbols: int
    singletons: float


class KDEBounds(NamedTuple):
    """Bounds in bits: of I(X;T + noise) from above and below; ``i_ty`` as differences of bounds of one kind, which
    are estimates, not bounds."""

    i_xt_upper: float
    i_xt_lower: float
    i_ty_upper: float
    i_ty_lower: float


def mi_binned(
    t: Any,
    labels: Any,
    code: str = "edges",
    n_bins: int = 30,
    low: float = -1.0,
    high: float = 1.0,
    width: float = 0.07,
    bias: str = "none",
    shuffles: int = 20,
    seed: int = 0,
) -> MutualInformation:
    """Return H(T) and I(T;Y) of activations ``t (n, d)``, each unit binned, and ``labels (n,)``.

    ``code``: ``edges``, ``n_bins`` edges (float32) from ``low`` to ``high``, with a cell beyond either end; ``floor``,
    cells of ``width`` without ends; ``range``, ``n_bins`` cells over [``low``, ``high``], values beyond in the outer
    ones. ``bias``: ``miller_madow`` adds (K - 1)/(2n ln 2) to each entropy of K occupied cells; ``shuffle`` subtracts
    from I(T;Y) its mean over ``shuffles`` permutations of the labels.
    """
    t = matrix(t, "t")
    labels = integers(labels, "labels", len(t), "t")
    one_of("bias", bias, ("none", "miller_madow", "shuffle"))
    symbols = _symbols(_codes(t, code, n_bins, low, high, width))
    classes, numbers = np.unique(labels, return_inverse=True)
    counts = np.bincount(symbols)
    h_t, i_ty = _information(symbols, numbers, len(classes), bias == "miller_madow")
    if bias == "shuffle":
        if shuffles < 1:
            raise UserError(f"shuffles must be at least 1; got {shuffles!r}.")
        generator = np.random.default_rng(seed)
        draws = (generator.permutation(numbers) for _ in range(shuffles))
        i_ty -= float(np.mean([_information(symbols, draw, len(classes), False)[1] for draw in draws]))
    return MutualInformation(h_t, i_ty, len(counts), float((counts == 1).sum() / len(t)))


def mi_kde(t: Any, labels: Any, variance: float) -> KDEBounds:
    """Return bounds of the information in ``t (n, d)`` plus Gaussian noise of ``variance`` (Kolchinsky and Tracey).

    Upper: -(1/n) Σ_i log₂ (1/n) Σ_j exp(-r_ij/(2σ²)), r squared distances; lower: 8σ² for 2σ². Both end at log₂ n.
    Of the labels: the same, less its mean over classes.
    """
    t = matrix(t, "t")
    labels = integers(labels, "labels", len(t), "t")
    variance = above_zero(variance, "variance")
    classes, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
    members = one_hot(numbers, len(classes))
    whole, within = np.zeros(2), np.zeros(2)
    for rows, squared in distance_tiles(t):
        for kind, spread in enumerate((2 * variance, 8 * variance)):
            sums = np.exp(-squared / spread) @ members
            own = sums[np.arange(len(sums)), numbers[rows]]
            whole[kind] -= np.log2(sums.sum(axis=1) / len(t)).sum()
            within[kind] -= np.log2(own / counts[numbers[rows]]).sum()
    of_x = whole / len(t)
    of_y = of_x - within / len(t)
    return KDEBounds(float(of_x[0]), float(of_x[1]), float(of_y[0]), float(of_y[1]))


def _codes(t: np.ndarray, code: str, n_bins: int, low: float, high: float, width: float) -> np.ndarray:
    """Return the number of each unit's cell, ``(n, d)``."""
    one_of("code", code, ("edges", "floor", "range"))
    if code == "floor":
        return np.floor(t / above_zero(width, "width"))
    if int(n_bins) != n_bins or n_bins < 1:
        raise UserError(f"n_bins must be an integer of at least 1; got {n_bins!r}.")
    if not (np.isfinite([low, high]).all() and low <= high):
        raise UserError(f"low must not exceed high, both finite; got {low!r} and {high!r}.")
    if code == "edges":
        # The published code bins float32 activations, with edges in float32.
        return np.digitize(t, np.linspace(low, high, int(n_bins)).astype(np.float32)).astype(np.float64)
    return np.digitize(t, np.linspace(low, high, int(n_bins) + 1)[1:-1]).astype(np.float64)


def _symbols(codes: np.ndarray) -> np.ndarray:
    """Return a number ``(n,)`` from 0 for each distinct row of ``codes (n, d)``."""
    symbols, size = np.zeros(len(codes), dtype=np.int64), 1
    for column in codes.T:
        span = column.max() - column.min() + 1
        if span < LARGEST_CODE:
            values, radix = (column - column.min()).astype(np.int64), int(span)
        else:
            distinct, values = np.unique(column, return_inverse=True)
            radix = len(distinct)
        if size * radix >= LARGEST_CODE:
            symbols, size = _renumbered(symbols)
            if size * radix >= LARGEST_CODE:
                values, radix = _renumbered(values)
        symbols, size = symbols * radix + values, size * radix
    return _renumbered(symbols)[0]


def _renumbered(numbers: np.ndarray) -> tuple[np.ndarray, int]:
    distinct, inverse = np.unique(numbers, return_inverse=True)
    return inverse.astype(np.int64), len(distinct)


def _information(symbols: np.ndarray, numbers: np.ndarray, n_classes: int, corrected: bool) -> tuple[float, float]:
    """Return H(T) and I(T;Y) in bits of symbols and class numbers ``(n,)``."""
    n = len(symbols)
    joint, together = np.unique(symbols * n_classes + numbers, return_counts=True)
    of_class = joint % n_classes
    totals = np.bincount(numbers, minlength=n_classes)
    alone = np.bincount(symbols)
    h_t = -float((alone / n * np.log2(alone / n)).sum())
    conditional = -float((together / n * np.log2(together / totals[of_class])).sum())
    if corrected:
        h_t += (len(alone) - 1) / (2 * n * np.log(2))
        cells = np.bincount(of_class, minlength=n_classes)
        # Each class's correction, (K_y - 1)/(2 n_y ln 2), weighs n_y/n.
        conditional += float((cells - 1).sum()) / (2 * n * np.log(2))
    return h_t, h_t - conditional
