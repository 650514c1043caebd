"""Models kept over a training, under ``series/step-NNNNNNNN/``, each loadable as the one at its end."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vlsae.training.objective import Objective

SERIES = "series"


def kept_steps(total: int, kept: int) -> list[int]:
    """Return at most ``kept`` steps of ``total``, ascending: 0, before the first, and others spaced by ratio."""
    return sorted({0, *(round(float(one)) for one in np.geomspace(1, total, kept - 1))})


def keeper(objective: Objective, run: Path, total: int, kept: int) -> Callable[[int], None] | None:
    """Return what writes the objective's product into the run's series where a step is to be kept; None for none."""
    if kept == 0:
        return None
    steps = frozenset(kept_steps(total, kept))

    def keep(step: int) -> None:
        if step in steps:
            objective.product().save_pretrained(run / SERIES / f"step-{step:08d}")

    return keep


def series_of(run: Path) -> dict[int, Path]:
    """Return the folder of each kept model by its step, ascending; none where nothing was kept."""
    found = {}
    for folder in sorted((run / SERIES).glob("step-*")):
        if re.fullmatch(r"step-\d+", folder.name):
            found[int(folder.name.removeprefix("step-"))] = folder
    return found
