"""Texts of like length together, so that a batch of short and long ones spends little on padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vlsae.models.base import Batch, Rows, TextBatch

#: Texts of one group differ in length by at most this factor, unless the group would be smaller than ``LEAST``.
SPREAD = 1.25
LEAST = 16


def length_groups(lengths: Tensor) -> list[Tensor]:
    """Return the numbers of texts ``(c,)`` in groups of like length, shortest first; a pure function of the lengths."""
    order = torch.argsort(lengths, stable=True)
    groups: list[list[int]] = []
    for number in order.tolist():
        if not groups or (len(groups[-1]) >= LEAST and lengths[number] > SPREAD * lengths[groups[-1][0]]):
            groups.append([])
        groups[-1].append(number)
    return [torch.tensor(sorted(group)) for group in groups]


def part_of(batch: Batch, numbers: Tensor) -> TextBatch:
    """Return some texts of a batch, without the padding that they all have."""
    assert isinstance(batch, TextBatch)
    assert isinstance(batch.mask, Tensor)
    mask = batch.mask[numbers]
    length = int(mask.sum(dim=1).max())
    cut = {name: getattr(batch, name)[numbers, :length] for name in ("language", "role")}
    return TextBatch(mask=mask[:, :length], **cut)


def joined(parts: Sequence[tuple[Tensor, Rows]]) -> Rows:
    """Return the rows of all groups in the order of the texts; each part comes with its texts' numbers."""
    if len(parts) == 1:
        return parts[0][1]
    sample = torch.cat([numbers[rows.sample] for numbers, rows in parts])
    order = torch.argsort(sample, stable=True)
    values = torch.cat([rows.values for _, rows in parts])
    extra: dict[str, Tensor] = {}
    for name in ("token", "role"):
        found = [getattr(rows, name) for _, rows in parts]
        if found[0] is not None:
            extra[name] = torch.cat(found)[order]
    position = torch.cat([rows.position for _, rows in parts])
    return Rows(values[order.to(values.device)], sample[order], position[order], **extra)
