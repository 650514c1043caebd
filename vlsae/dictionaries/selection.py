"""Which concepts of a row are kept: the k largest, exactly and the same on every machine."""

from __future__ import annotations

import torch
from torch import Tensor

#: Columns a block: the maxima of blocks decide which are looked at more closely.
BLOCK = 16


def top_k(scores: Tensor, k: int) -> Tensor:
    """Return the k largest entries' columns of ``scores (n, h)``, ``(n, k)``, largest first; ties to the lowest column.

    The choice is made in float32 whatever the dtype: in half precision ties are common, and a support must not
    depend on the dtype of the model.
    """
    scores = scores.detach().float()
    if k == scores.shape[1]:
        return scores.sort(dim=1, descending=True, stable=True).indices
    values, columns = _largest(scores, k + 1)
    # topk leaves open which of equal entries it takes: only rows where the border is tied need the slower, stable sort.
    tied = values[:, k - 1] == values[:, k]
    columns = columns[:, :k]
    if tied.any():
        order = scores[tied].sort(dim=1, descending=True, stable=True).indices
        columns = columns.clone()
        columns[tied] = order[:, :k]
    return columns


def _largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest entries and their columns, largest first.

    The k columns of a matrix's blocks with the largest maxima hold them: a block left out has k entries above it.
    """
    n, h = scores.shape
    blocks = h // BLOCK
    if scores.device.type != "cpu" or h % BLOCK or k * BLOCK > h // 2:
        return scores.topk(k, dim=1)
    # Block j holds the columns j, j + blocks, …: its maximum is then taken along whole rows of memory.
    stacked = scores.view(n, BLOCK, blocks)
    chosen = stacked.amax(dim=1).topk(k, dim=1, sorted=False).indices
    candidates = stacked.gather(2, chosen[:, None].expand(n, BLOCK, k)).reshape(n, BLOCK * k)
    values, places = candidates.topk(k, dim=1)
    return values, chosen.gather(1, places % k) + places.div(k, rounding_mode="floor") * blocks


def top_k_strict(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return columns ``(n, k)`` and which of them lie strictly above the (k + 1)-th largest score, ``(n, k)``.

    The published code's rule: entries that tie at the border are all left out. ``k`` must be less than ``h``.
    """
    values, columns = scores.detach().float().topk(k + 1, dim=1)
    return columns[:, :k], values[:, :k] > values[:, k:]


def at_least_single(dtype: torch.dtype) -> torch.dtype:
    """Return float32 for the half-precision dtypes, and any other dtype as it is."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
