"""Folds that keep groups together and classes in balance. n rows, K folds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vlsae.errors import UserError

if TYPE_CHECKING:
    from vlsae.probes.targets import Target


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


def lacking(target: Target, values: np.ndarray, folds: np.ndarray) -> str | None:
    """Return why nested cross-validation cannot fit a target's ``values (n,)``, None where it can.

    Every class must remain wherever two folds are left out, and numbers must vary.
    """
    held = np.isfinite(values)
    y, own = values[held], folds[held]
    if target.kind == "number":
        return None if np.ptp(y) > 0 else "it does not vary"
    names = np.unique(folds)
    counts = np.zeros((len(target.classes), len(names)), dtype=int)
    np.add.at(counts, (y.astype(int), np.searchsorted(names, own)), 1)
    # The two fullest folds of a class are the worst to lose.
    left = np.sort(counts, axis=1)[:, :-2].sum(axis=1)
    if (left == 0).any():
        number = int(left.argmin())
        return (
            f"the class {target.classes[number]} has {counts[number].sum()} samples, "
            "none of them where two folds are left out"
        )
    return None
