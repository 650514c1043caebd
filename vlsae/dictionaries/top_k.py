"""TopK autoencoder with a unit-norm decoder and an auxiliary loss for dead concepts (arXiv 2406.04093, section 2).

Shapes: n rows, d width, h concepts, k active concepts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlsae.bounds import OneOf, Range
from vlsae.dictionaries.base import Count, OptionalCount, one_of, positive
from vlsae.dictionaries.linear import LinearDictionary, linear, mean_squared_error
from vlsae.dictionaries.selection import top_k
from vlsae.errors import UserError
from vlsae.training.objective import Loss

#: Steps of the geometric median's iteration; each brings it several times closer.
MEDIAN_STEPS = 20


class TopK(LinearDictionary):
    """``z = W_e (x − b_d) + b_e``, ``x̂ = W_d TopK(ReLU z) + b_d``, columns of ``W_d`` of length 1, for all streams.

    ``center``: ``b_d`` starts at the rows' geometric ``median`` or their ``mean``. A concept silent for ``dead_after``
    rows is dead; dead ones learn from what the others leave over, weighted by ``auxiliary_weight``.
    ``n_concepts`` defaults to ``expansion · width``, ``k`` to a sixteenth of the concepts.
    """

    kind: ClassVar[str] = "top_k"
    silent_for: Tensor

    def __init__(
        self,
        width: int,
        n_concepts: OptionalCount = None,
        k: OptionalCount = None,
        *,
        expansion: Count = 8,
        center: Annotated[str, OneOf("median", "mean")] = "median",
        dead_after: Count = 1_000_000,
        auxiliary_weight: Annotated[float, Range(0, None)] = 1 / 32,
    ) -> None:
        super().__init__(width, n_concepts, k, expansion=expansion)
        self.center = one_of("center", center, ("median", "mean"))
        self.dead_after = positive("dead_after", dead_after)
        if not auxiliary_weight >= 0:
            raise UserError(f"auxiliary_weight must be at least 0; got {auxiliary_weight}.")
        self.auxiliary_weight = auxiliary_weight
        self.encoder = nn.Linear(width, self.n_concepts)
        self.decoder = nn.Linear(self.n_concepts, width)
        with torch.no_grad():
            self.decoder.weight.copy_(F.normalize(self.decoder.weight, dim=0))
            self.encoder.weight.copy_(self.decoder.weight.T)
            self.encoder.bias.zero_()
            self.decoder.bias.zero_()
        self.register_buffer("silent_for", torch.zeros(self.n_concepts, dtype=torch.int64), persistent=False)
        self._fired: tuple[int, Tensor] | None = None

    def settings(self) -> dict[str, Any]:
        """Return the constructor's arguments that give a dictionary of this form."""
        options = ("center", "dead_after", "auxiliary_weight")
        return {**super().settings(), **{name: getattr(self, name) for name in options}}

    def initialize(self, batch: Mapping[str, Tensor]) -> None:
        """Start the bias ``b_d`` at the centre of the rows."""
        rows = torch.cat(list(self.checked_batch(batch).values()))
        center = geometric_median(rows) if self.center == "median" else rows.mean(dim=0)
        with torch.no_grad():
            self.decoder.bias.copy_(center)

    def loss(self, batch: Mapping[str, Tensor], step: int = 0) -> Loss:
        """Return the modalities' mean squared errors and the auxiliary loss of dead concepts, summed."""
        parts: dict[str, Tensor] = {}
        residuals, activations = [], []
        fired = torch.zeros_like(self.silent_for, dtype=torch.bool)
        for stream, x in self.checked_batch(batch).items():
            active = self._activate(x, stream)
            code = self._code(active)
            decoded = self._reconstruct(code.to(x.dtype), stream)
            parts[f"loss/{stream}"] = mean_squared_error(decoded, x)
            residuals.append((x - decoded).detach())
            activations.append(active)
            fired |= (code.detach() > 0).any(dim=0)
        parts["loss/auxiliary"] = self._auxiliary(torch.cat(residuals), torch.cat(activations))
        if self.training and torch.is_grad_enabled():
            self._fired = (sum(len(residual) for residual in residuals), fired)
        return Loss(torch.stack(list(parts.values())).sum(), parts)

    def after_step(self, step: int) -> None:
        """Bring the decoder's columns back to length 1 and count for how many rows each concept has been silent."""
        with torch.no_grad():
            self.decoder.weight.copy_(F.normalize(self.decoder.weight, dim=0))
        if self._fired is not None:
            n, fired = self._fired
            self.silent_for.add_(n).masked_fill_(fired, 0)
            self._fired = None

    def _encoder(self, stream: str) -> nn.Linear:
        return self.encoder

    def _decoder(self, stream: str) -> nn.Linear:
        return self.decoder

    def _activate(self, x: Tensor, stream: str) -> Tensor:
        return F.relu(linear(x - self.decoder.bias, self.encoder))

    def _reconstruct(self, dense: Tensor, stream: str) -> Tensor:
        return F.linear(dense, self._columns(), self.decoder.bias)

    def _columns(self) -> Tensor:
        # Differentiating through the normalisation removes the gradient's component along each column.
        return F.normalize(self.decoder.weight, dim=0)

    def _auxiliary(self, residual: Tensor, activations: Tensor) -> Tensor:
        """Return the weighted share of the residual ``(n, d)`` that dead concepts leave unexplained."""
        dead = (self.silent_for >= self.dead_after).nonzero()[:, 0]
        if dead.numel() == 0 or self.auxiliary_weight == 0:
            return residual.new_zeros(())
        own = activations[:, dead]
        indices = top_k(own, min(max(1, self.width // 2), dead.numel()))
        code = torch.zeros_like(own).scatter(1, indices, own.gather(1, indices)).to(residual.dtype)
        error = (residual - code @ self._columns()[:, dead].T).square().sum()
        return self.auxiliary_weight * error / residual.square().sum().clamp(min=torch.finfo(residual.dtype).tiny)


def geometric_median(rows: Tensor) -> Tensor:
    """Return the point of least summed distance to ``rows (n, d)``, ``(d,)``, by Weiszfeld's iteration."""
    center = rows.mean(dim=0)
    for _ in range(MEDIAN_STEPS):
        distance = torch.linalg.vector_norm(rows - center, dim=1).clamp(min=1e-12)
        center = (rows / distance[:, None]).sum(dim=0) / distance.reciprocal().sum()
    return center
