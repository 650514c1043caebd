"""Which concepts of a row are kept: the k largest, exactly and the same on every machine.

Shapes: n rows, h columns, k of them kept.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

#: Columns a block at most; the maxima of blocks bound from below what can be among the largest.
BLOCK = 32

#: Blocks for each entry kept: with fewer, hardly an entry would lie below the bound that they give.
BLOCKS_PER_KEPT = 4


def top_k(scores: Tensor, k: int) -> Tensor:
    """Return the columns of :func:`largest_columns`, those of the largest entries first; ties to the lowest column."""
    columns = largest_columns(scores, k)
    values = scores.detach().float().gather(1, columns)
    return columns.gather(1, values.sort(dim=1, descending=True, stable=True).indices)


def largest_columns(scores: Tensor, k: int) -> Tensor:
    """Return the columns of the k largest entries of each row of ``scores (n, h)``, ``(n, k)``, ascending.

    Of equal entries the lowest columns are taken. The choice is made in float32 whatever the dtype: in half precision
    ties are common, and a support must not depend on the dtype of the model.
    """
    scores = scores.detach().float()
    n, h = scores.shape
    if k == h:
        return torch.arange(h, device=scores.device).expand(n, h)
    if scores.device.type == "cpu":
        columns = _above_bound(scores.contiguous().numpy(), k)
        if columns is not None:
            return torch.from_numpy(columns)
    return _by_sorting(scores, k)


def largest_only(values: Tensor, k: int) -> Tensor:
    """Return ``values (n, h)``, none of them negative, with zeros for all but the k largest of each row.

    Ties go to the lowest column; kept entries pass their gradient on. Rows with k entries above zero or fewer, most
    rows of activations, are given back as they are.
    """
    plain = values.detach().float()
    crowded = (plain.sign().sum(dim=1) > k).nonzero()[:, 0]
    if not len(crowded):
        return values
    dropped = torch.zeros_like(plain, dtype=torch.bool)
    dropped[crowded] = ~_among_largest(plain[crowded], k)
    return values.masked_fill(dropped, 0)


def _among_largest(scores: Tensor, k: int) -> Tensor:
    """Return which of ``scores (n, h)`` are the k largest of their row, ``(n, h)``."""
    if scores.device.type == "cpu":
        border = torch.from_numpy(_kth_largest(scores.numpy(), k))
    else:
        border = scores.topk(k, dim=1).values[:, -1]
    kept = scores >= border[:, None]
    tied = (kept.sum(dim=1) > k).nonzero()[:, 0]
    if len(tied):
        kept[tied] = torch.zeros_like(kept[tied]).scatter(1, _by_sorting(scores[tied], k), True)
    return kept


def _by_sorting(scores: Tensor, k: int) -> Tensor:
    """Return what :func:`largest_columns` returns, by torch's selection; NaN counts as largest."""
    values, columns = scores.topk(k + 1, dim=1)
    # topk leaves open which of equal entries it takes: only rows where the border is tied need the slower, stable sort.
    tied = values[:, k - 1] == values[:, k]
    columns = columns[:, :k]
    if tied.any():
        columns = columns.clone()
        columns[tied] = scores[tied].sort(dim=1, descending=True, stable=True).indices[:, :k]
    return columns.sort(dim=1).values


def _above_bound(scores: np.ndarray, k: int) -> np.ndarray | None:
    """Return what :func:`largest_columns` returns, by comparing entries with a bound; None where there are NaN.

    NumPy partitions values several times faster than either library does places, so that values alone are partitioned.
    """
    n, h = scores.shape
    flat = np.flatnonzero(scores >= _lower_bound(scores, k)[:, None])
    rows = flat // h
    counts = np.bincount(rows, minlength=n)
    if n and counts.min() < k:
        return None
    if flat.size > n * k:
        flat = flat[_largest_of_each(scores.reshape(-1)[flat], rows, counts, k)]
    return (flat % h).reshape(n, k)


def _lower_bound(scores: np.ndarray, k: int) -> np.ndarray:
    """Return a number ``(n,)`` that at least k entries of each row reach, few more if it can be had cheaply."""
    n, h = scores.shape
    block = BLOCK
    while block > 1 and (h % block or h < BLOCKS_PER_KEPT * k * block):
        block //= 2
    # Block j holds the columns j, j + blocks, …: its maximum is then taken along whole rows of memory.
    maxima = torch.from_numpy(scores).view(n, block, h // block).amax(dim=1).numpy() if block > 1 else scores
    return _kth_largest(maxima, k)


def _largest_of_each(values: np.ndarray, rows: np.ndarray, counts: np.ndarray, k: int) -> np.ndarray:
    """Return which of ``values (m,)``, grouped by ``rows (m,)``, are a row's k largest, the first of equals."""
    starts = np.cumsum(counts) - counts
    padded = np.full((len(counts), counts.max()), -np.inf, dtype=values.dtype)
    padded[rows, np.arange(len(rows)) - starts[rows]] = values
    border = _kth_largest(padded, k)
    above, equal = values > border[rows], values == border[rows]
    room = k - np.bincount(rows[above], minlength=len(counts))
    passed = np.cumsum(equal)
    before = np.concatenate([[0], passed])[starts]
    kept: np.ndarray = above | (equal & (passed - before[rows] <= room[rows]))
    return kept


def _kth_largest(values: np.ndarray, k: int) -> np.ndarray:
    place = values.shape[1] - k
    found: np.ndarray = np.partition(values, place, axis=1)[:, place]
    return found


def top_k_strict(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return columns ``(n, k)`` and which of them lie strictly above the (k + 1)-th largest score, ``(n, k)``.

    The published code's rule: entries that tie at the border are all left out. ``k`` must be less than ``h``.
    """
    values, columns = scores.detach().float().topk(k + 1, dim=1)
    return columns[:, :k], values[:, :k] > values[:, k:]


def at_least_single(dtype: torch.dtype) -> torch.dtype:
    """Return float32 for the half-precision dtypes, and any other dtype as it is."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
