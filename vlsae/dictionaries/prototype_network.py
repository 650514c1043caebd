"""Prototype case-based reasoning on stored rows: classes by distance to latent prototypes (arXiv 1710.04806).

Shapes: n rows of all streams, d width, q latent width, p prototypes, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from vlsae.bounds import OneOf, Range
from vlsae.dictionaries.base import Count, Dictionary, OptionalCount, SparseCode, one_of, positive
from vlsae.dictionaries.centered import unit_size
from vlsae.dictionaries.prototype import prototype_distances, prototype_loss
from vlsae.dictionaries.selection import top_k
from vlsae.errors import UserError
from vlsae.training.objective import Loss, Objective

INITIALS = ("uniform", "rows")


class PrototypeNetwork(Dictionary, Objective):
    """An autoencoder ``g(f(x))`` and p latent prototypes; logits are squared distances to them times a weight matrix.

    The loss is ``λ_c CE + λ_ae ‖g(z) − x‖² + λ_1 R1 + λ_2 R2`` over the rows of all streams, ``lambdas`` in this order.
    Batches hold ``labels/<stream>``, the number of each row's class among ``classes``, which are the values of the
    samples' label ``label``. ``encoder``: ``mlp``, one hidden layer of ``hidden`` units each way, or ``identity``.
    ``input_norm=standard``: rows less their mean, over their root mean square, which ``decode`` undoes. ``initial``:
    prototypes and weights are drawn from U[0, 1] as published, or prototypes are latent ``rows``. As a dictionary: the
    ``k`` nearest prototypes are active by ``1 / (1 + distance)``, and a code stands for what g makes of their mean.
    """

    kind: ClassVar[str] = "prototype"
    offset: Tensor
    scale: Tensor

    def __init__(
        self,
        width: int,
        n_concepts: Count = 15,
        k: Count = 1,
        *,
        classes: list[str],
        label: str = "shape",
        encoder: Annotated[str, OneOf("mlp", "identity")] = "mlp",
        latent: Count = 40,
        hidden: OptionalCount = None,
        input_norm: Annotated[str, OneOf("none", "standard")] = "standard",
        initial: Annotated[str, OneOf(*INITIALS)] = "uniform",
        lambdas: list[Annotated[float, Range(0, None)]] | None = None,
    ) -> None:
        super().__init__(width, n_concepts, k)
        if len(classes) < 2:
            raise UserError(f"classes must name at least two classes; got {list(classes)}.")
        self.classes, self.label = [str(name) for name in classes], label
        self.encoder = one_of("encoder", encoder, ("mlp", "identity"))
        self.input_norm = one_of("input_norm", input_norm, ("none", "standard"))
        self.initial = one_of("initial", initial, INITIALS)
        self.lambdas = [20.0, 1.0, 1.0, 1.0] if lambdas is None else [float(one) for one in lambdas]
        if len(self.lambdas) != 4:
            raise UserError(f"lambdas must hold four factors (ce, ae, r1, r2); got {len(self.lambdas)}.")
        self.latent = width if encoder == "identity" else positive("latent", latent)
        self.hidden = 2 * width if hidden is None else positive("hidden", hidden)
        self.to_latent, self.from_latent = self._maps()
        self.prototypes = nn.Parameter(torch.rand(self.n_concepts, self.latent))
        self.weight = nn.Parameter(torch.rand(self.n_concepts, len(self.classes)))
        self.register_buffer("offset", torch.zeros(width))
        self.register_buffer("scale", torch.ones(()))

    def initialize(self, batch: Mapping[str, Tensor]) -> None:
        """Measure the rows' mean and size, and start the prototypes at latent rows where that is asked for."""
        rows = torch.cat(list(self.checked_batch(_rows_of(batch)).values()))
        if self.input_norm == "standard":
            self.offset.copy_(rows.mean(dim=0))
            self.scale.copy_(unit_size(rows - self.offset))
        if self.initial == "rows":
            chosen = rows[torch.randint(len(rows), (self.n_concepts,), device=rows.device)]
            with torch.no_grad():
                self.prototypes.copy_(self._latent(chosen))

    def activations(self, x: Tensor, stream: str) -> Tensor:
        """Return how near each prototype is, ``1 / (1 + distance)``, ``(n, p)``."""
        return 1 / (1 + prototype_distances(self._latent(self.checked(x, stream)), self.prototypes))

    def encode(self, x: Tensor, stream: str) -> SparseCode:
        """Return the k nearest prototypes of each row."""
        near = self.activations(x, stream)
        indices = top_k(near, self.k)
        return SparseCode.from_top(indices, near.gather(1, indices), self.n_concepts)

    def decode(self, code: SparseCode | Tensor, stream: str) -> Tensor:
        """Return what the decoder makes of the mean of a code's prototypes, ``(n, d)``."""
        dense = self.dense(code, stream)
        share = dense / dense.sum(dim=1, keepdim=True).clamp(min=torch.finfo(dense.dtype).tiny)
        return self.from_latent(share @ self.prototypes) * self.scale + self.offset

    def logits(self, x: Tensor, stream: str) -> Tensor:
        """Return the classes' logits ``(n, K)``: the sum over prototypes of distance times weight."""
        return prototype_distances(self._latent(self.checked(x, stream)), self.prototypes) @ self.weight

    def loss(self, batch: Mapping[str, Tensor], step: int = 0) -> Loss:
        """Return the four weighted terms over all rows; in evaluation mode also each stream's accuracy.

        Raises ``ValueError`` for a batch without ``labels/<stream>``.
        """
        rows = self.checked_batch(_rows_of(batch))
        labels = {stream: _labels(batch, stream) for stream in rows}
        x = (torch.cat(list(rows.values())) - self.offset) / self.scale
        z = self.to_latent(x)
        total, terms = prototype_loss(
            z, self.prototypes, self.weight, x, self.from_latent(z), torch.cat(list(labels.values())), self.lambdas
        )
        parts = {f"loss/{name}": factor * term for factor, (name, term) in zip(self.lambdas, terms.items())}
        if not self.training:
            for stream, own in rows.items():
                right = self.logits(own, stream).argmax(dim=1) == labels[stream]
                parts[f"accuracy/{stream}"] = right.to(total.dtype).mean()
        return Loss(total, parts)

    def _latent(self, x: Tensor) -> Tensor:
        return self.to_latent((x - self.offset) / self.scale)

    def _maps(self) -> tuple[nn.Module, nn.Module]:
        if self.encoder == "identity":
            return nn.Identity(), nn.Identity()
        there = nn.Sequential(nn.Linear(self.width, self.hidden), nn.ReLU(), nn.Linear(self.hidden, self.latent))
        back = nn.Sequential(nn.Linear(self.latent, self.hidden), nn.ReLU(), nn.Linear(self.hidden, self.width))
        return there, back


def _rows_of(batch: Any) -> dict[str, Tensor]:
    return {name: x for name, x in dict(batch).items() if not name.startswith("labels/")}


def _labels(batch: Mapping[str, Tensor], stream: str) -> Tensor:
    if f"labels/{stream}" not in batch:
        raise UserError(
            f"objective=prototype learns from labels, and the batch holds no labels/{stream}.",
            "Read the rows with Reader.labelled(numbers of classes).",
        )
    return batch[f"labels/{stream}"]
