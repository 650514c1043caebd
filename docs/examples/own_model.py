"""A model of your own: the mean colours of a picture's cells, and counts of words, with no weights to learn.

    vlsae train --plugin own_model.py model=colour_grid

It stands beside a trained model as what colours and words alone give.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import numpy as np
import torch

from vlsae.bounds import Range
from vlsae.errors import unknown
from vlsae.models.base import Batch, Model, Rows, Site, TokenSelection
from vlsae.plugins import register


@register("model", "colour_grid")
class ColourGrid(Model):
    """A picture's mean colour in ``grid`` × ``grid`` cells, and a text's words hashed to as many columns."""

    def __init__(self, *, grid: Annotated[int, Range(1, 32)] = 4) -> None:
        self.grid = grid
        self.width = 3 * grid**2
        self.edits: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {}

    def sites(self) -> dict[str, Site]:
        """Both streams have one place to read, the joint output."""
        return {f"{stream}.embedding": Site(self.width, stream) for stream in ("vision", "language")}

    def digest(self) -> str:
        """All that decides the numbers: change the text when you change the computation, and old runs stay apart."""
        return hashlib.sha256(f"colour grid 1, {self.grid}".encode()).hexdigest()

    def load(self, device: str = "cpu", dtype: str = "float32") -> None:
        """Weights would be read here, once and late; there are none."""

    def prepare(self, images: Any = None, texts: Sequence[str] | None = None) -> Batch:
        """Return cells of pictures ``(b, width)`` and counts of words ``(c, width)``."""
        vision = None if images is None else torch.stack([self._cells(np.asarray(image)) for image in images])
        language = None if texts is None else torch.stack([self._counts(text) for text in texts])
        return Batch(vision, language)

    def represent(self, batch: Batch, sites: Iterable[str], tokens: TokenSelection | None = None) -> dict[str, Rows]:
        """Return one row an item; position −1 says that it stands for the whole of it."""
        found = {}
        for site in sites:
            if site not in self.sites():
                raise unknown("site", site, self.sites())
            values = getattr(batch, site.split(".")[0])
            values = self.edits.get(site, lambda rows: rows)(values)
            numbers = torch.arange(len(values))
            found[site] = Rows(values, numbers, torch.full_like(numbers, -1))
        return found

    @contextmanager
    def edit(self, site: str, function: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
        """Replace the site's rows by ``function(rows)`` within the context."""
        self.edits[site] = function
        try:
            yield
        finally:
            del self.edits[site]

    def _cells(self, pixels: np.ndarray) -> torch.Tensor:
        channels = torch.from_numpy(pixels.copy()).float().permute(2, 0, 1) / 255
        return torch.nn.functional.adaptive_avg_pool2d(channels, self.grid).flatten()

    def _counts(self, text: str) -> torch.Tensor:
        columns = [zlib.crc32(word.encode()) % self.width for word in text.lower().split()]
        return torch.bincount(torch.tensor(columns, dtype=torch.int64), minlength=self.width).float()
