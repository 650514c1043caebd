"""Learned pooling over layers, trained on one half of the blocks and scored on the other, both ways.

n rows, L layers, d width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from vlsae.aqi.accumulators import moments_of
from vlsae.aqi.crossfit import scored_auroc
from vlsae.aqi.design import Design
from vlsae.aqi.effect import stratified
from vlsae.aqi.labelling import hash_order
from vlsae.errors import UserError

#: Gives rows (numbers ``(m,)``) of a layer (its place) as ``(m, d)``.
Rows = Callable[[int, np.ndarray], np.ndarray]


class Pooled(NamedTuple):
    """δ² and AUROC on held-out rows, means of both halves."""

    delta_squared: float
    auroc: float


class LearnedPooling(NamedTuple):
    """Weights of each half ``(2, L)``, the statuses, and held-out scores: learned, uniform, and the best single layer.

    ``chosen (2,)`` is the single layer with the largest δ² on the training half.
    """

    weights: np.ndarray
    statuses: tuple[str, str]
    chosen: np.ndarray
    learned: Pooled
    uniform: Pooled
    single: Pooled


def learned_pooling(
    fetch: Rows,
    widths: Sequence[int],
    design: Design,
    ids: Sequence[str],
    *,
    kind: str = "sparsemax",
    loss: str = "fisher",
    most: int = 2000,
    seed: int = 0,
) -> LearnedPooling:
    """Return layer weights learned on rows scaled to root mean square 1, and what they give on rows not seen.

    At most ``most`` training rows of each half are held at once, chosen by a hash of their ids. Raises ``UserError``
    (AQI-L01) for layers of different width.
    """
    import torch

    from vlsae.aqi.learned import learn_weights

    if len(set(widths)) != 1:
        raise UserError(
            f"AQI-L01: layers of widths {', '.join(map(str, sorted(set(widths))))} cannot be pooled.",
            "Name layers of one width (--layer), or turn pooling off: aqi.learned.loss=null.",
        )
    order = hash_order(ids, f"learned {seed}")
    weights, statuses, chosen = np.zeros((2, len(widths))), [], np.zeros(2, dtype=np.int64)
    scores: list[list[Pooled]] = [[], [], []]
    for half in range(2):
        trained = np.sort(order[(design.blocks[order] % 2) == half][:most])
        held = np.flatnonzero(design.blocks % 2 != half)
        hidden = np.stack([_scaled(fetch(place, trained)) for place in range(len(widths))], axis=1)
        codes, strata = design.codes[trained], design.strata[trained]
        found = learn_weights(torch.from_numpy(hidden), codes, kind=kind, loss=loss, strata=strata, seed=seed)
        weights[half] = found.weights.numpy()
        statuses.append(found.status)
        single = [stratified(hidden[:, place], codes, strata).stratified_delta_squared for place in range(len(widths))]
        chosen[half] = int(np.nanargmax(single)) if np.isfinite(single).any() else 0
        uniform = np.full(len(widths), 1 / len(widths))
        for place, w in enumerate((weights[half], uniform, np.eye(len(widths))[chosen[half]])):
            scores[place].append(_score(fetch, w, hidden, trained, held, design))
    means = [Pooled(*np.mean([list(one) for one in pair], axis=0).tolist()) for pair in scores]
    return LearnedPooling(weights, (statuses[0], statuses[1]), chosen, *means)


def _score(
    fetch: Rows, weights: np.ndarray, hidden: np.ndarray, trained: np.ndarray, held: np.ndarray, design: Design
) -> Pooled:
    """Return the pooled rows' δ² on the held-out half, and AUROC along the direction of the training half."""
    before = np.einsum("nld,l->nd", hidden, weights)
    moments = moments_of(before, design.codes[trained], 2)
    direction = moments.shifted_mean[0] - moments.shifted_mean[1]
    after = np.zeros((len(held), hidden.shape[2]))
    for place in np.flatnonzero(weights > 0).tolist():
        after += weights[place] * _scaled(fetch(place, held))
    codes, strata = design.codes[held], design.strata[held]
    whole = np.zeros(len(held), dtype=np.int64)
    return Pooled(
        stratified(after, codes, strata).stratified_delta_squared,
        scored_auroc(after @ direction, codes == 0, whole, strata).auroc,
    )


def _scaled(x: np.ndarray) -> np.ndarray:
    """Return rows divided by their root mean square; zero stays zero."""
    values = np.asarray(x, dtype=np.float64)
    size = np.sqrt((values**2).mean(axis=1, keepdims=True))
    return values / np.where(size > 0, size, 1.0)
