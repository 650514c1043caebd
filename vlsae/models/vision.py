"""What the models of one vision stream share: loading once, rows of each site, edits.

Shapes: b images, s positions, d width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vlsae.errors import UserError, unknown
from vlsae.models.base import Batch, Model, Rows, Site, TokenSelection

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from torch import Tensor

    from vlsae.models.towers import Tower

EMBEDDING = "vision.embedding"

PRECISIONS = ("float32", "bfloat16", "float16")


class VisionModel(Model):
    """A model that sees images alone; texts are not looked at."""

    def __init__(self) -> None:
        self._module: Any = None
        self._loaded = ("", "")

    @abstractmethod
    def _describe(self) -> Tower:
        """Return where the blocks are, without the weights."""

    @abstractmethod
    def _build(self) -> Any:
        """Return the module with its weights, on the CPU in float32."""

    @abstractmethod
    def _pixels(self, images: np.ndarray | Sequence[Image.Image]) -> Tensor:
        """Return the module's inputs ``(b, 3, height, width)`` by the model's own transform."""

    @abstractmethod
    def _encode(self, module: Any, pixels: Tensor) -> Tensor:
        """Run the module and return its embedding ``(b, d)``."""

    def _sequence(self, hidden: Tensor) -> Tensor:
        """Return hidden states as ``(b, s, d)``."""
        return hidden

    def _as_before(self, sequence: Tensor, hidden: Tensor) -> Tensor:
        """Return hidden states ``(b, s, d)`` in the form that the module works with."""
        return sequence

    @cached_property
    def tower(self) -> Tower:
        """Where the blocks are."""
        return self._describe()

    @cached_property
    def _sites(self) -> dict[str, Site]:
        return dict(self.tower.sites())

    @property
    def module(self) -> Any:
        """The original module; loaded on the CPU in float32 where ``load`` was not called."""
        if self._module is None:
            self.load()
        return self._module

    def sites(self) -> dict[str, Site]:
        """Return every site in the order in which the model reaches them."""
        return dict(self._sites)

    def load(self, device: str = "cpu", dtype: str = "float32") -> None:
        """Load the weights once, in evaluation mode; ``UserError`` where they are damaged or do not fit."""
        import torch

        if dtype not in PRECISIONS:
            raise unknown("precision", dtype, PRECISIONS)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if self._module is None or self._loaded != (device, dtype):
            self._module = self._build().to(device=device, dtype=getattr(torch, dtype)).eval()
            self._loaded = (device, dtype)

    def prepare(
        self, images: np.ndarray | Sequence[Image.Image] | None = None, texts: Sequence[str] | None = None
    ) -> Batch:
        """Preprocess images (PIL, or uint8 ``(n, height, width, 3)``); needs no weights."""
        return Batch(vision=None if images is None or len(images) == 0 else self._pixels(images))

    def represent(self, batch: Batch, sites: Iterable[str], tokens: TokenSelection | None = None) -> dict[str, Rows]:
        """Return the rows of each site, running the model no further than its last one.

        Values lie on the model's device, row numbers on the CPU. The embedding has one row an image, position −1.

        Raises:
            UserError: an unknown site or pooling, or a batch without images.
        """
        import torch

        from vlsae.models.hooks import place, read
        from vlsae.models.positions import image_positions
        from vlsae.models.token_rows import TokenRows, check_selection

        wanted = [sites] if isinstance(sites, str) else list(sites)
        selection = tokens or TokenSelection()
        check_selection(selection)
        for site in wanted:
            self._check_site(site)
        pixels = batch.vision
        if pixels is None:
            raise UserError("A vision site is asked for, and the batch has no images.", "Give images for it.")
        module, tower = self.module, self.tower
        inner = [site for site in self._sites if site in wanted and site != EMBEDDING]
        rows: dict[str, Rows] = {}
        if inner:
            pooled = TokenRows(
                "vision",
                selection,
                lambda items, length: image_positions(items, length, tower.prefix),
                tower.class_index,
            )
        first = next(module.parameters())
        with torch.no_grad():
            features = read(
                {site: place(module, self._sites[site].module) for site in inner},
                lambda site, hidden: rows.update({site: pooled(self._sequence(hidden))}),
                lambda: self._encode(module, pixels.to(first.device, first.dtype)),
                last=None if EMBEDDING in wanted else inner[-1],
            )
        if EMBEDDING in wanted:
            number = torch.arange(len(features))
            rows[EMBEDDING] = Rows(features, number, torch.full_like(number, -1))
        return {site: rows[site] for site in wanted}

    def edit(self, site: str, function: Callable[[Any], Any]) -> AbstractContextManager[None]:
        """Within the context, replace the hidden states ``(b, s, d)`` at a site by ``function`` of them.

        Raises:
            UserError: an unknown site, or the embedding, behind which nothing is left to run.
        """
        from vlsae.models.hooks import edited, place

        self._check_site(site)
        if site == EMBEDDING:
            raise UserError(f"{site} is the model's output; nothing runs behind an edit there.", "Edit a block's site.")

        def of_sequence(hidden: Tensor) -> Tensor:
            sequence = self._sequence(hidden)
            new = function(sequence)
            return hidden if new is None or new is sequence else self._as_before(new, hidden)

        return edited(place(self.module, self._sites[site].module), of_sequence)

    def _check_site(self, site: str) -> None:
        if site not in self._sites:
            raise unknown("site", site, self._sites)
