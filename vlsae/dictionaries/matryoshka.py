"""Matryoshka autoencoder: the first m concepts alone must reconstruct as well, for growing m (arXiv 2503.17547).

Shapes: n rows of all streams, d width, h concepts.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from vlsae.dictionaries.base import OptionalCount
from vlsae.dictionaries.batch_top_k import BatchTopK
from vlsae.dictionaries.linear import mean_squared_error
from vlsae.errors import UserError

#: The published shares of the concepts that each prefix adds; the last one adds the rest.
SHARES = (1 / 32, 1 / 16, 1 / 8, 1 / 4)


class Matryoshka(BatchTopK):
    """BatchTopK with the loss ``Σ_m ‖x − W_d[:, :m] a[:m] − b_d‖²`` over ``prefixes`` m, which end at all concepts.

    ``prefixes`` defaults to 1/32, 3/32, 7/32, 15/32 and all of the concepts. Other options as in BatchTopK.
    """

    kind: ClassVar[str] = "matryoshka"

    def __init__(
        self,
        width: int,
        n_concepts: OptionalCount = None,
        k: OptionalCount = None,
        *,
        prefixes: list[int] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(width, n_concepts, k, **options)
        self.prefixes = _published(self.n_concepts) if prefixes is None else _checked(prefixes, self.n_concepts)

    def _terms(
        self, x: Tensor, active: Tensor, code: Tensor, sizes: list[int], parts: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        # The whole dictionary's own errors are parts already.
        columns, code = self._columns(), code.to(x.dtype)
        decoded = self.decoder.bias.expand_as(x)
        terms = {}
        for first, last in pairwise([0, *self.prefixes[:-1]]):
            decoded = decoded + code[:, first:last] @ columns[:, first:last].T
            errors = map(mean_squared_error, decoded.split(sizes), x.split(sizes))
            terms[f"loss/prefix_{last}"] = torch.stack(list(errors)).sum()
        return terms


def _published(n_concepts: int) -> list[int]:
    ends, end = set(), 0
    for share in SHARES:
        end += max(1, int(share * n_concepts))
        ends.add(min(end, n_concepts))
    return sorted({*ends, n_concepts})


def _checked(prefixes: list[int], n_concepts: int) -> list[int]:
    whole = all(isinstance(end, int) and not isinstance(end, bool) for end in prefixes)
    if not (whole and prefixes and prefixes[0] > 0 and all(a < b for a, b in pairwise(prefixes))):
        raise UserError(f"prefixes must be rising numbers of concepts from 1; got {prefixes}.")
    if prefixes[-1] > n_concepts:
        raise UserError(f"prefixes must not exceed n_concepts, {n_concepts}; got {prefixes}.")
    return [*prefixes] if prefixes[-1] == n_concepts else [*prefixes, n_concepts]
