"""Learning-rate factors by epoch (VL-SAE paper, training appendix; published code)."""

from __future__ import annotations

import math
from numbers import Integral

from vlsae.errors import UserError, unknown

#: ``fixed`` still moves in the last epoch; ``reference`` is the published code's, whose last epoch has rate 0;
#: ``cosine`` falls from the first epoch on, or from the end of the warm-up.
SCHEDULES = ("fixed", "reference", "cosine")


def epoch_factors(schedule: str, epochs: int, warmup_epochs: int = 2) -> list[float]:
    """Return the learning-rate factor of each epoch: a linear warm-up, then half a cosine.

    In the warm-up epoch e has factor ``(e + 1) / warmup_epochs``; from its last epoch p on,
    ``(1 + cos(π (e − p) / T)) / 2`` with T = ``epochs − warmup_epochs`` (``reference``), one more (``fixed``), or
    ``epochs − p`` (``cosine``). Raises ``ValueError`` for an unknown schedule, no epoch or a negative warm-up.
    """
    if schedule not in SCHEDULES:
        raise unknown("schedule", schedule, SCHEDULES)
    for name, value, least in (("epochs", epochs, 1), ("warmup_epochs", warmup_epochs, 0)):
        if not isinstance(value, Integral) or value < least:
            raise UserError(f"{name} must be an integer of at least {least}; got {value!r}.")
    peak = max(warmup_epochs - 1, 0)
    period = {
        "fixed": epochs - warmup_epochs + 1,
        "reference": epochs - warmup_epochs,
        "cosine": epochs - peak,
    }[schedule]

    def factor(epoch: int) -> float:
        if epoch < peak:
            return (epoch + 1) / warmup_epochs
        if epoch == peak:
            return 1.0
        return (1 + math.cos(math.pi * (epoch - peak) / period)) / 2

    return [factor(epoch) for epoch in range(epochs)]
