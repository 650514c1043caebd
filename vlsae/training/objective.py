"""What the training loop asks of an objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from vlsae.training.adam import Adam


class Loss(NamedTuple):
    """``total`` is differentiated; ``parts`` are logged (name → scalar tensor)."""

    total: Tensor
    parts: dict[str, Tensor]


class Objective(nn.Module, ABC):
    """Something to minimise: a dictionary on representations or a learner on samples."""

    #: ``"representations"``: batches map stream → (n, d); ``"samples"``: batches are model inputs.
    source: str = "representations"

    #: The unit of the loss.
    loss_unit: str = "squared units"

    #: Whether ranks that hold a part of the rows each come to the loss of all rows (:mod:`vlsae.training.parts`).
    over_ranks: ClassVar[bool] = False

    @abstractmethod
    def loss(self, batch: Any, step: int = 0) -> Loss:
        """Return the loss of a batch at a step."""

    def loss_weight(self, batch: Any) -> float | None:
        """Return a batch's weight where a loss is the weighted mean of the losses of the parts its batch is cut into.

        None where it is no such mean, or asks other ranks: then a batch cannot be taken in parts.
        """
        return None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return optimiser groups; a group may set its own ``lr_scale`` and ``weight_decay``."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def optimizer(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        """Return the method's own optimiser over the groups; Adam without weight decay unless overridden."""
        return Adam(groups, lr)

    def after_step(self, step: int) -> None:
        """Keep constraints after an optimiser step; nothing by default."""

    def held_out(self, reader: Any) -> dict[str, Any]:
        """Return a learner's own measures on held-out samples, by name; none by default."""
        return {}

    def product(self) -> Any:
        """Return what the training made: a dictionary or a model."""
        return self
