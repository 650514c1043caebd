"""ALIGN's loss, and queries in the space it makes (Jia et al. 2021, arXiv 2102.05918).

Shapes: n pairs, d width, c classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from vlsae.errors import UserError, unknown

REDUCTIONS = ("mean", "sum")
PARAMETRISATIONS = ("log", "direct")


class Temperature(nn.Module):
    """One learned temperature T for both directions, held as log T (always positive) or as T itself (``direct``)."""

    def __init__(
        self, initial: float = 1.0, parametrisation: str = "log", low: float = 0.01, high: float = 10.0
    ) -> None:
        super().__init__()
        if parametrisation not in PARAMETRISATIONS:
            raise unknown("parametrisation of the temperature", parametrisation, PARAMETRISATIONS)
        if not 0 < low <= initial <= high:
            raise UserError(f"The temperature starts at {initial}, outside of {low}…{high}.", "Widen the bounds.")
        self.parametrisation, self.low, self.high = parametrisation, low, high
        self.parameter = nn.Parameter(torch.tensor(math.log(initial) if parametrisation == "log" else initial))

    def forward(self) -> Tensor:
        return self.parameter.exp() if self.parametrisation == "log" else self.parameter

    @torch.no_grad()
    def clamp(self) -> None:
        """Bring T back between its bounds."""
        if self.parametrisation == "log":
            self.parameter.clamp_(math.log(self.low), math.log(self.high))
        else:
            self.parameter.clamp_(self.low, self.high)


def align_loss(
    image: Tensor,
    text: Tensor,
    temperature: Tensor | float,
    *,
    label_smoothing: float = 0.1,
    reduce: str = "mean",
    duplicates: Tensor | None = None,
) -> Tensor:
    """Return the normalised softmax loss of both directions, on raw embeddings ``(n, d)``.

    S = x̂ ŷᵀ / T in float32 (float64 stays); each row's target is (1 − e)[i = j] + e/n; ``reduce`` takes the mean or
    the sum of the two directions. ``duplicates (n, n)`` marks pairs that are right too: they are no negatives, and the
    smoothed target spreads over what is left.
    """
    if image.shape != text.shape or image.ndim != 2:
        raise UserError(f"image and text must be (n, d) alike; got {tuple(image.shape)} and {tuple(text.shape)}.")
    if reduce not in REDUCTIONS:
        raise unknown("reduce", reduce, REDUCTIONS)
    dtype = torch.promote_types(torch.float32, image.dtype)
    x = functional.normalize(image.to(dtype), dim=-1)
    y = functional.normalize(text.to(dtype), dim=-1)
    # Autocast would bring the logits back to half precision, where they overflow at a small temperature.
    with torch.autocast(x.device.type, enabled=False):
        similarity = x @ y.T / temperature
        left = _direction(similarity, label_smoothing, duplicates)
        right = _direction(similarity.T, label_smoothing, None if duplicates is None else duplicates.T)
    return (left + right) / (2 if reduce == "mean" else 1)


def _direction(logits: Tensor, smoothing: float, duplicates: Tensor | None) -> Tensor:
    targets = torch.arange(len(logits), device=logits.device)
    if duplicates is None:
        return functional.cross_entropy(logits, targets, label_smoothing=smoothing)
    out = duplicates & ~torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    logs = functional.log_softmax(logits.masked_fill(out, -math.inf), dim=-1)
    spread = logs.masked_fill(out, 0.0).sum(-1) / (~out).sum(-1)
    return -((1 - smoothing) * logs.diagonal() + smoothing * spread).mean()


def duplicate_rows(ids: Tensor) -> Tensor:
    """Return which pairs of texts ``(n, length)`` are the same, ``(n, n)`` bool."""
    _, group = torch.unique(ids, dim=0, return_inverse=True)
    return group[:, None] == group[None, :]


def smoothing_floor(n: int, label_smoothing: float = 0.1) -> float:
    """Return the lowest loss that n pairs can reach: the entropy of the smoothed target."""
    off = label_smoothing / n
    on = 1 - label_smoothing + off
    return -sum(p * math.log(p) for p in (on, *[off] * (n - 1)) if p > 0)


def class_vectors(prompts: Tensor) -> Tensor:
    """Return one unit vector a class ``(c, d)`` from embedded prompts ``(c, templates, d)``: the renormalised mean."""
    return functional.normalize(functional.normalize(prompts, dim=-1).mean(dim=1), dim=-1)


def joint_query(image: Tensor, text: Tensor, image_weight: float = 1.0, text_weight: float = 1.0) -> Tensor:
    """Return queries of image and text together ``(n, d)``, as for "this, but red"; weights scale unit vectors."""
    x, y = functional.normalize(image, dim=-1), functional.normalize(text, dim=-1)
    return functional.normalize(image_weight * x + text_weight * y, dim=-1)
