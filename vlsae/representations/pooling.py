"""From hidden states to rows: one row an item, or one a kept token. Shapes: b items, s positions, d width, r rows."""

from __future__ import annotations

import torch
from torch import Tensor

from vlsae.errors import UserError, unknown
from vlsae.models.base import Rows

POOLINGS = ("cls", "mean", "last", "eot", "tokens")

#: The position of a pooled row.
POOLED = -1


def pool(
    hidden: Tensor,
    keep_mask: Tensor,
    *,
    pooling: str,
    class_index: int | None = None,
    end_index: Tensor | None = None,
    sample_offset: int = 0,
) -> Rows:
    """Return the rows of hidden states ``(b, s, d)``: ``values (r, d)``, ``sample (r,)``, ``position (r,)``.

    ``cls`` reads position ``class_index`` and ``eot`` position ``end_index (b,)`` of each item; ``mean`` averages the
    positions where ``keep_mask (b, s)`` is true, in float32 at least, ``last`` reads the last of them and ``tokens``
    keeps each. Pooled rows have position −1. Items are numbered from ``sample_offset``.

    Raises:
        UserError: an unknown pooling, shapes that do not fit, an index that is missing or out of range, or an item of
            which ``mean`` or ``last`` keeps nothing.
    """
    if hidden.ndim != 3:
        raise UserError(f"hidden must have shape (b, s, d); got {tuple(hidden.shape)}.")
    if keep_mask.shape != hidden.shape[:2] or keep_mask.dtype != torch.bool:
        raise UserError(
            f"keep_mask must be boolean of shape {tuple(hidden.shape[:2])}; "
            f"got {keep_mask.dtype} {tuple(keep_mask.shape)}."
        )
    numbers = torch.arange(hidden.shape[0], device=hidden.device)
    if pooling == "tokens":
        item, position = keep_mask.nonzero(as_tuple=True)
        return Rows(hidden[item, position], item + sample_offset, position)
    if pooling == "cls":
        values = _class_token(hidden, class_index)
    elif pooling == "eot":
        values = _end_token(hidden, end_index, numbers)
    elif pooling == "last":
        values = _last(hidden, keep_mask, numbers, sample_offset)
    elif pooling == "mean":
        values = _mean(hidden, keep_mask, sample_offset)
    else:
        raise unknown("pooling", pooling, POOLINGS)
    return Rows(values, numbers + sample_offset, torch.full_like(numbers, POOLED))


def _class_token(hidden: Tensor, index: int | None) -> Tensor:
    if index is None or not 0 <= index < hidden.shape[1]:
        raise UserError(f"Pooling 'cls' needs class_index in 0…{hidden.shape[1] - 1}; got {index}.")
    return hidden[:, index]


def _end_token(hidden: Tensor, index: Tensor | None, numbers: Tensor) -> Tensor:
    if index is None or index.shape != numbers.shape:
        shape = None if index is None else tuple(index.shape)
        raise UserError(f"Pooling 'eot' needs end_index of shape {tuple(numbers.shape)}; got {shape}.")
    if bool(((index < 0) | (index >= hidden.shape[1])).any()):
        raise UserError(f"end_index must lie in 0…{hidden.shape[1] - 1}; got {index.tolist()}.")
    return hidden[numbers, index]


def _last(hidden: Tensor, keep_mask: Tensor, numbers: Tensor, offset: int) -> Tensor:
    _refuse_empty(keep_mask, "read", offset)
    # The largest kept position, wherever padding stands.
    positions = torch.arange(hidden.shape[1], device=hidden.device)
    return hidden[numbers, torch.where(keep_mask, positions, -1).amax(dim=1)]


def _mean(hidden: Tensor, keep_mask: Tensor, offset: int) -> Tensor:
    _refuse_empty(keep_mask, "average", offset)
    counts = keep_mask.sum(dim=1, keepdim=True)
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    # Filling, not multiplying: what lies at left-out positions may be infinite.
    kept = hidden.masked_fill(~keep_mask.unsqueeze(-1), 0)
    return kept.sum(dim=1, dtype=dtype) / counts


def _refuse_empty(keep_mask: Tensor, purpose: str, offset: int) -> None:
    empty = ~keep_mask.any(dim=1)
    if bool(empty.any()):
        item = int(empty.nonzero()[0]) + offset
        raise UserError(f"Item {item} has no token to {purpose}.", "Include more tokens, or leave the item out.")
