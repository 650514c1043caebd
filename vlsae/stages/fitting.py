"""The training loop inside a run: checkpoints, metrics and progress go where the run keeps them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from vlsae import ranks
from vlsae.progress import progress
from vlsae.stages.hardware import device_of

if TYPE_CHECKING:
    from vlsae.loggers import Logger
    from vlsae.runs import Measure, Run
    from vlsae.training import FitResult

Made = TypeVar("Made")


def fit_in_run(
    objective: Any,
    readers: Mapping[str, Any],
    config: Mapping[str, Any],
    run: Run,
    second: Logger,
    prefix: str = "",
    **changes: Any,
) -> FitResult:
    """Fit an objective on the run's device by its ``train`` node and leave it there; ``second`` gets the metrics too.

    ``changes`` replace single settings; ``prefix`` sets apart one training of several in a run.
    """
    from vlsae.training import fit
    from vlsae.training.series import keeper

    settings = {**config["train"], **changes}
    objective.to(device_of(config))
    folder = run.path / "checkpoints" / prefix if prefix else run.path / "checkpoints"
    names = f"{prefix}/" if prefix else ""

    def log(step: int, epoch: float, split: str, values: Mapping[str, float]) -> None:
        named = {names + name: value for name, value in values.items()}
        run.log_metrics(step, epoch, split, **named)
        second.log(step, epoch, split, named)

    total = settings["epochs"] * readers["train"].steps_per_epoch
    with progress(prefix or "train", total, "steps") as advance:
        return fit(
            objective,
            readers["train"],
            epochs=settings["epochs"],
            lr=settings["lr"],
            schedule=settings["schedule"],
            warmup_epochs=settings["warmup_epochs"],
            run_directory=folder,
            log=log if ranks.is_first() else None,
            validation=readers["validation"],
            patience=settings["patience"],
            checkpoint_every=settings["checkpoint_every"],
            log_every=settings["log_every"],
            clip=settings["clip"],
            seed=config["seed"],
            resume=True,
            progress=advance if ranks.is_first() else None,
            on_resume=lambda step: run.truncate_metrics(step, f"{names}loss"),
            keep=None if prefix or not ranks.is_first() else keeper(objective, run.path, total, settings["keep"]),
        )


def seeded(seed: int, make: Callable[[], Made]) -> Made:
    """Make an object whose random start depends on the seed alone, whatever was drawn before."""
    import torch

    torch.manual_seed(seed)
    return make()


def training_metrics(result: FitResult, unit: str = "squared units") -> dict[str, Measure]:
    """Return what the summary says of the training itself; ``unit`` is that of the loss."""
    from vlsae.runs import Measure

    return {
        "steps": Measure(result.steps, "steps"),
        "best_epoch": Measure(result.best_epoch, "epochs"),
        "loss/validation": Measure(result.best_loss, unit),
        "skipped_steps": Measure(result.skipped, "steps with values that are not finite"),
    }
