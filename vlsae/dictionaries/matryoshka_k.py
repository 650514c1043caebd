"""Matryoshka autoencoder over k: reconstructions from nested numbers of active concepts (arXiv 2502.20578).

Shapes: n rows of all streams, d width, h concepts, k active concepts.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from vlsae.bounds import OneOf, Range
from vlsae.dictionaries.base import OptionalCount, one_of, positive
from vlsae.dictionaries.centered import CenteredDictionary
from vlsae.dictionaries.linear import mean_squared_error
from vlsae.dictionaries.selection import top_k
from vlsae.errors import UserError

WEIGHTINGS = ("uniform", "decreasing")


class MatryoshkaK(CenteredDictionary):
    """TopK autoencoder with the loss ``Σ_g w_g ‖x − x̂(TopK_{k_g})‖²`` for ``k_g`` = k, 2k, 4k … up to ``largest``.

    ``weighting``: ``uniform`` weights are 1, ``decreasing`` ones fall evenly from 1 at k to 1/G at the last of G.
    ``largest`` defaults to all concepts. Codes have k active concepts. Other options as in TopK.
    """

    kind: ClassVar[str] = "matryoshka_k"

    def __init__(
        self,
        width: int,
        n_concepts: OptionalCount = None,
        k: OptionalCount = None,
        *,
        auxiliary_weight: Annotated[float, Range(0, None)] = 0.0,
        weighting: Annotated[str, OneOf(*WEIGHTINGS)] = "uniform",
        largest: OptionalCount = None,
        **options: Any,
    ) -> None:
        super().__init__(width, n_concepts, k, auxiliary_weight=auxiliary_weight, **options)
        self.weighting = one_of("weighting", weighting, WEIGHTINGS)
        self.largest = positive("largest", self.n_concepts if largest is None else largest)
        if not self.k <= self.largest <= self.n_concepts:
            raise UserError(f"largest must lie in {self.k}…{self.n_concepts} (k to n_concepts); got {largest}.")

    def levels(self) -> list[int]:
        """Return the numbers of active concepts that reconstruct: k, doubled until the largest."""
        levels = [self.k]
        while levels[-1] < self.largest:
            levels.append(min(2 * levels[-1], self.largest))
        return levels

    def _terms(
        self, x: Tensor, active: Tensor, code: Tensor, sizes: list[int], parts: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        # The errors at k, of weight 1, are parts already.
        levels = self.levels()
        order = top_k(active, self.largest)
        code, terms = code.to(x.dtype), {}
        for number, (before, level) in enumerate(pairwise(levels), start=1):
            added = order[:, before:level]
            code = code.scatter(1, added, active.gather(1, added).to(x.dtype))
            errors = map(mean_squared_error, self._reconstruct(code, "vision").split(sizes), x.split(sizes))
            weight = 1.0 if self.weighting == "uniform" else 1 - number / len(levels)
            terms[f"loss/k_{level}"] = weight * torch.stack(list(errors)).sum()
        return terms
