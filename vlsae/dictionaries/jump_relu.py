"""JumpReLU autoencoder: each concept has a learned threshold, the penalty is L0 itself (arXiv 2407.14435).

Shapes: n rows of all streams, h concepts.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from vlsae.bounds import OneOf, Range
from vlsae.dictionaries.base import Count, OptionalCount
from vlsae.dictionaries.penalized import PenalizedDictionary
from vlsae.errors import UserError


class JumpReLU(PenalizedDictionary):
    """``a = z · 1[z > θ]`` of ``z = ReLU(W_e (x − b_d) + b_e)``, with the penalty ``Σ_i 1[z_i > θ_i]``.

    θ starts at ``threshold``; steps get a gradient in θ through a rectangular kernel of width ``bandwidth``.
    ``threshold_lr_scale`` is the learning rate of log θ beside the others'. ``sparsity`` and ``adapt``: the penalty's
    weight, which follows the active concepts to k. Other options as in TopK.
    """

    kind: ClassVar[str] = "jump_relu"

    def __init__(
        self,
        width: int,
        n_concepts: OptionalCount = None,
        k: OptionalCount = None,
        *,
        expansion: Count = 8,
        center: Annotated[str, OneOf("median", "mean", "zero")] = "median",
        input_norm: Annotated[str, OneOf("none", "rms")] = "rms",
        dead_after: Count = 1_000_000,
        auxiliary_weight: Annotated[float, Range(0, None)] = 0.0,
        sparsity: Annotated[float, Range(0, None)] = 0.1,
        adapt: Annotated[float, Range(0, None)] = 0.01,
        threshold: Annotated[float, Range(1e-9, None)] = 1e-3,
        bandwidth: Annotated[float, Range(1e-9, None)] = 1e-3,
        threshold_lr_scale: Annotated[float, Range(0, None)] = 1.0,
    ) -> None:
        super().__init__(
            width,
            n_concepts,
            k,
            expansion=expansion,
            center=center,
            input_norm=input_norm,
            dead_after=dead_after,
            auxiliary_weight=auxiliary_weight,
            sparsity=sparsity,
            adapt=adapt,
        )
        for name, value in (("threshold", threshold), ("bandwidth", bandwidth)):
            if not 0 < value < math.inf:
                raise UserError(f"{name} must be a finite number above 0; got {value}.")
        self.threshold, self.bandwidth, self.threshold_lr_scale = threshold, bandwidth, threshold_lr_scale
        self.log_threshold = nn.Parameter(torch.full((self.n_concepts,), math.log(threshold)))

    def settings(self) -> dict[str, Any]:
        """Return the constructor's arguments that give a dictionary of this form."""
        options = ("threshold", "bandwidth", "threshold_lr_scale")
        return {**super().settings(), **{name: getattr(self, name) for name in options}}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return two optimiser groups: the thresholds have a learning rate of their own."""
        others = [one for name, one in self.named_parameters() if name != "log_threshold"]
        return [{"params": others}, {"params": [self.log_threshold], "lr_scale": self.threshold_lr_scale}]

    def _code(self, activations: Tensor) -> Tensor:
        code: Tensor = _Jump.apply(activations, self.log_threshold.to(activations).exp(), self.bandwidth)
        return code

    def _penalty(self, active: Tensor, code: Tensor) -> Tensor:
        step: Tensor = _Step.apply(active, self.log_threshold.to(active).exp(), self.bandwidth)
        return step.sum(dim=1)


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
