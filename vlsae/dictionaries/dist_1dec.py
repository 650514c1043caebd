"""VL-SAE's distance encoder with one decoder for both modalities (VL-SAE paper, component ablation)."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from vlsae.dictionaries.vl_sae import VLSAE


class DistanceOneDecoder(VLSAE):
    """VL-SAE's distance encoder with one decoder, whichever modality a row comes from; options as in VL-SAE."""

    kind: ClassVar[str] = "dist_1dec"

    def _add_decoders(self) -> None:
        self.decoder = nn.Linear(self.n_concepts, self.width)

    def _decoder(self, stream: str) -> nn.Linear:
        return self.decoder
