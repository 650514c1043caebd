"""Losses and gradients of a batch, taken in parts where memory is too small for all of it at once."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from vlsae.errors import UserError
from vlsae.memory import after_shortage, is_out_of_memory
from vlsae.training.objective import Loss, Objective
from vlsae.training.parts import agreed, most
from vlsae.training.rows import NotFinite, count_rows, tensors

logger = logging.getLogger(__name__)


class Accumulation:
    """In how many parts batches are taken: one, and twice as many wherever memory runs out.

    Loss and gradient are those of the whole batch, its loss being the weighted mean of its parts'
    (``Objective.loss_weight``). Both raise ``UserError`` where memory runs out and a batch cannot be taken in smaller
    parts. Of several ranks all take as many parts, wherever memory ran out, and the first one says so.
    """

    def __init__(self) -> None:
        self.parts = 1

    def backward(self, objective: Objective, batch: Any, step: int, autocast: torch.dtype | None = None) -> Loss:
        """Put a batch's gradient into the parameters and return its loss, detached; :class:`NotFinite` for the loss."""

        def take(piece: Any, share: float) -> Loss:
            loss = _loss(objective, piece, step, autocast)
            if not torch.isfinite(loss.total.detach()):
                raise NotFinite(
                    f"The loss at step {step} is {loss.total.item()}.", "Lower the learning rate or set clip."
                )
            (loss.total if share == 1 else loss.total * share).backward()
            return loss

        return self._taken(objective, batch, step, take)

    def loss(self, objective: Objective, batch: Any, step: int, autocast: torch.dtype | None = None) -> Loss:
        """Return a batch's loss, detached."""
        return self._taken(objective, batch, step, lambda piece, share: _loss(objective, piece, step, autocast))

    def _taken(self, objective: Objective, batch: Any, step: int, take: Callable[[Any, float], Loss]) -> Loss:
        def attempt() -> Loss:
            try:
                return _mean(objective, batch, self.parts, take)
            except Exception as error:
                if is_out_of_memory(error):
                    self._check_divisible(objective, batch, step)
                raise

        while True:
            try:
                return agreed(attempt)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            # Outside of the handler: the traceback holds what the attempt had made.
            objective.zero_grad(set_to_none=True)
            self._take_smaller_parts(batch, step)

    def _check_divisible(self, objective: Objective, batch: Any, step: int) -> None:
        """Raise ``UserError`` where a batch cannot be taken in more parts.

        Raised on the rank that is short alone: others may wait for it within a loss of all ranks, and end with it.
        """
        rows = _common_rows(batch)
        if rows is None or _weight(objective, batch) is None:
            raise UserError(
                f"Memory ran out at step {step}, and the loss of {type(objective).__name__} is no mean over rows: its "
                "batch cannot be taken in parts.",
                "Use a smaller train.batch_size, which changes what is learned, or a machine with more memory.",
            )
        if self.parts >= rows:
            raise UserError(
                f"Memory ran out at step {step} on {-(-rows // self.parts)} rows of a batch.",
                "Use a smaller objective, or a machine with more memory.",
            )

    def _take_smaller_parts(self, batch: Any, step: int) -> None:
        self.parts = min(2 * self.parts, most(count_rows(batch)))
        logger.warning(
            "memory ran out at step %d; each batch is now taken in %d parts, whose gradients add up to its own but for "
            "rounding",
            step,
            self.parts,
        )
        after_shortage()


def _mean(objective: Objective, batch: Any, parts: int, take: Callable[[Any, float], Loss]) -> Loss:
    """Return the weighted mean of the losses that are taken of a batch's parts, each given its share, detached."""
    if parts == 1:
        return _scaled(take(batch, 1.0), 1.0)
    weighted = [(piece, weight) for piece in _pieces(batch, parts) if (weight := _weight(objective, piece))]
    whole = sum(weight for _, weight in weighted)
    losses = [_scaled(take(piece, weight / whole), weight / whole) for piece, weight in weighted]
    names = losses[0].parts
    return Loss(
        torch.stack([loss.total for loss in losses]).sum(),
        {name: torch.stack([loss.parts[name] for loss in losses]).sum() for name in names},
    )


def _weight(objective: Objective, batch: Any) -> float | None:
    """Return what the objective says of a batch's weight; a class with a loss of its own must say it anew."""
    own = next(one for one in type(objective).__mro__ if "loss" in vars(one) or "loss_weight" in vars(one))
    return objective.loss_weight(batch) if "loss_weight" in vars(own) else None


def _loss(objective: Objective, batch: Any, step: int, autocast: torch.dtype | None) -> Loss:
    device = next(objective.parameters()).device
    with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
        return objective.loss(batch, step)


def _scaled(loss: Loss, share: float) -> Loss:
    parts = {name: value.detach() * share for name, value in loss.parts.items()}
    return Loss(loss.total.detach() * share, parts)


def _common_rows(batch: Any) -> int | None:
    """Return the number of rows that all tensors of a batch have, None where they have different ones."""
    counts = {value.shape[0] if value.ndim else None for value in tensors(batch).values()}
    return counts.pop() if len(counts) == 1 else None


def _pieces(batch: Any, parts: int) -> list[Any]:
    chunks = {name: value.tensor_split(parts) for name, value in tensors(batch).items()}
    return [_with(batch, {name: several[part] for name, several in chunks.items()}) for part in range(parts)]


def _with(batch: Any, changed: Mapping[str, Tensor]) -> Any:
    return {**batch, **changed} if isinstance(batch, Mapping) else dataclasses.replace(batch, **changed)
