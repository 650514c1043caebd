"""Which concepts of a row are kept: the k largest, exactly and the same on every machine."""

from __future__ import annotations

import torch
from torch import Tensor


def top_k(scores: Tensor, k: int) -> Tensor:
    """Return the k largest entries' columns of ``scores (n, h)``, ``(n, k)``, largest first; ties to the lowest column.

    The choice is made in float32 whatever the dtype: in half precision ties are common, and a support must not
    depend on the dtype of the model.
    """
    scores = scores.detach().float()
    if k == scores.shape[1]:
        return scores.sort(dim=1, descending=True, stable=True).indices
    values, columns = scores.topk(k + 1, dim=1)
    # topk leaves open which of equal entries it takes: only rows where the border is tied need the slower, stable sort.
    tied = values[:, k - 1] == values[:, k]
    columns = columns[:, :k]
    if tied.any():
        order = scores[tied].sort(dim=1, descending=True, stable=True).indices
        columns = columns.clone()
        columns[tied] = order[:, :k]
    return columns


def top_k_strict(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return columns ``(n, k)`` and which of them lie strictly above the (k + 1)-th largest score, ``(n, k)``.

    The published code's rule: entries that tie at the border are all left out. ``k`` must be less than ``h``.
    """
    values, columns = scores.detach().float().topk(k + 1, dim=1)
    return columns[:, :k], values[:, :k] > values[:, k:]


def at_least_single(dtype: torch.dtype) -> torch.dtype:
    """Return float32 for the half-precision dtypes, and any other dtype as it is."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
