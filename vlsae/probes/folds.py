"""Folds that keep groups together and classes in balance. n rows, K folds."""

from __future__ import annotations

import numpy as np

from vlsae.errors import UserError


def grouped_folds(groups: np.ndarray, k: int, seed: int = 0) -> np.ndarray:
    """Return the fold ``(n,)`` of each row, 0…k-1: whole groups, in a seeded order, each to the fold of fewest rows.

    Raises ``UserError`` for fewer groups than folds.
    """
    _, numbers, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(sizes) < k:
        raise UserError(
            f"There are {len(sizes)} groups of samples for {k} folds.",
            "Use more samples, or fewer folds: probe.folds=2.",
        )
    order = np.random.default_rng(seed).permutation(len(sizes))
    # Large groups first, so that the small ones even the folds out.
    order = order[np.argsort(-sizes[order], kind="stable")]
    fold_of, filled = np.empty(len(sizes), dtype=np.int64), np.zeros(k)
    for group in order:
        fold_of[group] = filled.argmin()
        filled[fold_of[group]] += sizes[group]
    return fold_of[numbers]
