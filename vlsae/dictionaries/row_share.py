"""A share of a batch's rows, evenly spaced, that stands for all of them.

Where each row is taken equally often, ``Σ_taken v / share`` is an unbiased estimate of the sum of a value over all rows
(Horvitz and Thompson, 1952), and so is its gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlsae.training import parts as of_all_ranks


def evenly_spaced(sizes: list[int], share: float, step: int = 0) -> Tensor | None:
    """Return the rows ``(r,)`` that are taken of streams of ``sizes``, which lie one after another; None: every row.

    Row i of a stream's batch is taken where ``⌊(i + step + 1) share⌋`` is above ``⌊(i + step) share⌋``: every second
    one for a half, and at the next step the others, so that no place in a batch is left out for good. Over several
    ranks i counts the rows of all of them: they take the rows that one process takes.
    """
    if share == 1:
        return None
    taken, first = [], 0
    for size in sizes:
        places = torch.arange(size + 1, dtype=torch.float64) + (of_all_ranks.before(size) + step)
        taken.append(first + places.mul_(share).floor_().diff().nonzero()[:, 0])
        first += size
    return torch.cat(taken)
