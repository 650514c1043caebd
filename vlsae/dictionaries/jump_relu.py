"""JumpReLU autoencoder: each concept has a learned threshold, the penalty is L0 itself (arXiv 2407.14435).

Shapes: n rows of all streams, h concepts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from vlsae.bounds import OneOf, Range, check_finite_number
from vlsae.dictionaries.base import OptionalCount, one_of
from vlsae.dictionaries.penalized import PenalizedDictionary
from vlsae.errors import UserError
from vlsae.training import parts as of_all_ranks
from vlsae.training.adam import Adam

PENALTIES = ("target", "l0")


class JumpReLU(PenalizedDictionary):
    """``a = z · 1[z > θ]`` of ``z = ReLU(W_e (x − b_d) + b_e)``, with a penalty on ``L0 = Σ_i 1[z_i > θ_i]``.

    ``penalty=target`` adds ``sparsity · (L0 / k − 1)²`` of each stream's mean L0, which draws L0 to k from either side;
    ``l0`` adds ``λ · L0 / d``, λ from ``sparsity`` on as ``adapt`` says. Either grows linearly over the first
    ``penalty_warmup`` steps. ``threshold`` is θ at the start (None: where the first rows have k active concepts),
    ``bandwidth`` the width of the kernel through which steps get a gradient in θ; both are meant for rows of length 1
    on average, as in the paper, and are multiplied by √d where ``input_norm=rms``. ``threshold_lr_scale`` is the
    learning rate of log θ beside the others'. Other options as in PenalizedDictionary.
    """

    kind: ClassVar[str] = "jump_relu"

    def __init__(
        self,
        width: int,
        n_concepts: OptionalCount = None,
        k: OptionalCount = None,
        *,
        penalty: Annotated[str, OneOf(*PENALTIES)] = "target",
        penalty_warmup: Annotated[int, Range(0, None)] = 10_000,
        adapt: Annotated[float, Range(0, None)] = 0.0,
        threshold: Annotated[float | None, Range(1e-9, None)] = 1e-3,
        bandwidth: Annotated[float, Range(1e-9, None)] = 1e-3,
        threshold_lr_scale: Annotated[float, Range(0, None)] = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(width, n_concepts, k, adapt=adapt, penalty_warmup=penalty_warmup, **options)
        self.penalty = one_of("penalty", penalty, PENALTIES)
        if penalty == "target" and adapt > 0:
            raise UserError(f"adapt={adapt} is for penalty=l0; penalty=target aims at k itself.", "Leave adapt at 0.")
        for name, value in (("threshold", 1.0 if threshold is None else threshold), ("bandwidth", bandwidth)):
            if not 0 < value < math.inf:
                raise UserError(f"{name} must be a finite number above 0; got {value}.")
        check_finite_number("threshold_lr_scale", threshold_lr_scale, low=0)
        self.threshold, self.bandwidth = threshold, bandwidth
        self.threshold_lr_scale = threshold_lr_scale
        #: What stands for 1 among rows of length 1 on average.
        self._unit = math.sqrt(width) if self.input_norm == "rms" else 1.0
        start = math.log((1e-3 if threshold is None else threshold) * self._unit)
        self.log_threshold = nn.Parameter(torch.full((self.n_concepts,), start))

    def initialize(self, batch: Mapping[str, Tensor]) -> None:
        """Measure the rows' size and centre, and where no threshold is given, the one that leaves k active concepts."""
        super().initialize(batch)
        if self.threshold is None:
            self.log_threshold.data.fill_(self._exceeded_by_k(batch).clamp(min=1e-6).log().item())

    def optimizer(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        """Return Adam without momentum, as published."""
        return Adam(groups, lr, betas=(0.0, 0.999))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return two optimiser groups: the thresholds have a learning rate of their own."""
        others = [one for name, one in self.named_parameters() if name != "log_threshold"]
        return [{"params": others}, {"params": [self.log_threshold], "lr_scale": self.threshold_lr_scale}]

    def _code(self, activations: Tensor) -> Tensor:
        code: Tensor = _Jump.apply(activations, self._threshold(activations), self.bandwidth * self._unit)
        return code

    def _penalty(self, active: Tensor, code: Tensor) -> Tensor:
        step: Tensor = _Step.apply(active, self._threshold(active), self.bandwidth * self._unit)
        return step.sum(dim=1)

    def _terms(
        self, x: Tensor, active: Tensor, code: Tensor, sizes: list[int], parts: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        if self.penalty == "target":
            counts = self._penalty(active, code).split(sizes)
            means = [of_all_ranks.mean(count.mean(), len(count)) for count in counts]
            off = torch.stack([(mean / self.k - 1).square() for mean in means])
            return {"loss/sparsity": self.sparsity_weight * off.sum() * self._grown()}
        return super()._terms(x, active, code, sizes, parts)

    def _threshold(self, like: Tensor) -> Tensor:
        return self.log_threshold.to(like).exp()


class _Step(torch.autograd.Function):
    """``1[z > θ]``; its gradient in θ is ``−1/ε`` where ``|z − θ| < ε/2``, that in z is 0."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth = bandwidth
        return (z > threshold).to(z)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (upstream,) = gradients
        z, threshold = ctx.saved_tensors
        return None, -_near(z, threshold, ctx.bandwidth, upstream) / ctx.bandwidth, None


class _Jump(torch.autograd.Function):
    """``z · 1[z > θ]``; its gradient in θ is ``−θ/ε`` where ``|z − θ| < ε/2``."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth = bandwidth
        return z * (z > threshold)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (upstream,) = gradients
        z, threshold = ctx.saved_tensors
        for_threshold = -threshold / ctx.bandwidth * _near(z, threshold, ctx.bandwidth, upstream)
        return upstream * (z > threshold), for_threshold, None


def _near(z: Tensor, threshold: Tensor, bandwidth: float, upstream: Tensor) -> Tensor:
    """Return the sum ``(h,)`` of what comes back from values within half the bandwidth of the threshold."""
    return (upstream * ((z - threshold).abs() < bandwidth / 2)).sum(dim=0)
