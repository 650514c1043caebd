"""Canonical dictionary: concepts that start where the two modalities agree most, and are held to agree.

Canonical correlation analysis (Hotelling, 1936) finds directions of vision and of language whose coordinates are most
alike over pairs; presence and absence along each are the first concepts.

Shapes: n rows, d width, h concepts, k active concepts, c canonical axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlsae.bounds import Range, check_finite_number
from vlsae.dictionaries.base import STREAMS, Count, OptionalCount, SparseCode, positive
from vlsae.dictionaries.centered import unit_size
from vlsae.dictionaries.kernels import concept_major
from vlsae.dictionaries.linear import LinearDictionary, linear, mean_squared_error
from vlsae.errors import UserError
from vlsae.training.objective import Loss

#: Canonical correlation from which an axis counts as shared.
SHARED = 0.5


class Canonical(LinearDictionary):
    """``a = ReLU(W R_m x̃_m + b)``, the k largest kept, ``x̂_m = μ_m + s_m (D_m a + c_m)``, ``x̃_m = (x_m − μ_m) / s_m``.

    Each modality has its own mean ``μ_m``, root mean square ``s_m`` and map ``R_m`` into canonical coordinates, scaled
    by their correlations; these are measured once on pairs. Encoder ``W``, ``b`` is shared. Concepts ``2i`` and
    ``2i + 1`` start as the two directions of canonical axis i, ``axes`` of them (None: those with correlation ½ or
    more); these leading concepts must reconstruct alone too, weighted by ``leading``. All others start at random
    directions, at length ``remainder``, so that they are chosen where the leading ones leave something over.
    ``agreement`` weighs the squared difference of a pair's activations over concepts active on either side. ``ridge``
    times d/n is added to the covariances. Columns ``[D_v; D_l]`` keep a root mean square length of 1 over modalities,
    so that a concept may show more in one of them.
    """

    kind: ClassVar[str] = "canonical"
    mean: Tensor
    scale: Tensor
    canonical_map: Tensor
    leading_concepts: Tensor

    def __init__(
        self,
        width: int,
        n_concepts: OptionalCount = None,
        k: OptionalCount = None,
        *,
        expansion: Count = 8,
        axes: OptionalCount = None,
        ridge: Annotated[float, Range(0, None)] = 1.0,
        remainder: Annotated[float, Range(0, 1)] = 0.5,
        leading: Annotated[float, Range(0, None)] = 1.0,
        agreement: Annotated[float, Range(0, None)] = 1.0,
    ) -> None:
        super().__init__(width, n_concepts, k, expansion=expansion)
        self.axes = None if axes is None else positive("axes", axes)
        if axes is not None and (axes > width or 2 * axes > self.n_concepts):
            most = min(width, self.n_concepts // 2)
            raise UserError(f"axes must be at most {most}, the width and half of the concepts; got {axes}.")
        for name, value in (("ridge", ridge), ("leading", leading), ("agreement", agreement)):
            check_finite_number(name, value, low=0)
        check_finite_number("remainder", remainder, low=0, high=1)
        self.ridge, self.remainder, self.leading, self.agreement = ridge, remainder, leading, agreement
        self.encoder = nn.Linear(width, self.n_concepts)
        self.vision_decoder = concept_major(nn.Linear(self.n_concepts, width))
        self.text_decoder = concept_major(nn.Linear(self.n_concepts, width))
        self.register_buffer("mean", torch.zeros(2, width))
        self.register_buffer("scale", torch.ones(2))
        self.register_buffer("canonical_map", torch.eye(width).repeat(2, 1, 1))
        self.register_buffer("leading_concepts", torch.zeros((), dtype=torch.int64))
        with torch.no_grad():
            self.encoder.weight.copy_(F.normalize(torch.randn(self.n_concepts, width), dim=1))
            for decoder in (self.vision_decoder, self.text_decoder):
                decoder.weight.copy_(self.encoder.weight.T)
                decoder.bias.zero_()
            self.encoder.bias.zero_()

    def decode(self, code: SparseCode | Tensor, stream: str) -> Tensor:
        """Return the rows ``(n, d)`` of codes by the stream's own decoder, in the scale of the input."""
        index = STREAMS.index(stream)
        return super().decode(code, stream) * self.scale[index] + self.mean[index]

    def initialize(self, batch: Mapping[str, Tensor]) -> None:
        """Measure means, sizes and canonical axes of pairs, and start concepts and decoders from them.

        With one stream alone its principal axes stand in for canonical ones. Raises ``ValueError`` for streams of
        different numbers of rows, which are no pairs.
        """
        rows = self._paired(batch)
        scaled: dict[str, Tensor] = {}
        for stream, x in rows.items():
            index = STREAMS.index(stream)
            self.mean[index] = x.mean(dim=0)
            self.scale[index] = unit_size(x - self.mean[index])
            scaled[stream] = self._scaled(x, stream).double()
        n = len(next(iter(rows.values())))
        maps, correlations = canonical_maps(list(scaled.values()), self.ridge * self.width / n)
        for stream, own in zip(rows, maps):
            self.canonical_map[STREAMS.index(stream)] = (own * correlations).T
        self._start(scaled, correlations)

    def loss(self, batch: Mapping[str, Tensor], step: int = 0) -> Loss:
        """Return the modalities' errors by all and by the leading concepts, and how far a pair's activations differ.

        Row i of one stream is the pair of row i of the other. Errors are those of rows at unit size. Raises
        ``ValueError`` for streams of different numbers of rows.
        """
        rows = self._paired(batch)
        active = {stream: self._activate(x, stream) for stream, x in rows.items()}
        codes = {stream: self._code(own) for stream, own in active.items()}
        parts, leading = {}, []
        last = int(self.leading_concepts)
        for stream, x in rows.items():
            scaled, code, decoder = self._scaled(x, stream), codes[stream].to(x.dtype), self._decoder(stream)
            parts[f"loss/{stream}"] = mean_squared_error(decoder(code), scaled)
            if last:
                first = F.linear(code[:, :last], decoder.weight[:, :last], decoder.bias)
                leading.append(mean_squared_error(first, scaled))
        if leading:
            parts["loss/leading"] = self.leading * torch.stack(leading).sum()
        if len(rows) == 2:
            parts["loss/agreement"] = self.agreement * self._difference(active, codes)
        return Loss(torch.stack(list(parts.values())).sum(), parts)

    def after_step(self, step: int) -> None:
        """Bring each concept's two columns back to a root mean square length of 1."""
        with torch.no_grad():
            size = self._column_size()
            for decoder in (self.vision_decoder, self.text_decoder):
                decoder.weight.div_(size)

    def _encoder(self, stream: str) -> nn.Linear:
        return self.encoder

    def _decoder(self, stream: str) -> nn.Linear:
        return self.vision_decoder if stream == "vision" else self.text_decoder

    def _scaled(self, x: Tensor, stream: str) -> Tensor:
        index = STREAMS.index(stream)
        return (x - self.mean[index]) / self.scale[index]

    def _activate(self, x: Tensor, stream: str) -> Tensor:
        coordinates = self._scaled(x, stream) @ self.canonical_map[STREAMS.index(stream)].T
        return F.relu(linear(coordinates, self.encoder))

    def _difference(self, active: Mapping[str, Tensor], codes: Mapping[str, Tensor]) -> Tensor:
        """Return the mean over pairs of ``‖a_v − a_l‖² / d`` over concepts that either side has kept."""
        either = (codes["vision"] > 0) | (codes["language"] > 0)
        squares = (active["vision"] - active["language"]).square() * either
        return squares.sum(dim=1).mean() / self.width

    def _start(self, scaled: Mapping[str, Tensor], correlations: Tensor) -> None:
        """Set encoder and decoders: the axes' two directions first, then random ones among canonical coordinates."""
        shared = int((correlations >= SHARED).sum()) if self.axes is None else self.axes
        last = 2 * min(shared, self.n_concepts // 2)
        self.leading_concepts.fill_(last)
        with torch.no_grad():
            directions = F.normalize(self.encoder.weight.double() * correlations, dim=1)
            axes = torch.eye(self.width, dtype=torch.float64, device=directions.device)[: last // 2]
            directions[:last] = torch.stack([axes, -axes], dim=1).reshape(last, self.width)
            for stream, x in scaled.items():
                z = x @ self.canonical_map[STREAMS.index(stream)].double().T
                self._decoder(stream).weight.copy_((directions @ _back(z, x)).T)
            directions[last:] *= self.remainder
            self.encoder.weight.copy_(directions)
        self.after_step(0)

    def _column_size(self) -> Tensor:
        both = torch.cat([self.vision_decoder.weight.detach(), self.text_decoder.weight.detach()])
        return (both.square().sum(dim=0) / 2).sqrt().clamp(min=1e-12)

    def _paired(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        rows = self.checked_batch(batch)
        counts = {stream: len(x) for stream, x in rows.items()}
        if len(set(counts.values())) > 1:
            raise UserError(f"objective=canonical learns from pairs, as many rows of each stream; got {counts}.")
        return rows


def canonical_maps(rows: list[Tensor], ridge: float) -> tuple[list[Tensor], Tensor]:
    """Return maps ``(d, d)`` of each stream's centred ``rows (n, d)`` into canonical coordinates, and the correlations.

    Column i of each map is axis i; coordinates have unit variance, the correlations ``(d,)`` fall. ``ridge`` is added
    to the diagonals of the covariances. One stream's maps are its whitened principal axes, correlations 1.
    """
    n, d = rows[0].shape
    identity = torch.eye(d, dtype=rows[0].dtype, device=rows[0].device)
    whitened = [_inverse_root(x.T @ x / n + max(ridge, 1e-9) * identity) for x in rows]
    if len(rows) == 1:
        axes = torch.linalg.eigh(rows[0].T @ rows[0]).eigenvectors.flip(1)
        return [whitened[0] @ axes], rows[0].new_ones(d)
    left, correlations, right = torch.linalg.svd(whitened[0] @ (rows[0].T @ rows[1] / n) @ whitened[1])
    return [whitened[0] @ left, whitened[1] @ right.T], correlations.clamp(max=1)


def _inverse_root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=1e-12).rsqrt()) @ vectors.T


def _back(z: Tensor, x: Tensor) -> Tensor:
    """Return the least-squares map ``(d, d)`` from coordinates ``z (n, d)`` back to rows ``x (n, d)``."""
    covariance = z.T @ z / len(z)
    # Coordinates without a correlation have no size: the penalty keeps their part at nothing.
    penalty = 1e-3 * torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    return torch.linalg.solve(covariance + penalty, z.T @ x / len(z))
