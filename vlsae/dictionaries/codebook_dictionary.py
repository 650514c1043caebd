"""Codebook features learned after the fact: a row is put together of the k codes most like it (arXiv 2310.17230).

Shapes: n rows of all streams, d width, h codes, k codes of a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlsae.bounds import OneOf, Range
from vlsae.dictionaries.base import Count, Dictionary, OptionalCount, SparseCode, one_of
from vlsae.dictionaries.centered import unit_size
from vlsae.dictionaries.codebook import GRADIENTS, METRICS, codebook_snap
from vlsae.dictionaries.linear import mean_squared_error
from vlsae.errors import UserError
from vlsae.training import parts as of_all_ranks
from vlsae.training.objective import Loss, Objective

#: Noise on the rows that replace codes which never fired, beside the row's length.
NOISE = 1e-4


class Codebook(Dictionary, Objective):
    """``x̂ = (1/k) Σ W_c`` over the k codes of largest cosine (``metric=l2``: least distance), for all streams.

    The paper snaps inside a model that learns on; here rows are given and codes alone learn, from ``‖x − x̂‖²``.
    ``gradient``: what ``codebook_snap`` adds to that. ``input_norm=standard``: rows less their mean, over their root
    mean square, which ``decode`` undoes. ``reduce=sum`` leaves out 1/k. ``initial``: codes are drawn ``normal``, or are
    ``rows``. Codes without a row for ``replace_after`` steps become rows of the batch; 0 leaves them.
    """

    kind: ClassVar[str] = "codebook"
    over_ranks: ClassVar[bool] = True
    offset: Tensor
    scale: Tensor
    fired: Tensor

    def __init__(
        self,
        width: int,
        n_concepts: OptionalCount = None,
        k: OptionalCount = None,
        *,
        expansion: Count = 8,
        metric: Annotated[str, OneOf(*METRICS)] = "cosine",
        gradient: Annotated[str, OneOf(*GRADIENTS)] = "base",
        input_norm: Annotated[str, OneOf("none", "standard")] = "standard",
        reduce: Annotated[str, OneOf("mean", "sum")] = "mean",
        initial: Annotated[str, OneOf("normal", "rows")] = "normal",
        replace_after: Annotated[int, Range(0, None)] = 0,
    ) -> None:
        super().__init__(width, n_concepts, k, expansion=expansion)
        self.metric = one_of("metric", metric, METRICS)
        self.gradient = one_of("gradient", gradient, GRADIENTS)
        self.input_norm = one_of("input_norm", input_norm, ("none", "standard"))
        self.reduce = one_of("reduce", reduce, ("mean", "sum"))
        self.initial = one_of("initial", initial, ("normal", "rows"))
        if reduce == "sum" and gradient != "base":
            raise UserError(f"gradient={gradient} is defined for the mean of codes.", "Use reduce=mean.")
        if isinstance(replace_after, bool) or not isinstance(replace_after, int) or replace_after < 0:
            raise UserError(f"replace_after must be an integer of at least 0; got {replace_after!r}.")
        self.replace_after = replace_after
        self.codes = nn.Parameter(torch.randn(self.n_concepts, width))
        self.register_buffer("offset", torch.zeros(width))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("fired", torch.zeros(self.n_concepts, dtype=torch.int64), persistent=False)
        self._last: tuple[tuple[Tensor, ...], Tensor] | None = None

    def initialize(self, batch: Mapping[str, Tensor]) -> None:
        """Measure the rows' mean and size, and start the codes at rows where that is asked for."""
        rows = torch.cat(list(self.checked_batch(batch).values()))
        if self.input_norm == "standard":
            self.offset.copy_(rows.mean(dim=0))
            self.scale.copy_(unit_size(rows - self.offset))
        if self.initial == "rows":
            with torch.no_grad():
                self.codes.copy_(_noisy(self._normed(rows), self.n_concepts))

    def activations(self, x: Tensor, stream: str) -> Tensor:
        """Return how like each code a row is, ``(n, h)``: the cosine, or the negative distance with ``metric=l2``."""
        x = self._normed(self.checked(x, stream))
        if self.metric == "l2":
            return -torch.cdist(x, self.codes)
        return F.normalize(x, dim=1, eps=1e-12) @ F.normalize(self.codes, dim=1, eps=1e-12).T

    def encode(self, x: Tensor, stream: str) -> SparseCode:
        """Return the k codes of each row, each with the same share."""
        x = self.checked(x, stream)
        indices = self._snap(self._normed(x))[1]
        share = 1.0 if self.reduce == "sum" else 1 / self.k
        return SparseCode.from_top(indices, torch.full_like(indices, share, dtype=x.dtype), self.n_concepts)

    def decode(self, code: SparseCode | Tensor, stream: str) -> Tensor:
        """Return the rows ``(n, d)`` that codes stand for."""
        return self.dense(code, stream) @ self.codes * self.scale + self.offset

    def loss(self, batch: Mapping[str, Tensor], step: int = 0) -> Loss:
        """Return the sum of the modalities' mean squared errors."""
        rows = self.checked_batch(batch)
        sizes = [len(x) for x in rows.values()]
        x = self._normed(torch.cat(list(rows.values())))
        decoded, indices = self._snap(x)
        if self.training and torch.is_grad_enabled():
            self._last = (x.detach().split(sizes), indices)
        errors = map(mean_squared_error, decoded.split(sizes), x.split(sizes))
        parts = {f"loss/{stream}": error for stream, error in zip(rows, errors)}
        return Loss(torch.stack(list(parts.values())).sum(), parts)

    def after_step(self, step: int) -> None:
        """Count which codes fired; every ``replace_after`` steps those that never did become rows."""
        if self._last is None or self.replace_after == 0:
            return
        rows, indices = self._last
        self._last = None
        self.fired.add_(of_all_ranks.total(torch.bincount(indices.flatten(), minlength=self.n_concepts)))
        if (step + 1) % self.replace_after == 0:
            dead = self.fired == 0
            with torch.no_grad():
                # The ranks draw alike, from the rows of all of them.
                of_streams = torch.cat([of_all_ranks.gathered(x) for x in rows])
                self.codes[dead] = _noisy(of_streams, int(dead.sum()))
            self.fired.zero_()

    def _normed(self, x: Tensor) -> Tensor:
        return (x - self.offset) / self.scale

    def _snap(self, x: Tensor) -> tuple[Tensor, Tensor]:
        output, indices = codebook_snap(x, self.codes, self.k, self.metric, self.gradient)
        return (output * self.k if self.reduce == "sum" else output), indices


def _noisy(rows: Tensor, count: int) -> Tensor:
    """Return random rows ``(count, d)`` with a little noise, so that no two are equal."""
    chosen = rows[torch.randint(len(rows), (count,), device=rows.device)]
    length = torch.linalg.vector_norm(chosen, dim=1, keepdim=True)
    return chosen + NOISE * length * torch.randn_like(chosen)
