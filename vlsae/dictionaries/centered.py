"""What dictionaries in the TopK autoencoder's form share: a tied start, a bias at the centre, care for the dead.

Shapes: n rows of all streams, d width, h concepts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlsae.bounds import OneOf, Range, check_finite_number
from vlsae.dictionaries.base import Count, OptionalCount, SparseCode, one_of, positive
from vlsae.dictionaries.kernels import Block, SquaredError, concept_major
from vlsae.dictionaries.linear import LinearDictionary, linear, mean_squared_error
from vlsae.dictionaries.row_share import evenly_spaced
from vlsae.dictionaries.selection import largest_only
from vlsae.training import parts as of_all_ranks
from vlsae.training.objective import Loss

CENTERS = ("median", "mean", "zero")
INPUT_NORMS = ("none", "rms")
DECODER_NORMS = ("unit", "free")
ENCODER_INITS = ("transpose", "random")

#: The smallest share of rows that the auxiliary loss is taken on.
LEAST_ROWS = 0.01

#: Steps of the geometric median's iteration; each brings it several times closer.
MEDIAN_STEPS = 20


class CenteredDictionary(LinearDictionary):
    """``z = W_e (x − b_d) + b_e``, ``x̂ = W_d code(z) + b_d`` for all streams.

    ``center``: ``b_d`` starts at the rows' geometric ``median``, their ``mean`` or ``zero``. ``input_norm=rms`` divides
    rows by their root mean square, which ``decode`` undoes. ``decoder_norm=unit`` keeps the columns of ``W_d`` at
    length 1 and takes the gradient's part along them out; ``free`` leaves both. ``encoder_init``: ``W_e`` starts as
    ``W_dᵀ`` (``transpose``), or is drawn on its own (``random``). A concept silent for ``dead_after`` rows is dead; the
    ``auxiliary_k`` strongest dead ones (default: half the width) learn from what the others leave over, weighted by
    ``auxiliary_weight`` (arXiv 2406.04093, A.2), on a share ``auxiliary_rows`` of each step's rows that stands for all
    of them. ``n_concepts`` defaults to ``expansion · width``, ``k`` to a sixteenth of the concepts.
    """

    silent_for: Tensor
    scale: Tensor

    def __init__(
        self,
        width: int,
        n_concepts: OptionalCount = None,
        k: OptionalCount = None,
        *,
        expansion: Count = 8,
        center: Annotated[str, OneOf(*CENTERS)] = "median",
        input_norm: Annotated[str, OneOf(*INPUT_NORMS)] = "none",
        decoder_norm: Annotated[str, OneOf(*DECODER_NORMS)] = "unit",
        encoder_init: Annotated[str, OneOf(*ENCODER_INITS)] = "transpose",
        dead_after: Count = 1_000_000,
        auxiliary_weight: Annotated[float, Range(0, None)] = 1 / 32,
        auxiliary_k: OptionalCount = None,
        auxiliary_rows: Annotated[float, Range(LEAST_ROWS, 1)] = 1.0,
    ) -> None:
        super().__init__(width, n_concepts, k, expansion=expansion)
        self.center = one_of("center", center, CENTERS)
        self.dead_after = positive("dead_after", dead_after)
        check_finite_number("auxiliary_weight", auxiliary_weight, low=0)
        self.auxiliary_weight = auxiliary_weight
        self.input_norm = one_of("input_norm", input_norm, INPUT_NORMS)
        self.decoder_norm = one_of("decoder_norm", decoder_norm, DECODER_NORMS)
        self.encoder_init = one_of("encoder_init", encoder_init, ENCODER_INITS)
        self.auxiliary_k = None if auxiliary_k is None else positive("auxiliary_k", auxiliary_k)
        check_finite_number("auxiliary_rows", auxiliary_rows, low=LEAST_ROWS, high=1)
        self.auxiliary_rows = auxiliary_rows
        self.encoder = nn.Linear(width, self.n_concepts)
        self.decoder = concept_major(nn.Linear(self.n_concepts, width))
        with torch.no_grad():
            self.decoder.weight.copy_(F.normalize(self.decoder.weight, dim=0))
            if encoder_init == "transpose":
                self.encoder.weight.copy_(self.decoder.weight.T)
            self.encoder.bias.zero_()
            self.decoder.bias.zero_()
        self.register_buffer("silent_for", torch.zeros(self.n_concepts, dtype=torch.int64), persistent=False)
        self.register_buffer("scale", torch.ones(()), persistent=input_norm != "none")
        self._fired: tuple[int, Tensor] | None = None
        # The decoder's version, counted by torch at every change in place, at which its columns were made unit.
        self._unit_since: int | None = None

    def initialize(self, batch: Mapping[str, Tensor]) -> None:
        """Measure the rows' root mean square where it is divided by, and start the bias ``b_d`` at their centre."""
        rows = torch.cat(list(self.checked_batch(batch).values()))
        if self.input_norm == "rms":
            self.scale.copy_(unit_size(rows))
            rows = rows / self.scale
        with torch.no_grad():
            if self.center == "median":
                self.decoder.bias.copy_(geometric_median(rows))
            elif self.center == "mean":
                self.decoder.bias.copy_(rows.mean(dim=0))

    def encode(self, x: Tensor, stream: str) -> SparseCode:
        """Return the codes of ``x (n, d)``."""
        if self.bounds_k:
            return super().encode(x, stream)
        x = self.checked(x, stream)
        return SparseCode.from_dense(self._coded(x)[1].to(x.dtype))

    def decode(self, code: SparseCode | Tensor, stream: str) -> Tensor:
        """Return the rows ``(n, d)`` of codes, in the scale of the input."""
        return super().decode(code, stream) * self.scale

    def loss(self, batch: Mapping[str, Tensor], step: int = 0) -> Loss:
        """Return the modalities' mean squared errors, the auxiliary loss of dead concepts and the kind's own terms."""
        rows = self.checked_batch(batch)
        sizes = [len(x) for x in rows.values()]
        x = torch.cat(list(rows.values()))
        active, code = self._coded(x, training=self.training)
        scaled = x / self.scale
        decoded = self._reconstruct(code.to(x.dtype), "vision")
        dead = self._dead(sizes, step)
        of_dead = None
        if dead is not None:
            # Brackets, not index_select: taking columns their way has the faster gradient.
            of_dead = dead, dead.of_rows(active[:, dead.concepts]), dead.of_weight(self._columns().T)
        parts = self._parts(rows, scaled, decoded, of_dead, lambda: (code.detach() > 0).any(dim=0))
        parts |= self._terms(scaled, active, code, sizes, parts)
        return Loss(torch.stack(list(parts.values())).sum(), parts)

    def _parts(
        self,
        rows: Mapping[str, Tensor],
        scaled: Tensor,
        decoded: Tensor,
        of_dead: tuple[Block, Tensor, Tensor] | None,
        fired: Callable[[], Tensor],
    ) -> dict[str, Tensor]:
        """Return each stream's error and the auxiliary loss, and note in training which concepts have fired.

        ``of_dead`` are the dead concepts on the rows that stand for all, their activations ``(r, m)`` and columns
        ``(m, d)``.
        """
        sizes = [len(x) for x in rows.values()]
        errors = map(mean_squared_error, decoded.split(sizes), scaled.split(sizes))
        parts = {f"loss/{stream}": error for stream, error in zip(rows, errors)}
        if of_dead is None:
            parts["loss/auxiliary"] = scaled.new_zeros(())
        else:
            dead, own, columns = of_dead
            left_over = of_all_ranks.share_of_total(sum_over_rows(parts.values(), sizes) * self.width, len(scaled))
            residual = dead.of_rows(scaled) - dead.of_rows(decoded.detach())
            parts["loss/auxiliary"] = self._auxiliary(residual, own, columns) / left_over.clamp(min=tiny(residual))
        if self.training and torch.is_grad_enabled():
            self._fired = (len(scaled), fired())
        return parts

    def loss_weight(self, batch: Mapping[str, Tensor]) -> float | None:
        """Return None: which concepts fired, and what the dead leave over, are facts of a whole batch."""
        return None

    def after_step(self, step: int) -> None:
        """Bring the decoder's columns back to length 1 and count for how many rows each concept has been silent."""
        if self.decoder_norm == "unit":
            weight = self.decoder.weight.detach()
            weight.div_(torch.linalg.vector_norm(weight, dim=0).clamp(min=1e-12))
            self._unit_since = weight._version
        if self._fired is not None:
            n, fired = self._fired
            self.silent_for.add_(of_all_ranks.count(n)).masked_fill_(of_all_ranks.any_of(fired), 0)
            self._fired = None

    def _coded(self, x: Tensor, training: bool = False) -> tuple[Tensor, Tensor]:
        """Return activations and codes ``(n, h)`` of rows; ``training`` where codes may depend on the whole batch."""
        active = self._activate(x, "vision")
        return active, self._code(active)

    def _terms(
        self, x: Tensor, active: Tensor, code: Tensor, sizes: list[int], parts: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the kind's own parts of the loss; ``sizes`` are the streams' numbers of rows, in order."""
        return {}

    def _encoder(self, stream: str) -> nn.Linear:
        return self.encoder

    def _decoder(self, stream: str) -> nn.Linear:
        return self.decoder

    def _centered(self, x: Tensor) -> Tensor:
        return x / self.scale - self.decoder.bias

    def _activate(self, x: Tensor, stream: str) -> Tensor:
        return F.relu(linear(self._centered(x), self.encoder))

    def _reconstruct(self, dense: Tensor, stream: str) -> Tensor:
        return F.linear(dense, self._columns(), self.decoder.bias)

    def _columns(self) -> Tensor:
        if self.decoder_norm == "free":
            return self.decoder.weight
        # Differentiating through the normalisation removes the gradient's component along each column.
        return F.normalize(self.decoder.weight, dim=0)

    def _dead(self, sizes: list[int], step: int) -> Block | None:
        """Return the concepts and rows that the auxiliary loss is for; None where there are none, or no such loss.

        ``sizes`` are the streams' numbers of rows. Outside training all rows count, for the sake of a steady yardstick.
        """
        if self.auxiliary_weight == 0:
            return None
        concepts = (self.silent_for >= self.dead_after).nonzero()[:, 0]
        if not concepts.numel():
            return None
        rows = evenly_spaced(sizes, self._row_share(), step)
        return Block(concepts, None if rows is None else rows.to(concepts.device))

    def _row_share(self) -> float:
        return self.auxiliary_rows if self.training else 1.0

    def _auxiliary(self, residual: Tensor, own: Tensor, columns: Tensor) -> Tensor:
        """Return the weighted sum over all rows of what dead concepts leave of the residual, ``(r, d)`` on some rows.

        ``own (r, m)`` are their activations, ``columns (m, d)`` their columns of the decoder. The sum by which it is
        divided is known on all rows and has no gradient: scaling this sum alone keeps the loss unbiased, where a ratio
        of two sums over the rows taken would not be.
        """
        code = largest_only(own, self.auxiliary_k or max(1, self.width // 2))
        error: Tensor = SquaredError.apply(residual, code.to(residual.dtype), columns)
        return self.auxiliary_weight / self._row_share() * error


def sum_of_stream_means(values: Tensor, sizes: list[int]) -> Tensor:
    """Return the sum over streams of the means of their rows' values ``(n,)``."""
    return torch.stack([own.mean() for own in values.split(sizes)]).sum()


def sum_over_rows(means: Iterable[Tensor], sizes: list[int]) -> Tensor:
    """Return the sum over all streams' rows of what ``means`` are each stream's mean of, without gradient."""
    return torch.stack([mean.detach() * n for mean, n in zip(means, sizes)]).sum()


def tiny(like: Tensor) -> float:
    """Return the smallest normal number of a tensor's dtype."""
    return float(torch.finfo(like.dtype).tiny)


def unit_size(rows: Tensor) -> Tensor:
    """Return the root mean square of all values of ``rows (n, d)``, 1 where it is zero."""
    size = rows.square().mean().sqrt()
    return size if size > 0 else torch.ones_like(size)


def geometric_median(rows: Tensor) -> Tensor:
    """Return the point of least summed distance to ``rows (n, d)``, ``(d,)``, by Weiszfeld's iteration."""
    center = rows.mean(dim=0)
    for _ in range(MEDIAN_STEPS):
        distance = torch.linalg.vector_norm(rows - center, dim=1).clamp(min=1e-12)
        center = (rows / distance[:, None]).sum(dim=0) / distance.reciprocal().sum()
    return center
