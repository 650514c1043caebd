"""Training: the one loop, its step, schedule and checkpoints."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"vlsae.training.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'vlsae.training' has no attribute {name!r}")
