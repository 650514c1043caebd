"""How surprising each token is to a causal language model. Shapes: b texts, s positions, v vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad


def token_losses(scores: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """Return −ln p of each token given those before it, ``(b, s)`` in float32 at least.

    ``scores (b, s, v)`` are those of the next token, ``ids (b, s)`` the tokens and ``mask (b, s)`` false at padding.
    NaN at the first position and at padding, where nothing is predicted.
    """
    dtype = torch.promote_types(scores.dtype, torch.float32)
    found = cross_entropy(scores[:, :-1].to(dtype).transpose(1, 2), ids[:, 1:], reduction="none")
    return pad(found.masked_fill(~mask[:, 1:].bool(), torch.nan), (1, 0), value=torch.nan)
