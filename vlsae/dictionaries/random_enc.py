"""VL-SAE with an encoder that never learns: the control that learned concepts must beat."""

from __future__ import annotations

from typing import Any, ClassVar

from vlsae.dictionaries.base import OptionalCount
from vlsae.dictionaries.vl_sae import VLSAE


class RandomEncoder(VLSAE):
    """VL-SAE whose encoder stays as it was drawn while the decoders learn; options as in VL-SAE."""

    kind: ClassVar[str] = "random_enc"

    def __init__(self, width: int, n_concepts: OptionalCount = None, k: OptionalCount = None, **options: Any) -> None:
        super().__init__(width, n_concepts, k, **options)
        self.encoder.requires_grad_(False)
