"""What dictionaries with a linear encoder share: ReLU, the k largest, a linear decoder (VL-SAE paper, baselines).

Shapes: n rows, d width, h concepts, k active concepts.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlsae.dictionaries import kernels
from vlsae.dictionaries.base import Dictionary, OptionalCount, SparseCode
from vlsae.dictionaries.scratch import Scratch
from vlsae.dictionaries.selection import at_least_single, largest_columns
from vlsae.training.objective import Loss, Objective
from vlsae.training.rows import count_rows


class LinearDictionary(Dictionary, Objective):
    """Activations are ``ReLU(W x + b)``; the k largest that are above zero are kept."""

    over_ranks: ClassVar[bool] = True

    def __init__(self, width: int, n_concepts: OptionalCount = None, k: OptionalCount = None, **options: Any) -> None:
        super().__init__(width, n_concepts, k, **options)
        self.scratch = Scratch()

    @abstractmethod
    def _encoder(self, stream: str) -> nn.Linear: ...

    @abstractmethod
    def _decoder(self, stream: str) -> nn.Linear: ...

    def activations(self, x: Tensor, stream: str) -> Tensor:
        """Return ``ReLU(W x + b)``, ``(n, h)``."""
        x = self.checked(x, stream)
        return self._activate(x, stream).to(x.dtype)

    def encode(self, x: Tensor, stream: str) -> SparseCode:
        """Return the k largest activations of each row; fewer where fewer are above zero."""
        x = self.checked(x, stream)
        activations = self._activate(x, stream)
        indices = largest_columns(activations, self.k)
        values = activations.gather(1, indices)
        return SparseCode.from_top(indices, values.to(x.dtype), self.n_concepts, values > 0)

    def decode(self, code: SparseCode | Tensor, stream: str) -> Tensor:
        """Return the rows ``(n, d)`` of codes."""
        return self._reconstruct(self.dense(code, stream), stream)

    def loss(self, batch: Mapping[str, Tensor], step: int = 0) -> Loss:
        """Return the sum of the modalities' mean squared errors."""
        parts = {}
        sparse = kernels.pays(self.n_concepts, self.k, next(self.parameters()))
        for stream, x in self.checked_batch(batch).items():
            if sparse:
                layers = self._encoder(stream), self._decoder(stream)
                decoded = sparse_reconstruction(x, *layers, self.k, self.scratch).decoded
            else:
                decoded = self._reconstruct(self._code(self._activate(x, stream)).to(x.dtype), stream)
            parts[f"loss/{stream}"] = mean_squared_error(decoded, x)
        return Loss(torch.stack(list(parts.values())).sum(), parts)

    def loss_weight(self, batch: Mapping[str, Tensor]) -> float | None:
        """Return the number of rows."""
        return float(count_rows(batch))

    def _activate(self, x: Tensor, stream: str) -> Tensor:
        return F.relu(linear(x, self._encoder(stream)))

    def _code(self, activations: Tensor) -> Tensor:
        """Return the k largest of ``(n, h)``, zero elsewhere."""
        indices = largest_columns(activations, self.k)
        return torch.zeros_like(activations).scatter(1, indices, activations.gather(1, indices))

    def _reconstruct(self, dense: Tensor, stream: str) -> Tensor:
        return self._decoder(stream)(dense)


class SparseReconstruction(NamedTuple):
    """Decoded rows ``(n, d)``, the chosen concepts and their scores ``(n, k)``: active are those above zero.

    ``block_scores (r, m)`` and ``block_columns (m, d)`` are those of the block that was asked for.
    """

    decoded: Tensor
    support: kernels.Support
    scores: Tensor
    block_scores: Tensor | None
    block_columns: Tensor | None


def sparse_reconstruction(
    x: Tensor,
    encoder: nn.Linear,
    decoder: nn.Linear,
    k: int,
    scratch: Scratch,
    unit: bool = False,
    center: Tensor | None = None,
    block: kernels.Block | None = None,
) -> SparseReconstruction:
    """Return the reconstruction of ``x (n, d)`` by its k largest activations, at the cost of these alone.

    One dense product without a graph chooses them, in ``scratch``. ``unit``: the decoder's columns have length 1 and
    keep it. ``center (d,)`` is taken from the rows before they are encoded. ``block`` says of which rows and concepts
    scores, and of which concepts columns are given too, with their gradients.
    """
    rows = x if center is None else x - center.detach()
    with torch.no_grad():
        scores = scratch.of(len(rows), len(encoder.weight), rows)
        torch.addmm(encoder.bias, rows, encoder.weight.T, out=scores)
        indices = largest_columns(scores, k)
        chosen = scores.gather(1, indices)
        others = None if block is None else block.of_scores(scores)
    support = kernels.Support(indices, scores.shape[1])
    product, block_scores = kernels.SelectedProduct.apply(
        support, rows, encoder.weight, encoder.bias, center, chosen, block, others
    )
    sums, columns = kernels.SparseDecoding.apply(support, F.relu(product), decoder.weight.T, unit, block)
    return SparseReconstruction(sums + decoder.bias, support, product, block_scores, columns)


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """Return ``layer(x)`` in float32 at least, so that a support does not depend on the model's dtype."""
    dtype = at_least_single(layer.weight.dtype)
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x.to(dtype), layer.weight.to(dtype), layer.bias.to(dtype))


def mean_squared_error(decoded: Tensor, x: Tensor) -> Tensor:
    """Return the mean over rows and features of the squared error, in float32 at least."""
    dtype = at_least_single(x.dtype)
    return F.mse_loss(decoded.to(dtype), x.to(dtype))
