"""Learned pooling over layers: one weight a layer, and losses that push safe and unsafe rows apart.

n rows, L layers, d width, p pairs. Differentiable; computes in the dtype it is given. Pooled rows are z = Σ w_l h_l
(aqi, arXiv 2506.13901; Martins and Astudillo, 2016, for sparsemax; Peters et al., 2019, for 1.5-entmax).
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlsae.errors import UserError, unknown

KINDS = ("softmax", "sparsemax", "entmax15")


def layer_weights(logits: Tensor, kind: str) -> Tensor:
    """Return the weights ``(L,)``, at least 0 and summing to 1, of ``logits (L,)``.

    ``softmax``; ``sparsemax``, the nearest point of the simplex; ``entmax15``, max(a/2 - τ, 0)². The last two can
    give a layer no weight at all. Raises ``ValueError`` for another kind, shape or logits that are not finite.
    """
    if logits.ndim != 1 or logits.numel() == 0:
        raise UserError(f"logits has shape {tuple(logits.shape)}; (L,) with at least one layer was expected.")
    _check_finite("logits", logits)
    if kind == "softmax":
        return torch.softmax(logits, dim=0)
    # Weights do not depend on a common shift; without it large logits would lose the digits that tell them apart.
    logits = logits - logits.detach().max()
    if kind == "sparsemax":
        return torch.relu(logits - _sparsemax_threshold(logits))
    if kind == "entmax15":
        halved = logits / 2
        return torch.relu(halved - _entmax_threshold(halved)) ** 2
    raise unknown("map of layer weights", kind, KINDS)


def pooled(hidden: Tensor, weights: Tensor) -> Tensor:
    """Return z = Σ w_l h_l, ``(n, d)``, of ``hidden (n, L, d)`` and ``weights (L,)``."""
    if hidden.ndim != 3 or 0 in hidden.shape:
        raise UserError(f"hidden has shape {tuple(hidden.shape)}; (n, L, d), none of them 0, was expected.")
    if weights.shape != hidden.shape[1:2]:
        raise UserError(
            f"weights has shape {tuple(weights.shape)}; one for each of {hidden.shape[1]} layers was expected."
        )
    _check_finite("hidden", hidden)
    _check_finite("weights", weights)
    return torch.einsum("nld,l->nd", hidden, weights)


def hinge_push(hidden: Tensor, weights: Tensor, pairs: Tensor, margin: float) -> Tensor:
    """Return the mean over ``pairs (p, 2)`` of row numbers of max(0, margin - ‖z_i - z_j‖).

    A pair at distance 0 has no gradient, nor one at the margin or beyond. Raises ``ValueError`` for pairs outside the
    rows, none, or a negative margin.
    """
    distances = _distances(pooled(hidden, weights), pairs, "pairs")
    return torch.relu(_at_least_zero("margin", margin) - distances).mean()


def hinge_push_pull(
    hidden: Tensor,
    weights: Tensor,
    pairs: Tensor,
    same_pairs: Tensor,
    margin: float,
    margin_in: float,
    beta: float = 1.0,
) -> Tensor:
    """Return :func:`hinge_push` plus ``beta`` times the mean over ``same_pairs`` of max(0, ‖z_i - z_j‖ - margin_in)."""
    inner, beta = _at_least_zero("margin_in", margin_in), _at_least_zero("beta", beta)
    apart = _distances(pooled(hidden, weights), same_pairs, "same_pairs")
    return hinge_push(hidden, weights, pairs, margin) + beta * torch.relu(apart - inner).mean()


def fisher(hidden: Tensor, weights: Tensor, labels: Tensor) -> Tensor:
    """Return -log(wᵀBw / wᵀWw), the ratio being δ² of the pooled rows of two classes; NaN where it is not positive."""
    pooled(hidden, weights)  # checks both
    between, within = fisher_matrices(hidden, labels)
    return -torch.log((weights @ between @ weights) / (weights @ within @ weights))


def fisher_matrices(hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return B and W ``(L, L)``: U and V of δ² as quadratic forms of the weights, for two classes ``labels (n,)``.

    Each class needs two rows. Training by these does not depend on n or d.
    """
    first, second = _two_classes(hidden, labels)
    means = [hidden[rows].mean(dim=0) for rows in (first, second)]
    moments = []
    for rows, mean in zip((first, second), means):
        centred = hidden[rows] - mean
        moments.append(torch.einsum("nld,nmd->lm", centred, centred) / (len(rows) - 1))
    apart = means[0] - means[1]
    noise = moments[0] / len(first) + moments[1] / len(second)
    return apart @ apart.T - noise, (moments[0] + moments[1]) / 2


def rms_scaled(hidden: Tensor) -> Tensor:
    """Return ``hidden (..., d)`` with each vector divided by its root mean square; zero stays zero.

    Without it the hinge is met by the layer with the largest norm, not by the one that separates.
    """
    scale = hidden.square().mean(dim=-1, keepdim=True).sqrt()
    return hidden / torch.where(scale > 0, scale, torch.ones_like(scale))


def median_distance(hidden: Tensor, pairs: Tensor) -> float:
    """Return the median distance of ``pairs (p, 2)`` under uniform weights: a margin that half of them are within."""
    layers = hidden.shape[1] if hidden.ndim == 3 else 1
    uniform = torch.full((layers,), 1 / layers, dtype=hidden.dtype, device=hidden.device)
    return float(_distances(pooled(hidden, uniform), pairs, "pairs").quantile(0.5))


def _sparsemax_threshold(logits: Tensor) -> Tensor:
    ordered = logits.detach().sort(descending=True).values
    ranks = torch.arange(1, len(ordered) + 1, dtype=logits.dtype, device=logits.device)
    size = int((1 + ranks * ordered > ordered.cumsum(0)).sum())
    support = logits.topk(size).values
    return (support.sum() - 1) / size


def _entmax_threshold(halved: Tensor) -> Tensor:
    """Return τ with Σ max(z - τ, 0)² = 1 (Peters et al., algorithm 2); only the support carries a gradient."""
    ordered = halved.detach().sort(descending=True).values
    ranks = torch.arange(1, len(ordered) + 1, dtype=halved.dtype, device=halved.device)
    mean = ordered.cumsum(0) / ranks
    spread = (ordered.square().cumsum(0) - ranks * mean.square()).clamp(min=0)
    threshold = mean - ((1 - spread).clamp(min=0) / ranks).sqrt()
    size = int(((threshold <= ordered) & (spread < 1)).sum())
    support = halved.topk(size).values
    centre = support.mean()
    return centre - ((1 - (support - centre).square().sum()) / size).sqrt()


def _distances(z: Tensor, pairs: Tensor, name: str) -> Tensor:
    pairs = torch.as_tensor(pairs, device=z.device)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or len(pairs) == 0 or pairs.is_floating_point():
        raise UserError(f"{name} must be integers (p, 2), p ≥ 1; got {pairs.dtype} of shape {tuple(pairs.shape)}.")
    if int(pairs.min()) < 0 or int(pairs.max()) >= len(z):
        raise UserError(f"{name} must be row numbers in 0…{len(z) - 1}; got {int(pairs.min())}…{int(pairs.max())}.")
    squares = (z[pairs[:, 0]] - z[pairs[:, 1]]).square().sum(dim=1)
    # The root has no gradient at 0: such pairs go around it.
    together = squares == 0
    return torch.where(together, squares, torch.where(together, torch.ones_like(squares), squares).sqrt())


def _two_classes(hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    labels = torch.as_tensor(labels, device=hidden.device)
    if labels.shape != hidden.shape[:1] or labels.is_floating_point():
        raise UserError(f"labels must be integers ({len(hidden)},); got {labels.dtype} of shape {tuple(labels.shape)}.")
    names = labels.unique()
    if len(names) != 2:
        raise UserError(f"labels must hold two classes; got {len(names)}.")
    first, second = ((labels == name).nonzero()[:, 0] for name in names)
    if min(len(first), len(second)) < 2:
        raise UserError(f"Each class needs at least 2 rows; got {len(first)} and {len(second)}.")
    return first, second


def _check_finite(name: str, values: Tensor) -> None:
    flags = torch.isfinite(values.detach())
    if not flags.all():
        bad = (~flags).flatten(1).any(dim=1) if values.ndim > 1 else ~flags
        listed = ", ".join(str(row) for row in bad.nonzero()[:8, 0].tolist())
        raise UserError(f"AQI-D12: values that are not finite in {name}, row {listed}.")


def _at_least_zero(name: str, value: float) -> float:
    if not 0 <= float(value) < float("inf"):
        raise UserError(f"{name} must be a number of at least 0; got {value!r}.")
    return float(value)
