"""From the hidden states of a prompt's tokens to one row, the same whatever the padding and the batch.

b prompts, s positions, d width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlsae.errors import UserError, unknown

POOLS = ("mean", "last", "last_k", "completion_mean", "completion_last")


def pool_tokens(
    hidden: Tensor, mask: Tensor, pool: str = "mean", *, k: int = 4, completion: Tensor | None = None
) -> Tensor:
    """Return rows ``(b, d)`` of ``hidden (b, s, d)``, summed in float32 at least.

    ``mean`` of the positions where ``mask (b, s)`` is 1, ``last`` of them, the mean of the ``last_k``, or of those
    where ``completion (b, s)`` is 1 as well, the mean or the last. What lies elsewhere, be it NaN, has no influence.
    Raises ``ValueError`` for shapes that do not fit, and AQI-D11 for a prompt of which nothing is kept.
    """
    if pool not in POOLS:
        raise unknown("token pool", pool, POOLS)
    if hidden.ndim != 3 or mask.shape != hidden.shape[:2]:
        raise UserError(
            f"hidden (b, s, d) and mask (b, s) were expected; got {tuple(hidden.shape)}, {tuple(mask.shape)}."
        )
    if k < 1:
        raise UserError(f"k must be at least 1; got {k!r}.")
    kept = mask.bool()
    if pool.startswith("completion"):
        if completion is None or completion.shape != mask.shape:
            raise UserError(f"{pool} needs completion of shape {tuple(mask.shape)}.")
        kept = kept & completion.bool()
    empty = (~kept.any(dim=1)).nonzero()[:, 0].tolist()
    if empty:
        raise UserError(f"AQI-D11: {pool} keeps no token of prompts {', '.join(str(row) for row in empty[:8])}.")
    if pool != "mean" and pool != "completion_mean":
        # Counted from the end over kept positions, so that padding on either side is the same.
        after = kept.long().flip(1).cumsum(1).flip(1)
        kept = kept & (after <= (k if pool == "last_k" else 1))
    values = hidden.to(torch.promote_types(hidden.dtype, torch.float32)).masked_fill(~kept[:, :, None], 0)
    return values.sum(dim=1) / kept.sum(dim=1, keepdim=True)
