"""Prototype case-based reasoning: classes by distance to learned prototypes (arXiv 1710.04806, section 2).

Shapes: n rows, q latent width, p prototypes, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vlsae.bounds import check_finite_number
from vlsae.errors import UserError
from vlsae.training.rows import check_finite


def prototype_distances(z: Tensor, prototypes: Tensor) -> Tensor:
    """Return squared distances ``(n, p)`` of ``z (n, q)`` and ``prototypes (p, q)``, exactly 0 for equal rows."""
    return (z[:, None] - prototypes[None]).square().sum(dim=2)


def prototype_loss(
    z: Tensor,
    prototypes: Tensor,
    weight: Tensor,
    x: Tensor,
    x_decoded: Tensor,
    labels: Tensor,
    lambdas: Sequence[float] = (20, 1, 1, 1),
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the total loss and its terms ``ce``, ``ae``, ``r1``, ``r2``, weighted by ``lambdas`` in this order.

    ``z (n, q)`` are latent rows of ``x (n, …)``, ``x_decoded`` what the decoder makes of them. The logits are distances
    to ``prototypes (p, q)`` times ``weight (p, K)``; ``ae`` sums squared errors over a row; ``r1`` draws each prototype
    to its nearest row and ``r2`` each row to its nearest prototype.
    Raises ``ValueError`` for shapes that do not fit, labels outside 0…K−1 and what is not finite.
    """
    _check({"z": z, "prototypes": prototypes, "weight": weight, "x": x, "x_decoded": x_decoded}, labels, lambdas)
    distances = prototype_distances(z, prototypes)
    terms = {
        "ce": F.cross_entropy(distances @ weight, labels),
        "ae": (x_decoded - x).flatten(1).square().sum(dim=1).mean(),
        "r1": distances.min(dim=0).values.mean(),
        "r2": distances.min(dim=1).values.mean(),
    }
    total = torch.stack([factor * term for factor, term in zip(lambdas, terms.values())]).sum()
    return total, terms


def _check(tensors: Mapping[str, Tensor], labels: Tensor, lambdas: Sequence[float]) -> None:
    for name, value in tensors.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise UserError(f"{name} must be a floating-point tensor; got {getattr(value, 'dtype', type(value))}.")
    z, prototypes, weight, x, x_decoded = tensors.values()
    if z.ndim != 2 or prototypes.ndim != 2 or z.shape[1] != prototypes.shape[1] or 0 in (*z.shape, *prototypes.shape):
        raise UserError(f"z {tuple(z.shape)} and prototypes {tuple(prototypes.shape)} must be (n, q) and (p, q).")
    if weight.ndim != 2 or weight.shape[0] != prototypes.shape[0]:
        raise UserError(f"weight has shape {tuple(weight.shape)}; ({prototypes.shape[0]}, K) was expected.")
    if x.shape != x_decoded.shape or x.ndim < 2 or x.shape[0] != z.shape[0]:
        raise UserError(
            f"x {tuple(x.shape)} and x_decoded {tuple(x_decoded.shape)} must be equal and have {z.shape[0]} rows."
        )
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != (z.shape[0],):
        got = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise UserError(f"labels must be an int64 tensor ({z.shape[0]},); got {got}.")
    if labels.min() < 0 or labels.max() >= weight.shape[1]:
        raise UserError(f"labels must lie in 0…{weight.shape[1] - 1}; got {labels.min().item()}…{labels.max().item()}.")
    if len(lambdas) != 4:
        raise UserError(f"lambdas must hold four factors (ce, ae, r1, r2); got {len(lambdas)}.")
    for factor in lambdas:
        check_finite_number("lambdas", factor)
    for name, value in tensors.items():
        check_finite(value, name)
