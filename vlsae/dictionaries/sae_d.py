"""SAE-D: two separate sparse autoencoders, one for each modality (VL-SAE paper, baselines)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from vlsae.dictionaries.base import OptionalCount
from vlsae.dictionaries.kernels import concept_major
from vlsae.dictionaries.linear import LinearDictionary


class SAED(LinearDictionary):
    """Concept i of one modality has nothing to do with concept i of the other but its number.

    ``n_concepts`` defaults to ``expansion · width``, ``k`` to a sixteenth of the concepts.
    """

    kind: ClassVar[str] = "sae_d"

    def __init__(self, width: int, n_concepts: OptionalCount = None, k: OptionalCount = None, **options: Any) -> None:
        super().__init__(width, n_concepts, k, **options)
        self.vision_encoder = nn.Linear(width, self.n_concepts)
        self.text_encoder = nn.Linear(width, self.n_concepts)
        self.vision_decoder = concept_major(nn.Linear(self.n_concepts, width))
        self.text_decoder = concept_major(nn.Linear(self.n_concepts, width))

    @classmethod
    def from_author_state(cls, state: Mapping[str, Tensor], k: int | None) -> SAED:
        """Return the dictionary of the published code's SAE_D state dict; ``k`` is not in it and must be given."""
        from vlsae.dictionaries.import_author import from_author_state

        return from_author_state(cls, state, k)

    def _encoder(self, stream: str) -> nn.Linear:
        return self.vision_encoder if stream == "vision" else self.text_encoder

    def _decoder(self, stream: str) -> nn.Linear:
        return self.vision_decoder if stream == "vision" else self.text_decoder
