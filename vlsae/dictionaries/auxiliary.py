"""Auxiliary autoencoder: maps representations that are not aligned into one space (VL-SAE paper, section 3.2).

Shapes: n pairs, p width of the shared space.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlsae.bounds import check_finite_number
from vlsae.dictionaries.base import STREAMS, check_rows, check_stream, one_of, positive
from vlsae.dictionaries.linear import mean_squared_error
from vlsae.dictionaries.pretrained import Pretrained
from vlsae.errors import UserError
from vlsae.training.objective import Loss, Objective
from vlsae.training.parts import gathered


class AuxiliaryAutoencoder(Pretrained, Objective):
    """Two linear maps into a space of ``width`` where pairs meet, and two back; no non-linearity.

    ``similarity``: ``cosine``, or ``dot`` as in the published code, whose loss depends on the rows' lengths.
    """

    kind: ClassVar[str] = "auxiliary"
    over_ranks: ClassVar[bool] = True

    def __init__(
        self,
        vision_width: int,
        language_width: int,
        width: int,
        similarity: str = "cosine",
        temperature: float = 0.07,
    ) -> None:
        super().__init__()
        self.vision_width = positive("vision_width", vision_width)
        self.language_width = positive("language_width", language_width)
        self.width = positive("width", width)
        self.similarity = one_of("similarity", similarity, ("cosine", "dot"))
        check_finite_number("temperature", temperature, low=0)
        if temperature == 0:
            raise UserError("temperature must be above 0; got 0.")
        self.temperature = temperature
        self.vision_projection = nn.Linear(vision_width, width)
        self.text_projection = nn.Linear(language_width, width)
        self.vision_decoder = nn.Linear(width, vision_width)
        self.text_decoder = nn.Linear(width, language_width)

    def encode(self, x: Tensor, stream: str) -> Tensor:
        """Return rows ``(n, d)`` of a stream in the shared space, ``(n, p)``."""
        check_stream(stream)
        projection = self.vision_projection if stream == "vision" else self.text_projection
        return projection(check_rows(x, projection.in_features, "x", stream).to(projection.weight))

    def decode(self, e: Tensor, stream: str) -> Tensor:
        """Return rows ``(n, p)`` of the shared space as the stream's own, ``(n, d)``."""
        check_stream(stream)
        decoder = self.vision_decoder if stream == "vision" else self.text_decoder
        return decoder(check_rows(e, self.width, "e", stream).to(decoder.weight))

    def loss(self, batch: Mapping[str, Tensor], step: int = 0) -> Loss:
        """Return the symmetric contrastive loss of pairs and the mean squared errors of both streams, summed.

        Row i of one stream is the pair of row i of the other. In evaluation mode the parts also hold the share of
        rows whose nearest row of the other stream is their pair. ``ValueError`` unless the streams have as many rows.
        """
        if not isinstance(batch, Mapping) or set(batch) != set(STREAMS):
            raise UserError(f"A batch must map 'vision' and 'language' to paired rows; it holds {sorted(batch)}.")
        codes = {stream: self.encode(batch[stream], stream) for stream in STREAMS}
        counts = {stream: code.shape[0] for stream, code in codes.items()}
        if len(set(counts.values())) > 1 or 0 in counts.values():
            raise UserError(f"A batch must hold equally many rows of each stream, at least one; got {counts}.")
        errors = [
            mean_squared_error(self.decode(code, stream), batch[stream].to(code)) for stream, code in codes.items()
        ]
        similarity = self._similarity(*(gathered(codes[stream]) for stream in STREAMS))
        pairs = torch.arange(similarity.shape[0], device=similarity.device)
        contrastive = (F.cross_entropy(similarity, pairs) + F.cross_entropy(similarity.T, pairs)) / 2
        parts = {"loss/contrastive": contrastive, "loss/reconstruction": errors[0] + errors[1]}
        total = contrastive + errors[0] + errors[1]
        if not self.training:
            parts["top1/image_to_text"] = (similarity.argmax(dim=1) == pairs).to(total.dtype).mean()
            parts["top1/text_to_image"] = (similarity.argmax(dim=0) == pairs).to(total.dtype).mean()
        return Loss(total, parts)

    def optimizer(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        """Return AdamW with weight decay 0.01."""
        return torch.optim.AdamW(groups, lr=lr, weight_decay=0.01)

    def _similarity(self, vision: Tensor, language: Tensor) -> Tensor:
        if self.similarity == "cosine":
            vision, language = (F.normalize(code, dim=1, eps=1e-12) for code in (vision, language))
        return vision @ language.T / self.temperature
