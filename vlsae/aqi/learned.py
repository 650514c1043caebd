"""Learning one weight a layer on some rows, to be scored on others; the model itself stays as it is.

n rows, L layers, d width, p pairs. Source of the losses: :mod:`vlsae.aqi.pooling`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vlsae.aqi.inputs import groups, integers
from vlsae.aqi.pooling import KINDS, fisher_matrices, layer_weights, median_distance, pooled
from vlsae.errors import UserError, unknown

LOSSES = ("hinge_push", "hinge_push_pull", "fisher")

#: Learning ends when the loss has moved less than this for so many steps.
STILL, PATIENCE = 1e-7, 20

#: Values of differences of pairs held at once.
ELEMENTS_AT_ONCE = 1 << 22

Loss = Callable[[Tensor], Tensor]


class LearnedWeights(NamedTuple):
    """Weights ``(L,)``, the loss of each step, and ``ok``, ``margin_inactive`` or ``no_signal`` (weights uniform)."""

    weights: Tensor
    losses: list[float]
    status: str


def learn_weights(
    hidden: Tensor,
    labels: Any,
    *,
    kind: str = "sparsemax",
    loss: str = "hinge_push",
    margin: float | None = None,
    beta: float = 1.0,
    strata: Any = None,
    max_pairs: int = 4096,
    steps: int = 300,
    lr: float = 0.05,
    warm_softmax: float = 0.15,
    seed: int = 0,
    allow_raw: bool = False,
) -> LearnedWeights:
    """Return layer weights that push the two classes of ``hidden (n, L, d)`` apart, by Adam from uniform weights.

    ``margin`` is by default the median distance of pairs under uniform weights; within a class it is half of that.
    The first ``warm_softmax`` of the steps run as softmax, for a sparse map can drop a layer for good. A hinge needs
    rows scaled by :func:`vlsae.aqi.pooling.rms_scaled`, else the layer with the largest norm meets it: AQI-L03 unless
    ``allow_raw``. Memory is p·L² beside the rows. Raises ``ValueError`` for unknown names and wrong shapes.
    """
    for what, name, known in (("map of layer weights", kind, KINDS), ("loss", loss, LOSSES)):
        if name not in known:
            raise unknown(what, name, known)
    hidden = hidden.detach().double()
    layers = hidden.shape[1] if hidden.ndim == 3 else 1
    uniform = torch.full((layers,), 1 / layers, dtype=torch.float64, device=hidden.device)
    pooled(hidden, uniform)  # checks the rows
    if loss == "fisher":
        between, within = fisher_matrices(hidden, torch.as_tensor(labels))
        if float(uniform @ between @ uniform) <= 0:
            return LearnedWeights(uniform, [], "no_signal")
        objective: Loss = lambda w: -torch.log((w @ between @ w) / (w @ within @ w))  # noqa: E731
    else:
        _check_scale(hidden, allow_raw)
        objective, active = _hinge(hidden, labels, loss, margin, beta, strata, max_pairs, seed)
        if not active:
            return LearnedWeights(uniform, [], "margin_inactive")
    weights, losses = _descend(objective, layers, kind, steps, lr, warm_softmax)
    return LearnedWeights(weights, losses, "ok")


def class_pairs(labels: Any, max_pairs: int = 4096, strata: Any = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return pairs ``(p, 2)`` of rows of different classes (lower label first), and of the same class.

    All of them up to ``max_pairs``, else a seeded sample in which each of the ``strata (n,)`` counts the same.
    """
    count = len(labels)
    names, codes = groups("labels", labels, count)
    if len(names) != 2:
        raise UserError(f"labels must hold two classes; got {len(names)}.")
    rows = [np.flatnonzero(codes == k) for k in (0, 1)]
    stratum = np.zeros(count, dtype=np.int64) if strata is None else integers("strata", strata, count)
    generator = np.random.default_rng(seed)
    across = np.stack(np.meshgrid(rows[0], rows[1], indexing="ij"), -1).reshape(-1, 2)
    if len(rows[0]) * len(rows[1]) > max_pairs:
        across = np.stack([_balanced(members, stratum, max_pairs, generator) for members in rows], axis=1)
    same = np.concatenate([_within(members, stratum, max_pairs // 2, generator) for members in rows])
    return torch.from_numpy(across), torch.from_numpy(same)


def _balanced(members: np.ndarray, stratum: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """Draw rows with equal chances of each stratum, and of each row in it."""
    _, place, counts = np.unique(stratum[members], return_inverse=True, return_counts=True)
    chances = 1 / counts[place.reshape(-1)] / len(counts)
    return generator.choice(members, size=size, p=chances / chances.sum())


def _within(members: np.ndarray, stratum: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    if len(members) * (len(members) - 1) // 2 <= size:
        return members[np.stack(np.triu_indices(len(members), 1), axis=1)]
    drawn = np.stack([_balanced(members, stratum, size, generator) for _ in range(2)], axis=1)
    return drawn[drawn[:, 0] != drawn[:, 1]]


def _check_scale(hidden: Tensor, allow_raw: bool) -> None:
    squares = hidden.square().mean(dim=-1)
    if allow_raw or bool(((squares - 1).abs() < 1e-3).logical_or(squares == 0).all()):
        return
    raise UserError(
        "AQI-L03: a hinge on rows of different length is met by the layer with the largest norm, not the best one; "
        f"mean squares lie in {float(squares.min()):.3g}…{float(squares.max()):.3g}.",
        "Scale the rows by rms_scaled, take loss='fisher', or pass allow_raw=True.",
    )


def _hinge(
    hidden: Tensor,
    labels: Any,
    loss: str,
    margin: float | None,
    beta: float,
    strata: Any,
    max_pairs: int,
    seed: int,
) -> tuple[Loss, bool]:
    """Return the hinge as a function of the weights, and whether any pair has a gradient under uniform weights."""
    across, same = class_pairs(labels, max_pairs, strata, seed)
    outer = median_distance(hidden, across) if margin is None else float(margin)
    push = _forms(hidden, across)
    uniform = torch.full((hidden.shape[1],), 1 / hidden.shape[1], dtype=torch.float64, device=hidden.device)
    active = bool((_lengths(push, uniform) < outer).any())
    if loss == "hinge_push":
        return lambda w: torch.relu(outer - _lengths(push, w)).mean(), active
    if len(same) == 0:
        raise UserError("hinge_push_pull needs two rows of a class; got one of each.")
    pull = _forms(hidden, same)
    active = active or bool((_lengths(pull, uniform) > outer / 2).any())
    return (
        lambda w: torch.relu(outer - _lengths(push, w)).mean() + beta * torch.relu(_lengths(pull, w) - outer / 2).mean()
    ), active


def _forms(hidden: Tensor, pairs: Tensor) -> Tensor:
    """Return G ``(p, L, L)`` with ‖z_i - z_j‖² = wᵀGw, so that no step depends on d."""
    size = max(1, ELEMENTS_AT_ONCE // (hidden.shape[1] * hidden.shape[2]))
    forms = []
    for at in range(0, len(pairs), size):
        apart = hidden[pairs[at : at + size, 0]] - hidden[pairs[at : at + size, 1]]
        forms.append(apart @ apart.transpose(1, 2))
    return torch.cat(forms)


def _lengths(forms: Tensor, weights: Tensor) -> Tensor:
    squares = torch.einsum("plm,l,m->p", forms, weights, weights)
    together = squares <= 0
    return torch.where(together, 0.0, torch.where(together, 1.0, squares).sqrt())


def _descend(
    objective: Loss, layers: int, kind: str, steps: int, lr: float, warm_softmax: float
) -> tuple[Tensor, list[float]]:
    """Return the weights with the smallest loss under the map asked for, and the loss of each step."""
    logits = torch.zeros(layers, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=lr)
    losses: list[float] = []
    best, best_weights = float("inf"), layer_weights(logits.detach(), kind)
    still, warm = 0, int(warm_softmax * steps)
    for step in range(steps + 1):
        weights = layer_weights(logits, "softmax" if step < warm else kind)
        value = objective(weights)
        if not torch.isfinite(value):
            break
        losses.append(value.item())
        if step >= warm and losses[-1] <= best:
            best, best_weights = losses[-1], weights.detach()
        still = still + 1 if step > warm and abs(losses[-1] - losses[-2]) < STILL else 0
        if still >= PATIENCE:
            break
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return best_weights, losses
