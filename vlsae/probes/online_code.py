"""Minimum description length of labels by the online code (Voita and Titov, 2020, arXiv 2003.12298, section 2.2.2).

Shapes: n rows, d columns, T targets, C classes, B blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from vlsae.probes.fitting import Design, Problem, fit
from vlsae.probes.nested import losses

#: Where the rows are cut, as shares of them.
SHARES = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)

#: Nats that one row costs at most: a probability of 1e-6.
MOST = float(-np.log(1e-6))


def code_length(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, penalties: Sequence[float], classes: int, seed: int = 0
) -> np.ndarray:
    """Return the bits ``(T,)`` that tell the labels ``y (n, T)``, each 0…``classes`` - 1, to who has x.

    Blocks of rows are told one after the other, each by the fit on those before; the first at log₂ C bits a row. The
    penalty of a block is the one that would have told the earlier blocks shortest. Groups ``(n,)`` are shuffled whole.
    """
    order = _shuffled(groups, seed)
    x, y = x[order], y[order]
    n, n_targets = y.shape
    levels = sorted(map(float, penalties), reverse=True)
    cuts = _cuts(groups[order], n)
    bits = np.zeros(n_targets)
    spent = np.zeros((len(levels), n_targets))
    told = np.zeros(n_targets, dtype=int)
    for start, stop in pairwise(cuts):
        able = np.array([_learnable(y[:start, target], classes) for target in range(n_targets)])
        if not able.any():
            continue
        own = np.flatnonzero(able)
        # The rows before the first fit are told without one.
        bits[own] += np.where(told[own] == 0, start * np.log2(classes), 0.0)
        told[own] = stop
        problems = [Problem(place, (), level) for level in levels for place in range(len(own))]
        design = Design(x[:start], np.zeros(start, dtype=np.int64))
        coefficients = design.raw(fit(design, y[:start][:, own], problems, classes))
        flat = coefficients.reshape(-1, coefficients.shape[-1])
        found = (x[start:stop] @ flat[:, :-1].T + flat[:, -1]).reshape(stop - start, *coefficients.shape[:2])
        held = np.tile(y[start:stop][:, own], (1, len(levels)))
        cost = np.minimum(losses(found, held, classes), MOST).sum(axis=0).reshape(len(levels), len(own)) / np.log(2)
        bits[own] += cost[spent[:, own].argmin(axis=0), np.arange(len(own))]
        spent[:, own] += cost
    return np.where(told == 0, n * np.log2(classes), bits)


def _shuffled(groups: np.ndarray, seed: int) -> np.ndarray:
    numbers = np.unique(groups, return_inverse=True)[1]
    place = np.random.default_rng(seed).permutation(numbers.max() + 1)
    return np.argsort(place[numbers], kind="stable")


def _cuts(groups: np.ndarray, n: int) -> list[int]:
    """Return where blocks begin and end, no group being cut."""
    starts = np.append(np.flatnonzero(np.append(True, groups[1:] != groups[:-1])), n)
    wanted = [starts[np.searchsorted(starts, share * n)] for share in SHARES]
    return sorted({int(cut) for cut in wanted if cut > 0})


def _learnable(y: np.ndarray, classes: int) -> bool:
    """Tell whether every class has two rows at least."""
    return bool((np.bincount(y.astype(np.int64), minlength=classes) >= 2).all())
