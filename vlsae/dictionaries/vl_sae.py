"""VL-SAE: one distance-based encoder that both modalities share, and a decoder for each (arXiv 2510.21323, section 3).

Shapes: n rows, d width, h concepts, k active concepts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlsae.bounds import OneOf
from vlsae.dictionaries import kernels
from vlsae.dictionaries.base import STREAMS, Count, Dictionary, OptionalCount, SparseCode, one_of
from vlsae.dictionaries.scratch import Scratch
from vlsae.dictionaries.selection import at_least_single, largest_columns, top_k_strict
from vlsae.errors import UserError
from vlsae.training.objective import Loss, Objective
from vlsae.training.rows import InvalidRows, count_rows


class VLSAE(Dictionary, Objective):
    """Activations ``2 − ‖x̃ − w̃‖`` of unit vectors, the k largest kept, decoded by each modality's own weights.

    ``topk_mode``: ``exact`` keeps k, ties to the lowest concept; ``reference`` (the published code) leaves out every
    entry tied at the border. ``input_norm``: what the decoder learns to give back: ``none`` the input, ``unit`` the
    input at length 1, ``mean_norm`` the input over its stream's mean length while it learns (``decode`` undoes that).
    ``loss_balance``: ``variance`` divides each modality's loss by its variance, so that neither dominates.
    ``n_concepts`` defaults to ``expansion · width``, ``k`` to a sixteenth of the concepts.
    """

    kind: ClassVar[str] = "vl_sae"
    over_ranks: ClassVar[bool] = True
    mean_norm: Tensor
    variance: Tensor

    def __init__(
        self,
        width: int,
        n_concepts: OptionalCount = None,
        k: OptionalCount = None,
        *,
        expansion: Count = 8,
        topk_mode: Annotated[str, OneOf("exact", "reference")] = "exact",
        input_norm: Annotated[str, OneOf("none", "unit", "mean_norm")] = "none",
        loss_balance: Annotated[str, OneOf("none", "variance")] = "none",
    ) -> None:
        super().__init__(width, n_concepts, k, expansion=expansion)
        self.topk_mode = one_of("topk_mode", topk_mode, ("exact", "reference"))
        self.input_norm = one_of("input_norm", input_norm, ("none", "unit", "mean_norm"))
        self.loss_balance = one_of("loss_balance", loss_balance, ("none", "variance"))
        if topk_mode == "reference" and self.k == self.n_concepts:
            raise UserError(f"k must be less than n_concepts ({self.n_concepts}) with topk_mode=reference; got {k}.")
        self.scores, self.directions = Scratch(), Scratch()
        self.encoder = nn.Parameter(torch.empty(self.n_concepts, width))
        nn.init.kaiming_uniform_(self.encoder, a=math.sqrt(5))
        self._add_decoders()
        # Zero is "not measured yet"; only the options that need them put them into files.
        self.register_buffer("mean_norm", torch.zeros(2), persistent=input_norm == "mean_norm")
        self.register_buffer("variance", torch.zeros(2), persistent=loss_balance == "variance")

    def activations(self, x: Tensor, stream: str) -> Tensor:
        """Return the dense activations ``(n, h)`` in [0, 2], 2 where a row points along a concept."""
        return _activation(self._cosine(self.checked(x, stream))).to(self.encoder.dtype)

    def encode(self, x: Tensor, stream: str) -> SparseCode:
        """Return the k strongest concepts of each row; a row of zeros has none."""
        x = self.checked(x, stream)
        indices, values, kept = self._select(self._cosine(x))
        empty = (x == 0).all(dim=1)
        if empty.any():
            rows = ~empty[:, None].expand_as(indices)
            kept = rows if kept is None else kept & rows
        return SparseCode.from_top(indices, values, self.n_concepts, kept)

    def decode(self, code: SparseCode | Tensor, stream: str) -> Tensor:
        """Return the rows ``(n, d)`` of codes by the stream's own decoder."""
        decoded = self._decoder(stream)(self.dense(code, stream))
        return decoded * self._stream_norm(stream) if self.input_norm == "mean_norm" else decoded

    def target(self, x: Tensor, stream: str) -> Tensor:
        """Return what ``decode(encode(x))`` approximates: ``x``, at length 1 with ``input_norm=unit``."""
        x = self.checked(x, stream)
        return F.normalize(x, dim=1, eps=1e-12) if self.input_norm == "unit" else x

    def initialize(self, batch: Mapping[str, Tensor]) -> None:
        """Measure each stream's mean length and variance, before the first step."""
        for stream, x in self.checked_batch(batch).items():
            index = STREAMS.index(stream)
            norm = torch.linalg.vector_norm(x, dim=1).mean()
            self.mean_norm[index] = norm
            target = x / norm if self.input_norm == "mean_norm" else self.target(x, stream)
            self.variance[index] = target.var(dim=0, correction=0).mean()

    def loss(self, batch: Mapping[str, Tensor], step: int = 0) -> Loss:
        """Return the sum of the modalities' mean squared errors; row i of one need not belong to row i of the other.

        Raises ``ValueError`` for rows of zeros, which have no direction, besides what is wrong in form.
        """
        rows = self.checked_batch(batch)
        for stream, x in rows.items():
            zero = (x == 0).all(dim=1)
            if zero.any():
                raise InvalidRows("rows of zeros, which have no direction,", stream, zero)
        x = torch.cat(list(rows.values()))
        sparse = kernels.pays(self.n_concepts, self.k, self.encoder)
        decoded = self._decoded_sparsely(x, rows) if sparse else self._decoded(x, rows)
        parts = {f"loss/{stream}": self._error(decoded[stream], own, stream) for stream, own in rows.items()}
        return Loss(torch.stack(list(parts.values())).sum(), parts)

    def loss_weight(self, batch: Mapping[str, Tensor]) -> float | None:
        """Return the number of rows."""
        return float(count_rows(batch))

    @classmethod
    def from_author_state(cls, state: Mapping[str, Tensor], k: int | None) -> VLSAE:
        """Return the dictionary of the published code's state dict, whose parameter names are ours.

        ``k`` is not in the file and must be given; ``ValueError`` without it or for other names.
        """
        from vlsae.dictionaries.import_author import from_author_state

        return from_author_state(cls, state, k)

    def _add_decoders(self) -> None:
        self.vision_decoder = kernels.concept_major(nn.Linear(self.n_concepts, self.width))
        self.text_decoder = kernels.concept_major(nn.Linear(self.n_concepts, self.width))

    def _decoded(self, x: Tensor, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the decoded rows of each stream, of all their rows ``x (n, d)``, by dense products."""
        indices, values, kept = self._select(self._cosine(x))
        if kept is not None:
            values = values * kept
        code = values.new_zeros(len(x), self.n_concepts).scatter(1, indices, values)
        own = code.split([len(part) for part in rows.values()])
        return {stream: self._decoder(stream)(part) for stream, part in zip(rows, own)}

    def _decoded_sparsely(self, x: Tensor, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the same at the cost of the active concepts, but for one dense product that chooses them."""
        unit_rows = F.normalize(x, dim=1, eps=1e-12)
        with torch.no_grad():
            norms = torch.linalg.vector_norm(self.encoder, dim=1).clamp(min=1e-12)
            directions = self.directions.of(self.n_concepts, self.width, self.encoder)
            torch.div(self.encoder, norms[:, None], out=directions)
            cosine = self.scores.of(len(x), self.n_concepts, x)
            torch.mm(unit_rows, directions.T, out=cosine)
            indices, _, kept = self._select(cosine)
            chosen = cosine.gather(1, indices)
        support = kernels.Support(indices, self.n_concepts)
        values = _activation(kernels.SelectedCosine.apply(support, unit_rows, self.encoder, norms, chosen))
        if kept is not None:
            values = values * kept
        decoded = {}
        sizes = [len(part) for part in rows.values()]
        for stream, own, active in zip(rows, indices.split(sizes), values.split(sizes)):
            decoder = self._decoder(stream)
            sums, _ = kernels.SparseDecoding.apply(kernels.Support(own, self.n_concepts), active, decoder.weight.T)
            decoded[stream] = sums + decoder.bias
        return decoded

    def _decoder(self, stream: str) -> nn.Linear:
        return self.vision_decoder if stream == "vision" else self.text_decoder

    def _stream_norm(self, stream: str) -> Tensor:
        norm = self.mean_norm[STREAMS.index(stream)]
        if norm == 0:
            raise UserError(
                f"input_norm=mean_norm: the mean length of {stream} rows is not known yet.",
                "Call initialize(batch) on rows of the stream first; fit does so.",
            )
        return norm

    def _error(self, decoded: Tensor, x: Tensor, stream: str) -> Tensor:
        target = x / self._stream_norm(stream) if self.input_norm == "mean_norm" else x
        if self.input_norm == "unit":
            target = F.normalize(x, dim=1, eps=1e-12)
        error = F.mse_loss(decoded.to(at_least_single(decoded.dtype)), target.to(at_least_single(x.dtype)))
        if self.loss_balance == "none":
            return error
        variance = self.variance[STREAMS.index(stream)]
        if variance == 0:
            raise UserError(
                f"loss_balance=variance: the variance of {stream} rows is not known yet, or is zero.",
                "Call initialize(batch) on rows of the stream that differ first; fit does so.",
            )
        return error / variance

    def _cosine(self, x: Tensor) -> Tensor:
        """Return cosines ``(n, h)`` of rows and concepts, in float32 at least: half precision loses δ near 1."""
        with torch.autocast(x.device.type, enabled=False):
            dtype = at_least_single(self.encoder.dtype)
            unit = F.normalize(x.to(dtype), dim=1, eps=1e-12)
            return unit @ F.normalize(self.encoder.to(dtype), dim=1, eps=1e-12).T

    def _select(self, cosine: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return kept concepts ``(n, k)``, their activations, and which entries stay (None: all)."""
        kept = None
        if self.topk_mode == "exact":
            # The activation rises with the cosine, so the choice needs no root over all concepts.
            indices = largest_columns(cosine, self.k)
        else:
            indices, kept = top_k_strict(_activation(cosine), self.k)
        values = _activation(cosine.gather(1, indices))
        return indices, values.to(self.encoder.dtype), kept


def _activation(cosine: Tensor) -> Tensor:
    # The root's slope diverges at cosine 1: below the guard it counts as constant, which costs at most its root.
    guard = 1e-24 if cosine.dtype == torch.float64 else 1e-12
    return 2 - (2 - 2 * cosine).clamp(min=guard).sqrt()
