"""Refusing batches whose rows cannot be learned from, by row."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vlsae.errors import UserError

#: Rows that a message lists before it only counts.
LISTED = 8


class NotFinite(UserError):
    """A batch, its loss or its gradient holds a value that is not finite."""


class InvalidRows(UserError):
    """Rows of a batch that cannot be used: ``stream`` and ``mask (n,)``, true where a row is at fault."""

    def __init__(self, what: str, stream: str, mask: Tensor, names: list[str] | None = None) -> None:
        self.what, self.stream, self.mask = what, stream, mask
        listed = names if names is not None else [str(row) for row in mask.nonzero()[: LISTED + 1, 0].tolist()]
        total = int(mask.sum())
        words = ", ".join(listed[:LISTED]) + (f" and {total - LISTED} more" if total > LISTED else "")
        super().__init__(
            f"{what} in {stream}, {'row' if total == 1 else 'rows'} {words}.",
            "Every row must be finite and differ from zero: mend or leave out these rows.",
        )


class NotFiniteRows(InvalidRows, NotFinite):
    """Rows of a batch that hold values that are not finite."""


def check_finite(x: Tensor, stream: str) -> None:
    """Raise :class:`NotFiniteRows` where a row of ``x (n, ...)`` holds a value that is not finite."""
    # One reduction decides the usual case: a sum of finite values can overflow, so only a bad sum looks closer.
    if torch.isfinite(x.detach().sum()):
        return
    bad = ~torch.isfinite(x.detach()).flatten(1).all(dim=1)
    if bad.any():
        raise NotFiniteRows("values that are not finite", stream, bad)


def check_batch(batch: Any) -> None:
    """Raise :class:`NotFiniteRows` where a batch holds a row that is not finite; integer tensors always pass."""
    for stream, x in tensors(batch).items():
        if x.is_floating_point() and x.ndim > 0:
            check_finite(x.unsqueeze(1) if x.ndim == 1 else x, stream)


def tensors(batch: Any) -> dict[str, Tensor]:
    """Return the tensors of a batch by stream: of a mapping, or of a dataclass of model inputs."""
    if isinstance(batch, Mapping):
        items = list(batch.items())
    elif dataclasses.is_dataclass(batch):
        items = [(field.name, getattr(batch, field.name)) for field in dataclasses.fields(batch)]
    else:
        raise UserError(f"A batch must map streams to tensors; got {type(batch).__name__}.")
    return {name: value for name, value in items if isinstance(value, Tensor)}


def to_device(batch: Any, device: torch.device) -> Any:
    """Return the batch with its tensors on the device; the batch itself stays as it is."""
    moved = {name: value.to(device, non_blocking=True) for name, value in tensors(batch).items()}
    if isinstance(batch, Mapping):
        return {**batch, **moved}
    return dataclasses.replace(batch, **moved)


def count_rows(batch: Any) -> int:
    """Return the number of rows of a batch: those of its first stream."""
    return next(iter(tensors(batch).values())).shape[0]
