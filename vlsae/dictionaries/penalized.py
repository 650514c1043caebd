"""What autoencoders with a sparsity penalty share: its weight, and how the weight finds the sparsity asked for.

Shapes: n rows of all streams, d width, h concepts, k active concepts.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from vlsae.bounds import OneOf, Range, check_finite_number
from vlsae.dictionaries.base import OptionalCount
from vlsae.dictionaries.centered import INPUT_NORMS, CenteredDictionary, sum_of_stream_means
from vlsae.training import parts as of_all_ranks

#: Where the encoder's bias starts: at zero, or where the first rows have k active concepts.
BIAS_STARTS = ("zero", "k")


class PenalizedDictionary(CenteredDictionary):
    """Any number of concepts may be active; each stream's loss is ``(‖x − x̂‖² + λ · penalty) / d``.

    λ starts at ``sparsity``. After each step it is multiplied by ``exp(adapt · log(L0 / k))``, the logarithm held
    within ±1, so that rows come to have k active concepts on average; ``adapt=0`` keeps it, as the papers do, who try
    several. Outside training an adapted λ is no yardstick: active concepts beyond k cost as many times the error there.
    Over the first ``penalty_warmup`` steps the penalty grows linearly, and λ stays.
    """

    bounds_k: ClassVar[bool] = False
    sparsity_weight: Tensor
    steps: Tensor

    def __init__(
        self,
        width: int,
        n_concepts: OptionalCount = None,
        k: OptionalCount = None,
        *,
        input_norm: Annotated[str, OneOf(*INPUT_NORMS)] = "rms",
        auxiliary_weight: Annotated[float, Range(0, None)] = 0.0,
        sparsity: Annotated[float, Range(0, None)] = 1.0,
        adapt: Annotated[float, Range(0, None)] = 0.01,
        penalty_warmup: Annotated[int, Range(0, None)] = 0,
        **options: Any,
    ) -> None:
        super().__init__(width, n_concepts, k, input_norm=input_norm, auxiliary_weight=auxiliary_weight, **options)
        check_finite_number("sparsity", sparsity, low=0)
        check_finite_number("adapt", adapt, low=0)
        check_finite_number("penalty_warmup", penalty_warmup, low=0)
        self.sparsity: float | None = sparsity
        self.adapt, self.penalty_warmup = adapt, penalty_warmup
        self.register_buffer("sparsity_weight", torch.tensor(float(sparsity)))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64), persistent=False)
        self._active: Tensor | None = None

    def after_step(self, step: int) -> None:
        """Keep the constraints, and let the penalty's weight follow the number of active concepts."""
        super().after_step(step)
        self.steps.add_(1)
        if self._active is not None and self.adapt > 0 and self.steps > self.penalty_warmup:
            off = (self._active / self.k).log().clamp(-1, 1)
            self.sparsity_weight.mul_((self.adapt * off).exp().to(self.sparsity_weight))
        self._active = None

    @abstractmethod
    def _penalty(self, active: Tensor, code: Tensor) -> Tensor:
        """Return each row's penalty ``(n,)``."""

    def _code(self, activations: Tensor) -> Tensor:
        return activations

    def _terms(
        self, x: Tensor, active: Tensor, code: Tensor, sizes: list[int], parts: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        if not self.training and self.adapt > 0:
            errors = torch.stack([part for name, part in parts.items() if name != "loss/auxiliary"])
            counts = (code > 0).sum(dim=1).double().split(sizes)
            means = [of_all_ranks.mean(count.mean(), len(count)) for count in counts]
            excess = torch.stack([(mean / self.k - 1).clamp(min=0) for mean in means])
            return {"loss/sparsity": (errors * excess.to(errors)).sum()}
        if torch.is_grad_enabled():
            self._active = of_all_ranks.mean((code.detach() > 0).sum(dim=1).double().mean(), len(code))
        penalty = sum_of_stream_means(self._penalty(active, code), sizes)
        return {"loss/sparsity": self.sparsity_weight / self.width * penalty * self._grown()}

    def _grown(self) -> Tensor | float:
        """Return the share of the penalty at this step; all of it outside training."""
        if not self.training or self.penalty_warmup == 0:
            return 1.0
        return ((self.steps + 1) / self.penalty_warmup).clamp(max=1)

    def _start_bias(self, batch: Mapping[str, Tensor]) -> None:
        """Start the encoder's bias, zero so far, where rows have k active concepts."""
        with torch.no_grad():
            self.encoder.bias.fill_(-self._exceeded_by_k(batch))

    def _exceeded_by_k(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the activation that k concepts of a row exceed on average, the mean of the streams' own."""
        active = [self._activate(x, stream).flatten() for stream, x in self.checked_batch(batch).items()]
        kept = [max(1, len(flat) - self.k * len(flat) // self.n_concepts) for flat in active]
        return torch.stack([flat.kthvalue(place).values for flat, place in zip(active, kept)]).mean()
