"""Sparse non-negative codes over fixed atoms: the form of NMF and of SpLiCE (arXiv 2402.10376, section 4).

Shapes: n rows, d width, q width of an atom, h atoms.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlsae.dictionaries.base import STREAMS, Dictionary, OptionalCount, SparseCode
from vlsae.errors import UserError

#: Steps of the accelerated descent at most, and the change beside the largest weight below which it ends.
STEPS, TOLERANCE = 2000, 1e-6

#: How near the number of active concepts must come to the one asked for, and halvings that look for it.
NEAR, HALVINGS = 0.05, 24


class NonNegative(Dictionary):
    """``w = argmin_{w ≥ 0} ‖Aᵀ w − z‖² + 2 λ Σ w`` of rows z, with λ for ``k`` active atoms on average.

    ``unit``: z is the row at length 1 less its stream's mean, at length 1 again, and a code stands for a row of length
    1 (SpLiCE). Else z is the row less the offset over a scale; ``split`` stacks its positive and its negative part, so
    that atoms can be non-negative too (NMF). ``names`` are the concepts' own, where they have such.
    """

    kind: ClassVar[str] = "nonnegative"
    bounds_k: ClassVar[bool] = False
    offset: Tensor
    scale: Tensor
    penalty: Tensor

    def __init__(
        self,
        width: int,
        n_concepts: OptionalCount = None,
        k: OptionalCount = None,
        *,
        unit: bool = False,
        split: bool = False,
        names: list[str] | None = None,
    ) -> None:
        super().__init__(width, n_concepts, k)
        if unit and split:
            raise UserError("unit and split exclude each other: rows of length 1 are not split by sign.")
        if names is not None and len(names) != self.n_concepts:
            raise UserError(f"names must name {self.n_concepts} concepts; got {len(names)}.")
        self.unit, self.split, self.names = unit, split, names
        self.atoms = nn.Parameter(torch.rand(self.n_concepts, 2 * width if split else width), requires_grad=False)
        self.register_buffer("offset", torch.zeros(2, width))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("penalty", torch.tensor(1e-3))

    def activations(self, x: Tensor, stream: str) -> Tensor:
        """Return the products of a row and the atoms, those below zero left out, ``(n, h)``."""
        return F.relu(self.lifted(x, stream) @ self.atoms.T)

    def encode(self, x: Tensor, stream: str) -> SparseCode:
        """Return the weights of each row's atoms."""
        return SparseCode.from_dense(nonnegative_weights(self.lifted(x, stream), self.atoms, self.penalty))

    def decode(self, code: SparseCode | Tensor, stream: str) -> Tensor:
        """Return the rows ``(n, d)`` of codes, at length 1 with ``unit``."""
        rows = self.dense(code, stream) @ self.atoms
        own = self.offset[STREAMS.index(stream)]
        if self.unit:
            return F.normalize(rows + own, dim=1, eps=1e-12)
        if self.split:
            rows = rows[:, : self.width] - rows[:, self.width :]
        return rows * self.scale + own

    def target(self, x: Tensor, stream: str) -> Tensor:
        """Return what ``decode(encode(x))`` approximates: ``x``, at length 1 with ``unit``."""
        x = self.checked(x, stream)
        return F.normalize(x, dim=1, eps=1e-12) if self.unit else x

    def lifted(self, x: Tensor, stream: str) -> Tensor:
        """Return what the atoms put together, ``(n, q)``."""
        own = self.offset[STREAMS.index(stream)]
        if self.unit:
            return F.normalize(F.normalize(self.checked(x, stream), dim=1, eps=1e-12) - own, dim=1, eps=1e-12)
        z = (self.checked(x, stream) - own) / self.scale
        return torch.cat([F.relu(z), F.relu(-z)], dim=1) if self.split else z

    @torch.no_grad()
    def choose_penalty(self, rows: dict[str, Tensor]) -> float:
        """Set λ so that rows ``(n, d)`` by stream have k active concepts on average, ±5 %; return what they have.

        Without enough atoms that fit, λ = 0 is kept and the number is below k.
        """
        z = torch.cat([self.lifted(x, stream) for stream, x in rows.items()])
        high = float((z @ self.atoms.T).amax().clamp(min=1e-12).log())
        low, found = high - math.log(1e6), 0.0
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            self.penalty.fill_(math.exp(middle))
            found = (nonnegative_weights(z, self.atoms, self.penalty) > 0).sum(dim=1).double().mean().item()
            if abs(found / self.k - 1) <= NEAR:
                break
            low, high = (middle, high) if found > self.k else (low, middle)
        return found


@torch.no_grad()
def nonnegative_weights(z: Tensor, atoms: Tensor, penalty: Tensor | float) -> Tensor:
    """Return ``argmin_{w ≥ 0} ‖w A − z‖² + 2 λ Σ w`` of rows ``z (n, q)`` and ``atoms (h, q)``, ``(n, h)``.

    Accelerated proximal gradient descent (Beck and Teboulle, 2009) with restarts where a step would go uphill
    (O'Donoghue and Candès, 2015).
    """
    gram_norm = torch.linalg.matrix_norm(atoms, ord=2).square().clamp(min=torch.finfo(atoms.dtype).tiny)
    pull = z @ atoms.T - penalty
    weights = torch.zeros_like(pull)
    ahead, momentum = weights, 1.0
    for _ in range(STEPS):
        new = (ahead - ((ahead @ atoms) @ atoms.T - pull) / gram_norm).clamp(min=0)
        change = new - weights
        uphill = ((ahead - new) * change).sum() > 0
        following = 1.0 if uphill else (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        ahead = new if uphill else new + (momentum - 1) / following * change
        weights, momentum = new, following
        if change.abs().amax() <= TOLERANCE * weights.amax().clamp(min=1e-12):
            break
    return weights
