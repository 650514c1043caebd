"""TopK autoencoder with a unit-norm decoder and an auxiliary loss for dead concepts (arXiv 2406.04093, section 2)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from vlsae.bounds import OneOf, Range
from vlsae.dictionaries.base import Count, OptionalCount
from vlsae.dictionaries.centered import CenteredDictionary


class TopK(CenteredDictionary):
    """``z = W_e (x − b_d) + b_e``, ``x̂ = W_d TopK(ReLU z) + b_d``, columns of ``W_d`` of length 1, for all streams.

    ``center``: ``b_d`` starts at the rows' geometric ``median``, their ``mean`` or ``zero``. A concept silent for
    ``dead_after`` rows is dead; dead ones learn from what the others leave over, weighted by ``auxiliary_weight``.
    ``n_concepts`` defaults to ``expansion · width``, ``k`` to a sixteenth of the concepts.
    """

    kind: ClassVar[str] = "top_k"

    def __init__(
        self,
        width: int,
        n_concepts: OptionalCount = None,
        k: OptionalCount = None,
        *,
        expansion: Count = 8,
        center: Annotated[str, OneOf("median", "mean", "zero")] = "median",
        dead_after: Count = 1_000_000,
        auxiliary_weight: Annotated[float, Range(0, None)] = 1 / 32,
    ) -> None:
        super().__init__(
            width,
            n_concepts,
            k,
            expansion=expansion,
            center=center,
            dead_after=dead_after,
            auxiliary_weight=auxiliary_weight,
        )
