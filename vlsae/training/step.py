"""One step of the one training loop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vlsae.errors import UserError
from vlsae.training.gradients import Accumulation
from vlsae.training.objective import Loss, Objective
from vlsae.training.parts import agreed, merged
from vlsae.training.rows import NotFinite, check_batch, count_rows


def build_optimizer(objective: Objective, lr: float) -> torch.optim.Optimizer:
    """Return the method's own optimiser over ``objective.parameter_groups()``.

    A group's ``lr_scale`` scales ``lr``. Raises ``ValueError`` where ``lr`` is negative or not finite.
    """
    if not 0 <= lr < float("inf"):
        raise UserError(f"lr must be a finite number of at least 0; got {lr}.")
    optimizer = objective.optimizer(objective.parameter_groups(), lr)
    set_learning_rate(optimizer, lr)
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group, scaled by the group's ``lr_scale``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def train_step(
    objective: Objective,
    batch: Any,
    optimizer: torch.optim.Optimizer,
    step: int = 0,
    *,
    clip: float | None = None,
    autocast: torch.dtype | None = None,
    accumulation: Accumulation | None = None,
) -> Loss:
    """Take one whole step: loss, gradients, optimiser, the objective's constraints and statistics.

    ``batch`` maps stream → ``(n, d)``, or is a model's inputs; ``clip`` bounds the norm of all gradients together;
    ``accumulation`` keeps, from step to step, in how many parts batches fit into memory. Where ranks hold a part of the
    batch each, loss and gradients are those of all of it.
    Returns the loss from before the update, detached. Raises :class:`NotFinite`, the weights untouched, where a row of
    the batch, the loss or a gradient is not finite.
    """
    agreed(lambda: check_batch(batch))
    optimizer.zero_grad(set_to_none=True)
    loss = (accumulation or Accumulation()).backward(objective, batch, step, autocast)
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    rows = count_rows(batch)
    loss, _ = merged(loss, objective.loss_weight(batch) or rows, rows, gradients)
    _clip(optimizer, gradients, clip, step)
    optimizer.step()
    with torch.no_grad():
        objective.after_step(step)
    return loss


def _clip(optimizer: torch.optim.Optimizer, gradients: list[Tensor], clip: float | None, step: int) -> None:
    if not gradients:
        raise UserError("The loss has a gradient in no parameter that the optimiser holds.")
    norm: Tensor = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
    if not torch.isfinite(norm):
        optimizer.zero_grad(set_to_none=True)
        raise NotFinite(
            f"The gradient at step {step} is not finite; the weights are untouched.",
            "Lower the learning rate or set clip.",
        )
    if clip is not None and norm > clip:
        torch._foreach_mul_(gradients, clip / norm)
