"""Training: the one loop, its step, schedule and checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlsae import lazy

if TYPE_CHECKING:
    from vlsae.training.loop import FitResult, fit
    from vlsae.training.objective import Loss, Objective
    from vlsae.training.schedule import epoch_factors
    from vlsae.training.step import build_optimizer, train_step

_HOMES = {
    "FitResult": "loop",
    "Loss": "objective",
    "Objective": "objective",
    "build_optimizer": "step",
    "epoch_factors": "schedule",
    "fit": "loop",
    "train_step": "step",
}

__all__ = ["FitResult", "Loss", "Objective", "build_optimizer", "epoch_factors", "fit", "train_step"]

__getattr__ = lazy.exports(__name__, _HOMES)
