"""Images at a layer of a CLIP's vision tower, and the embeddings that come out when what lies there is changed.

n images, s tokens, d width of the layer, e width of the embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from vlsae.enhancement.steering import Change
from vlsae.errors import UserError
from vlsae.models.base import TokenSelection

EMBEDDING = "vision.embedding"

#: Images that pass through the model at once.
BATCH = 128


class LayerImages:
    """Some images of the data at a site of the vision tower, ``site``, pooled as its rows are: by the class token.

    A tower without one has the mean of its tokens; then a change of the mean moves all tokens alike.
    """

    def __init__(self, model: Any, data: Any, ids: Sequence[str], site: str) -> None:
        self._model, self._data, self.site = model, data, site
        row_of = {one: row for row, one in enumerate(data.table["sample_id"])}
        missing = [one for one in ids if one not in row_of]
        if missing:
            raise UserError(f"The task's data has no image {missing[0]}.", "Use the data that its rows were made from.")
        self._rows = [row_of[one] for one in ids]

    def values(self) -> Tensor:
        """Return the rows at the site ``(n, d)``."""
        return torch.cat([rows.float().cpu() for rows in self._clean])

    def embeddings(self, change: Change | None) -> Tensor:
        """Return the embeddings ``(n, e)`` of the images whose rows at the site are changed."""
        found = []
        for number, batch in enumerate(self._batches()):
            if change is None:
                rows = self._at(batch, EMBEDDING)
            else:
                clean = self._clean[number]
                with self._model.edit(self.site, lambda hidden, clean=clean: moved_tokens(hidden, clean, change)):
                    rows = self._at(batch, EMBEDDING)
            found.append(rows.float().cpu())
        return torch.cat(found)

    def take(self, numbers: Sequence[int]) -> LayerImages:
        """Return some of the images."""
        found = object.__new__(LayerImages)
        found._model, found._data, found.site = self._model, self._data, self.site
        found._rows = [self._rows[int(number)] for number in numbers]
        return found

    @cached_property
    def _clean(self) -> list[Tensor]:
        """The rows at the site, a batch each, unchanged: the same whatever is changed there."""
        return [self._at(batch, self.site) for batch in self._batches()]

    def _batches(self) -> Iterator[Any]:
        for first in range(0, len(self._rows), BATCH):
            yield self._model.prepare(self._data.images(self._rows[first : first + BATCH]))

    def _at(self, batch: Any, site: str) -> Tensor:
        return self._model.represent(batch, [site], TokenSelection())[site].values


@torch.no_grad()
def moved_tokens(hidden: Tensor, pooled: Tensor, change: Change) -> Tensor:
    """Return hidden states ``(b, s, d)`` whose pooled rows ``(b, d)`` are changed; the same tensor where none is.

    The class token alone moves where it is what was pooled, else all tokens by as much.
    """
    rows = pooled.float().cpu()
    shift = (change(rows) - rows).to(hidden)
    if not shift.any():
        return hidden
    moved = hidden.clone()
    if torch.equal(hidden[:, 0], pooled.to(hidden)):
        moved[:, 0] += shift
    else:
        moved += shift[:, None]
    return moved
