"""VL-SAE with an encoder that never learns: the control that learned concepts must beat."""

from __future__ import annotations

from typing import Annotated, ClassVar

from vlsae.bounds import OneOf
from vlsae.dictionaries.base import Count, OptionalCount
from vlsae.dictionaries.vl_sae import VLSAE


class RandomEncoder(VLSAE):
    """VL-SAE whose encoder stays as it was drawn while the decoders learn; options as in VL-SAE."""

    kind: ClassVar[str] = "random_enc"

    def __init__(
        self,
        width: int,
        n_concepts: OptionalCount = None,
        k: OptionalCount = None,
        *,
        expansion: Count = 8,
        topk_mode: Annotated[str, OneOf("exact", "reference")] = "exact",
        input_norm: Annotated[str, OneOf("none", "unit", "mean_norm")] = "none",
        loss_balance: Annotated[str, OneOf("none", "variance")] = "none",
    ) -> None:
        options = {"topk_mode": topk_mode, "input_norm": input_norm, "loss_balance": loss_balance}
        super().__init__(width, n_concepts, k, expansion=expansion, **options)
        self.encoder.requires_grad_(False)
