"""The processes that share one stage, its ranks: which of them this is, and how they hear of each other."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Thing = TypeVar("Thing")

#: Whoever started the ranks notices one that ends, so that waiting for the others needs no limit of its own.
PATIENCE = timedelta(days=7)

#: What torchrun tells each of the processes that it starts.
_TOLD = ("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass
class _Place:
    rank: int = 0
    size: int = 1
    sharing: bool = False


_place = _Place()


def started_by_torchrun() -> bool:
    """Tell whether torchrun started this process as one of several ranks."""
    return all(name in os.environ for name in _TOLD)


@contextmanager
def joined(cuda: bool = False) -> Iterator[None]:
    """Be one of the ranks that torchrun started, connected with the others: by gloo, GPUs by NCCL."""
    import torch.distributed as dist

    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=PATIENCE)
    _place.rank, _place.size = dist.get_rank(), dist.get_world_size()
    try:
        yield
    finally:
        _place.rank, _place.size = 0, 1
        dist.destroy_process_group()


def rank() -> int:
    """Return the number of this rank, from 0."""
    return _place.rank


def size() -> int:
    """Return the number of ranks; 1 for a process alone."""
    return _place.size


def is_first() -> bool:
    """Tell whether this is rank 0, the one that writes, or a process alone."""
    return _place.rank == 0


def local_rank() -> int:
    """Return the number of this rank on its machine, which is that of its GPU."""
    return int(os.environ["LOCAL_RANK"]) if _place.size > 1 else 0


def part(n: int) -> range:
    """Return which of n things in order are this rank's; all of them where there are fewer than ranks."""
    if n < _place.size:
        return range(n)
    return range(n * _place.rank // _place.size, n * (_place.rank + 1) // _place.size)


@contextmanager
def sharing(on: bool = True) -> Iterator[None]:
    """Within the context each rank holds its own part of a batch's rows (:mod:`vlsae.training.parts`)."""
    before, _place.sharing = _place.sharing, on and _place.size > 1
    try:
        yield
    finally:
        _place.sharing = before


def is_sharing() -> bool:
    """Tell whether the rows at hand are a part of a batch that all ranks hold together."""
    return _place.sharing


def barrier() -> None:
    """Wait until every rank is here."""
    gather(None)
    broadcast_object(None)


def gather(thing: Thing) -> list[Thing]:
    """Return to rank 0 what every rank has given, in their order; to the others nothing."""
    if _place.size == 1:
        return [thing]
    import torch.distributed as dist

    found: list[Any] | None = [None] * _place.size if is_first() else None
    dist.gather_object(thing, found)
    return found or []


def broadcast_object(thing: Thing) -> Thing:
    """Return what rank 0 has given."""
    if _place.size == 1:
        return thing
    import torch.distributed as dist

    found: list[Any] = [thing]
    dist.broadcast_object_list(found, src=0)
    answer: Thing = found[0]
    return answer


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Bring tensors to rank 0's values, in place."""
    if _place.size == 1:
        return
    import torch
    import torch.distributed as dist

    with torch.no_grad():
        for tensor in tensors:
            values = tensor.detach().contiguous()
            dist.broadcast(values, src=0)
            tensor.copy_(values)


def add_up(counts: Mapping[str, int]) -> dict[str, int]:
    """Return to rank 0 the sums of counts by name; to the others nothing."""
    parts = gather(dict(counts))
    return {name: sum(one.get(name, 0) for one in parts) for one in parts for name in one}
