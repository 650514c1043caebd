"""One linear encoder for both modalities and a decoder for each: the cell missing in the VL-SAE paper's ablation."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from vlsae.dictionaries.base import OptionalCount
from vlsae.dictionaries.kernels import concept_major
from vlsae.dictionaries.linear import LinearDictionary


class SharedLinear(LinearDictionary):
    """SAE-S's encoder with VL-SAE's two decoders, so that the effects of encoder and decoders can be told apart.

    ``n_concepts`` defaults to ``expansion · width``, ``k`` to a sixteenth of the concepts.
    """

    kind: ClassVar[str] = "shared_lin_2dec"

    def __init__(self, width: int, n_concepts: OptionalCount = None, k: OptionalCount = None, **options: Any) -> None:
        super().__init__(width, n_concepts, k, **options)
        self.encoder = nn.Linear(width, self.n_concepts)
        self.vision_decoder = concept_major(nn.Linear(self.n_concepts, width))
        self.text_decoder = concept_major(nn.Linear(self.n_concepts, width))

    def _encoder(self, stream: str) -> nn.Linear:
        return self.encoder

    def _decoder(self, stream: str) -> nn.Linear:
        return self.vision_decoder if stream == "vision" else self.text_decoder
