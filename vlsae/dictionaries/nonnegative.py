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

#: Every so many steps rows that stand still are looked for.
LOOKED_AT = 10

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
        low = high - math.log(1e6)
        found = self._active_at(low, z)
        if found <= self.k:
            # Not even without a penalty do as many atoms fit.
            return found
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            found = self._active_at(middle, z)
            if abs(found / self.k - 1) <= NEAR:
                break
            low, high = (middle, high) if found > self.k else (low, middle)
        return found

    def _active_at(self, log_penalty: float, z: Tensor) -> float:
        self.penalty.fill_(math.exp(log_penalty))
        return (nonnegative_weights(z, self.atoms, self.penalty) > 0).sum(dim=1).double().mean().item()


@torch.no_grad()
def nonnegative_weights(z: Tensor, atoms: Tensor, penalty: Tensor | float) -> Tensor:
    """Return ``argmin_{w ≥ 0} ‖w A − z‖² + 2 λ Σ w`` of rows ``z (n, q)`` and ``atoms (h, q)``, ``(n, h)``.

    Accelerated proximal gradient descent (Beck and Teboulle, 2009), of all rows at once; each restarts by itself where
    a step would go uphill (O'Donoghue and Candès, 2015) and is left alone once it stands still.
    """
    size = torch.linalg.matrix_norm(atoms, ord=2).square().clamp(min=torch.finfo(atoms.dtype).tiny)
    pull = (z @ atoms.T - penalty) / size
    found = torch.zeros_like(pull)
    moving = torch.arange(len(z), device=z.device)
    weights, ahead, momentum = found, found, z.new_ones(len(z), 1)
    for step in range(1, STEPS + 1):
        new = (ahead - (ahead @ atoms) @ atoms.T / size + pull).clamp(min=0)
        change = new - weights
        uphill = torch.linalg.vecdot(ahead - new, change)[:, None] > 0
        following = torch.where(uphill, 1.0, (1 + (1 + 4 * momentum.square()).sqrt()) / 2)
        ahead = new + change * torch.where(uphill, 0.0, (momentum - 1) / following)
        weights, momentum = new, following
        if step % LOOKED_AT == 0 or step == STEPS:
            still = change.abs().amax(dim=1) <= TOLERANCE * new.amax(dim=1).clamp(min=1e-12)
            if step == STEPS or still.all():
                found[moving] = new
                break
            if 4 * int(still.sum()) > len(still):
                found[moving[still]] = new[still]
                moving, pull, weights, ahead, momentum = (
                    one[~still] for one in (moving, pull, weights, ahead, momentum)
                )
    return found
