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

BATCH = 8


class TextOutput(Output):
    """Texts with the concept and neutral texts under a model whose states at ``site`` are changed.

    ``towards`` is 1 where the concept's texts shall be expected more, −1 where less.
    """

    wanted = "nats a token by which texts of the concept are expected more (less, where it is lowered or removed)"
    damage = "divergence in nats a token of what the model expects in neutral texts from what it expected before"

    def __init__(self, model: Any, site: str, concept: Sequence[str], neutral: Sequence[str], towards: int) -> None:
        self._model, self._site, self._towards = model, site, towards
        self._concept, self._neutral = _batches(model, concept), _batches(model, neutral)
        self._before = self._losses(self._concept, None), self._losses(self._neutral, None)
        self._clean = [torch.log_softmax(model.logits(batch).float(), dim=-1) for batch in self._neutral]

    def respond(self, change: Change | None) -> Response:
        """Return the fall in loss on the concept's texts, and divergence and rise in loss on the neutral ones."""
        wanted = self._towards * (self._before[0] - self._losses(self._concept, change))
        divergences = [self._divergence(batch, clean, change) for batch, clean in zip(self._neutral, self._clean)]
        rise = self._losses(self._neutral, change) - self._before[1]
        return Response(wanted, np.concatenate(divergences), {"loss on neutral text": rise})

    def _losses(self, batches: Sequence[Any], change: Change | None) -> np.ndarray:
        found = [self._under(change, lambda batch=batch: self._model.losses(batch)) for batch in batches]
        return np.concatenate([torch.nanmean(losses, dim=1).double().cpu().numpy() for losses in found])

    def _divergence(self, batch: Any, clean: Tensor, change: Change | None) -> np.ndarray:
        logits = self._under(change, lambda: self._model.logits(batch))
        steered = torch.log_softmax(logits.float(), dim=-1)
        each = (clean.exp() * (clean - steered)).sum(dim=-1)
        mask = batch.mask.to(each.device, each.dtype)
        return ((each * mask).sum(dim=1) / mask.sum(dim=1)).clamp(min=0).double().cpu().numpy()

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


def _batches(model: Any, texts: Sequence[str]) -> list[Any]:
    return [model.prepare(None, list(texts[first : first + BATCH])) for first in range(0, len(texts), BATCH)]
