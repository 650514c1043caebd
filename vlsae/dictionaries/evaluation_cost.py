"""What an evaluation will cost, said before it starts: timed on a few rows, memory by what is held at once.

n rows, d width, h concepts, B resamples, F factors.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from vlsae.dictionaries.base import Dictionary
from vlsae.dictionaries.codes import ELEMENTS_AT_ONCE
from vlsae.dictionaries.recovery import DENSE_ELEMENTS
from vlsae.dictionaries.removal import MOST_FACTORS, MOST_ROWS

#: Rows that are coded and decoded to see how long a row takes.
TIMED = 256

#: How often an evaluation codes every row: for reconstruction, usage, recovery beside a random dictionary, the rest.
PASSES = 8


class Cost(NamedTuple):
    """Seconds and bytes of memory at most that an evaluation takes, about."""

    seconds: float
    bytes: int

    def __str__(self) -> str:
        return f"about {max(0.1, self.seconds / 60):.1f} minutes and at most {self.bytes / 2**30:.1f} GB of memory"


@torch.no_grad()
def evaluation_cost(
    dictionary: Dictionary, values: Mapping[str, Tensor], *, factors: int = 0, resamples: int = 200
) -> Cost:
    """Return the cost of evaluating a dictionary on rows ``(n, d)`` by stream, with F factors or none."""
    d, h = dictionary.width, dictionary.n_concepts
    seconds, held = 0.0, 0
    for stream, x in values.items():
        some = x[:TIMED]
        start = time.perf_counter()
        code = dictionary.encode(some, stream)
        dictionary.decode(code, stream)
        row = (time.perf_counter() - start) / max(1, len(some))
        n, active = len(x), len(code.values) / max(1, len(some))
        seconds += row * (PASSES * n + (2 * min(factors, MOST_FACTORS) * min(n, MOST_ROWS)))
        # Bootstrap sums of d + 2 columns twice over; probes on raw rows cost about n · d² each.
        seconds += 4e-10 * n * resamples * 2 * (d + 2) + 2e-9 * factors * n * d * min(d, 512)
        held += int(n * (12 * active + 24 * d)) + 8 * resamples * 2 * (d + 2)
    dense = min(DENSE_ELEMENTS, max((len(x) for x in values.values()), default=0) * h) if factors else 0
    return Cost(seconds, held + 8 * ELEMENTS_AT_ONCE * 3 + 12 * dense + 8 * h * d * 3)
