"""What a language model makes of steered hidden states: how well it expects texts of the concept, and neutral ones.

n texts with the concept, m neutral texts, s positions, v vocabulary, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlsae.enhancement.dose_response import Output, Response
from vlsae.enhancement.steering import Change
from vlsae.models.token_losses import token_losses

BATCH = 8


class TextOutput(Output):
    """Texts with the concept and neutral texts under a model whose states at ``site`` are changed.

    ``towards`` is 1 where the concept's texts shall be expected more, −1 where less.
    """

    wanted = "nats a token by which texts of the concept are expected more (less, where it is lowered or removed)"
    damage = "divergence in nats a token of what the model expects in neutral texts from what it expected before"
    unit = "nats a token"

    def __init__(self, model: Any, site: str, concept: Sequence[str], neutral: Sequence[str], towards: int) -> None:
        self._model, self._site, self._towards = model, site, towards
        self._concept, self._neutral = _batches(model, concept), _batches(model, neutral)
        self._before = np.concatenate([self._losses(batch, None) for batch in self._concept])

    def respond(self, change: Change | None) -> Response:
        """Return the fall in loss on the concept's texts, and divergence and rise in loss on the neutral ones."""
        after = np.concatenate([self._losses(batch, change) for batch in self._concept])
        damage, rise = zip(*(self._harm(batch, change) for batch in self._neutral))
        further = {"loss on neutral text": np.concatenate(rise)}
        return Response(self._towards * (self._before - after), np.concatenate(damage), further)

    def _losses(self, batch: Any, change: Change | None) -> np.ndarray:
        return _mean_losses(self._under(change, lambda: self._model.logits(batch)), batch)

    def _harm(self, batch: Any, change: Change | None) -> tuple[np.ndarray, np.ndarray]:
        """Return divergence and rise in loss of neutral texts; the clean output is made anew, too large to be kept."""
        clean = self._model.logits(batch).float()
        steered = clean if change is None else self._under(change, lambda: self._model.logits(batch)).float()
        before, after = (torch.log_softmax(one, dim=-1) for one in (clean, steered))
        each = (before.exp() * (before - after)).sum(dim=-1)
        mask = batch.mask.to(each.device, each.dtype)
        divergence = ((each * mask).sum(dim=1) / mask.sum(dim=1)).clamp(min=0).double().cpu().numpy()
        return divergence, _mean_losses(steered, batch) - _mean_losses(clean, batch)

    def _under(self, change: Change | None, forward: Any) -> Tensor:
        if change is None:
            return forward()
        with self._model.edit(self._site, lambda hidden: in_rows(hidden, change)):
            return forward()


@torch.no_grad()
def in_rows(hidden: Tensor, change: Change) -> Tensor:
    """Return hidden states ``(b, s, d)`` with every position changed as a row; the same tensor where nothing is."""
    rows = hidden.reshape(-1, hidden.shape[-1])
    moved = change(rows.float()).to(hidden.dtype)
    return hidden if torch.equal(moved, rows) else moved.reshape(hidden.shape)


def _mean_losses(logits: Tensor, batch: Any) -> np.ndarray:
    """Return each text's mean −ln p a token ``(b,)``."""
    ids, mask = (part.to(logits.device) for part in (batch.language, batch.mask))
    return torch.nanmean(token_losses(logits, ids, mask), dim=1).double().cpu().numpy()


def _batches(model: Any, texts: Sequence[str]) -> list[Any]:
    return [model.prepare(None, list(texts[first : first + BATCH])) for first in range(0, len(texts), BATCH)]
