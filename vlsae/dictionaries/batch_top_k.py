"""BatchTopK: the batch as a whole has k active concepts a row, a single row more or fewer (arXiv 2412.06410).

Shapes: n rows of all streams, h concepts.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from vlsae.bounds import Range, check_finite_number
from vlsae.dictionaries.base import OptionalCount
from vlsae.dictionaries.centered import CenteredDictionary
from vlsae.training import parts as of_all_ranks


class BatchTopK(CenteredDictionary):
    """TopK autoencoder that keeps the ``n · k`` largest activations of a training batch, of all streams together.

    Outside training an activation is kept above ``threshold``, the running mean over batches of the smallest one kept;
    ``threshold_decay`` is the share of the mean that each batch leaves. Before the first step it is 0 and keeps all.
    Other options as in TopK.
    """

    kind: ClassVar[str] = "batch_top_k"
    bounds_k: ClassVar[bool] = False
    threshold: Tensor
    batches: Tensor

    def __init__(
        self,
        width: int,
        n_concepts: OptionalCount = None,
        k: OptionalCount = None,
        *,
        threshold_decay: Annotated[float, Range(0, 1)] = 0.99,
        **options: Any,
    ) -> None:
        super().__init__(width, n_concepts, k, **options)
        check_finite_number("threshold_decay", threshold_decay, low=0, high=1)
        self.threshold_decay = threshold_decay
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self._smallest: Tensor | None = None

    def after_step(self, step: int) -> None:
        """Keep the constraints of TopK and carry the threshold on."""
        super().after_step(step)
        if self._smallest is not None:
            self.batches.add_(1)
            # The mean of the batches so far, until there are enough for the decay to matter: no pull towards zero.
            share = (1 / self.batches.double()).clamp(min=1 - self.threshold_decay)
            self.threshold.lerp_(self._smallest.to(self.threshold), share.to(self.threshold))
            self._smallest = None

    def _coded(self, x: Tensor, training: bool = False) -> tuple[Tensor, Tensor]:
        active = self._activate(x, "vision")
        if not training:
            return active, active * (active > self.threshold)
        flat, kept = active.flatten(), of_all_ranks.count(len(x)) * self.k
        values, indices = flat.topk(min(kept, len(flat)))
        if kept > len(x) * self.k:
            # Each of several ranks keeps those of its own that are among the largest of all.
            values = values * (values >= of_all_ranks.gathered(values.detach()).topk(kept).values[-1])
        code = torch.zeros_like(flat).scatter(0, indices, values).view_as(active)
        if torch.is_grad_enabled():
            self._smallest = of_all_ranks.least(_smallest_above_zero(values.detach(), self.threshold))
        return active, code


def _smallest_above_zero(values: Tensor, otherwise: Tensor) -> Tensor:
    smallest = torch.where(values > 0, values, torch.inf).amin()
    return torch.where(smallest.isinf(), otherwise.to(smallest), smallest)
