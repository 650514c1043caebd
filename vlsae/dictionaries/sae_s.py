"""SAE-S: one sparse autoencoder for both modalities (VL-SAE paper, baselines; SAE_V in its code)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from vlsae.dictionaries.base import OptionalCount
from vlsae.dictionaries.kernels import concept_major
from vlsae.dictionaries.linear import LinearDictionary


class SAES(LinearDictionary):
    """One linear encoder and one decoder, whichever modality a row comes from.

    ``n_concepts`` defaults to ``expansion · width``, ``k`` to a sixteenth of the concepts.
    """

    kind: ClassVar[str] = "sae_s"

    def __init__(self, width: int, n_concepts: OptionalCount = None, k: OptionalCount = None, **options: Any) -> None:
        super().__init__(width, n_concepts, k, **options)
        self.encoder = nn.Linear(width, self.n_concepts)
        self.decoder = concept_major(nn.Linear(self.n_concepts, width))

    @classmethod
    def from_author_state(cls, state: Mapping[str, Tensor], k: int | None) -> SAES:
        """Return the dictionary of the published code's SAE_V state dict; ``k`` is not in it and must be given."""
        from vlsae.dictionaries.import_author import from_author_state

        return from_author_state(cls, state, k)

    def _encoder(self, stream: str) -> nn.Linear:
        return self.encoder

    def _decoder(self, stream: str) -> nn.Linear:
        return self.decoder
