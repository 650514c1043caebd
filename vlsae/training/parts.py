"""What ranks that hold a part of a batch's rows each come to together: the numbers of one process with all of them.

A rank's loss is the mean over its own rows; losses and gradients are added up by the ranks' shares of all rows
(:func:`merged`). The functions here mend what such a sum would get wrong, in losses that are no means over rows; their
gradients take the sum for granted. Where no rows are shared (:func:`vlsae.ranks.sharing`) each gives back what it got.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from vlsae import ranks
from vlsae.memory import is_out_of_memory
from vlsae.training.objective import Loss
from vlsae.training.rows import NotFinite

Value = TypeVar("Value")

#: Of what ranks hear from each other, that memory ran out; below it stands what is not finite.
_SHORT = 2


class FoundElsewhere(NotFinite):
    """Another rank has found a value that is not finite, and says where."""


class ShortElsewhere(MemoryError):
    """Memory ran out on another rank."""


def merged(loss: Loss, weight: float, rows: int, gradients: Sequence[Tensor] = ()) -> tuple[Loss, int]:
    """Return the loss, its parts and the number of rows of all ranks; ``gradients`` become all ranks', in place.

    ``weight`` is the number of terms that the loss here is the mean of. All travels in one message and is the same on
    every rank, so that all of them judge it alike.
    """
    if not ranks.is_sharing():
        return loss, rows
    own = loss.total.detach()
    dtype = torch.float64 if own.dtype == torch.float64 else torch.float32
    values = torch.stack([value.detach().to(dtype) for value in (own, *loss.parts.values())])
    counts = torch.tensor([weight, rows], dtype=dtype, device=own.device)
    message = torch.cat([counts, values * weight, *(one.reshape(-1).to(dtype) * weight for one in gradients)])
    dist.all_reduce(message)
    found, flat = (message[2:] / message[0]).split([len(values), len(message) - 2 - len(values)])
    for gradient, whole in zip(gradients, flat.split([one.numel() for one in gradients])):
        gradient.copy_(whole.view(gradient.shape))
    return Loss(found[0], dict(zip(loss.parts, found[1:]))), int(message[1])


def agreed(function: Callable[[], Value]) -> Value:
    """Return a function's value; what is not finite or too large for memory on a rank is raised on every rank.

    So all of them leave out the same step, or take the same batch in smaller parts. Where both happened, memory that
    ran out comes first. Any other error is raised here alone, and ends the others with this rank.
    """
    if ranks.size() == 1:
        return function()
    value, error = _attempt(function)
    found = torch.tensor(_gravity(error))
    dist.all_reduce(found, dist.ReduceOp.MAX)
    if error is not None and _gravity(error) == int(found):
        raise error
    if int(found) == _SHORT:
        raise ShortElsewhere("Memory ran out on another rank.")
    if int(found):
        raise FoundElsewhere("Another rank found values that are not finite.", "Look at that rank's own message.")
    return cast(Value, value)


def _attempt(function: Callable[[], Value]) -> tuple[Value | None, Exception | None]:
    """Return a function's value, or the error that all ranks are to hear of."""
    try:
        return function(), None
    except Exception as error:
        if not _gravity(error):
            raise
        # The traceback holds what the attempt had made.
        return None, error.with_traceback(None)


def _gravity(error: Exception | None) -> int:
    return _SHORT if error is not None and is_out_of_memory(error) else int(isinstance(error, NotFinite))


def total(x: Tensor) -> Tensor:
    """Return the sum over ranks, without gradient."""
    return _reduced(x, dist.ReduceOp.SUM) if ranks.is_sharing() else x


def least(x: Tensor) -> Tensor:
    """Return the smallest value over ranks, without gradient."""
    return _reduced(x, dist.ReduceOp.MIN) if ranks.is_sharing() else x


def most(n: int) -> int:
    """Return the largest of a number that every rank has."""
    if ranks.size() == 1:
        return n
    return int(_reduced(torch.tensor(n), dist.ReduceOp.MAX))


def any_of(mask: Tensor) -> Tensor:
    """Return where a mask is true on some rank."""
    return total(mask.int()) > 0 if ranks.is_sharing() else mask


def count(n: int) -> int:
    """Return the number of rows of all ranks, of which n are here."""
    return int(total(torch.tensor(n))) if ranks.is_sharing() else n


def before(n: int) -> int:
    """Return the number of rows on the ranks before this one, which has n."""
    return sum(_lengths(n)[: ranks.rank()]) if ranks.is_sharing() else 0


def share_of_total(x: Tensor, n: int) -> Tensor:
    """Return the sum over ranks times this rank's share, n, of all rows, without gradient."""
    return total(x) * (n / count(n)) if ranks.is_sharing() else x


def mean(x: Tensor, n: int) -> Tensor:
    """Return the mean over all rows, where ``x`` is the mean over n own rows; the gradient is that of ``x``."""
    if not ranks.is_sharing():
        return x
    return x + (total(x * n) / count(n) - x).detach()


def gathered(x: Tensor) -> Tensor:
    """Return all ranks' rows ``(n, …)`` in the order of ranks, of ``x (own, …)``, with their gradient."""
    if not ranks.is_sharing():
        return x
    found: Tensor = _Gathered.apply(x)
    return found


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        lengths = _lengths(len(own))
        ctx.first, ctx.own, ctx.all = sum(lengths[: ranks.rank()]), len(own), sum(lengths)
        # As many rows travel from each rank; what was added is cut off again.
        padded = own.new_zeros((max(lengths), *own.shape[1:]))
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded)
        return torch.cat([part[:length] for part, length in zip(parts, lengths)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # Every rank computes the same loss of all rows, and that loss is weighted by the rank's share of them.
        return gradients[0][ctx.first : ctx.first + ctx.own] * (ctx.all / ctx.own)


def _lengths(n: int) -> list[int]:
    """Return the number of rows on each rank, n on this one."""
    counts = torch.zeros(ranks.size(), dtype=torch.int64)
    counts[ranks.rank()] = n
    dist.all_reduce(counts)
    return [int(count) for count in counts]


def _reduced(x: Tensor, operation: Any) -> Tensor:
    found = x.detach().clone()
    dist.all_reduce(found, operation)
    return found
