"""CLIP and its kin through open_clip: the original towers, read and edited at every block.

Shapes: b images or texts, s positions, d width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from vlsae.bounds import Range
from vlsae.errors import UserError, unknown
from vlsae.models.base import Batch, Model, Rows, Site, TokenSelection
from vlsae.models.checkpoints import Checkpoint, resolve

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from torch import Tensor

    from vlsae.models.pixels import Pixels
    from vlsae.models.positions import Positions, Vocabulary
    from vlsae.models.towers import Tower

STREAMS = ("vision", "language")

#: The folder of the small CLIP that ships with the package.
BUNDLED = Path(__file__).parent.parent / "bundled" / "clip-v2"


class CLIP(Model):
    """A contrastive image-text model of open_clip: CLIP, SigLIP, CoCa and others, with ViT, timm or ResNet towers.

    ``checkpoint`` is ``bundled``, ``path:…``, ``open_clip:ARCH/TAG`` or ``hub:ORG/NAME@REV``; ``architecture`` goes
    with a lone weight file. ``normalize`` scales the embedding site to unit length (the VL-SAE paper trains on it
    unscaled). ``image_size`` replaces the model's own, with interpolated position embeddings.
    """

    def __init__(
        self,
        *,
        checkpoint: str = "bundled",
        architecture: str | None = None,
        normalize: bool = False,
        image_size: Annotated[int, Range(1)] | None = None,
    ) -> None:
        if image_size is not None and image_size < 1:
            raise UserError(f"model.image_size is {image_size}.", "It is a number of pixels, at least 1.")
        self.checkpoint = checkpoint
        self.architecture = architecture
        self.normalize = normalize
        self.image_size = image_size
        self._module: Any = None
        self._loaded = ("", "")

    @cached_property
    def files(self) -> Checkpoint:
        """The checkpoint's files on this machine."""
        return resolve(self.checkpoint, self.architecture, BUNDLED)

    @property
    def module(self) -> Any:
        """The open_clip model; loaded on the CPU in float32 where ``load`` was not called."""
        if self._module is None:
            self.load()
        return self._module

    @cached_property
    def towers(self) -> dict[str, Tower]:
        """The towers by stream."""
        from vlsae.models.loading import build_skeleton
        from vlsae.models.towers import foreign_tower, is_native, native_tower

        config = self.files.config
        native = {stream: native_tower(config, stream) for stream in STREAMS if is_native(config, stream)}
        if len(native) == len(STREAMS):
            return native
        module = self._module if self._module is not None else build_skeleton(self.files)
        return {stream: native.get(stream) or foreign_tower(module, config, stream) for stream in STREAMS}

    @cached_property
    def _sites(self) -> dict[str, Site]:
        return {name: site for tower in self.towers.values() for name, site in tower.sites()}

    @cached_property
    def _tokenizer(self) -> Callable[[list[str]], Tensor]:
        from vlsae.models.loading import build_tokenizer

        return build_tokenizer(self.files)

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        from vlsae.models.positions import vocabulary

        return vocabulary(self._tokenizer, self.files.config["text_cfg"])

    @cached_property
    def _pixels(self) -> Pixels:
        from vlsae.models.pixels import Pixels

        size = self.image_size or self.files.config["vision_cfg"].get("image_size", 224)
        return Pixels(self.files.preprocess, size)

    def sites(self) -> dict[str, Site]:
        """Return every site in the order in which the towers reach them; parts are ``attention`` and ``mlp``."""
        return dict(self._sites)

    def digest(self) -> str:
        """Return the SHA-256 of weights, architecture, tokenizer and preprocessing, without loading the weights."""
        return self.files.digest(normalize=self.normalize, image_size=self.image_size)

    def load(self, device: str = "cpu", dtype: str = "float32") -> None:
        """Load the weights once, in evaluation mode.

        Raises:
            UserError: the weights are damaged, hold more than tensors, or do not fit the architecture.
        """
        import torch

        from vlsae.models.loading import PRECISIONS, build_module

        if dtype not in PRECISIONS:
            raise unknown("precision", dtype, PRECISIONS)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if self._module is None or self._loaded != (device, dtype):
            module = build_module(self.files, dtype=dtype, image_size=self.image_size)
            # Parameters keep requires_grad: torch picks matrix products by it, and the numbers would differ in bits.
            self._module = module.to(device).eval()
            self._loaded = (device, dtype)

    def prepare(
        self, images: np.ndarray | Sequence[Image.Image] | None = None, texts: Sequence[str] | None = None
    ) -> Batch:
        """Preprocess images (PIL, or uint8 ``(n, height, width, 3)``) and tokenize texts; needs no weights."""
        vision = None if images is None or len(images) == 0 else self._pixels(images)
        language = None if texts is None or len(texts) == 0 else self._tokenizer(list(texts))
        return Batch(vision=vision, language=language)

    def represent(self, batch: Batch, sites: Iterable[str], tokens: TokenSelection | None = None) -> dict[str, Rows]:
        """Return the rows of each site, running each tower no further than its last site and only where it has one.

        Values lie on the model's device, row numbers on the CPU. The embedding has one row an item, position −1.

        Raises:
            UserError: an unknown site or pooling, a site whose stream the batch lacks, or a text without content.
        """
        import torch

        from vlsae.models.token_rows import check_selection

        wanted = [sites] if isinstance(sites, str) else list(sites)
        selection = tokens or TokenSelection()
        check_selection(selection)
        for site in wanted:
            self._check_site(site)
        rows: dict[str, Rows] = {}
        with torch.no_grad():
            for stream in STREAMS:
                mine = [site for site in self._sites if site in wanted and site.startswith(f"{stream}.")]
                if mine:
                    rows |= self._stream_rows(stream, batch, mine, selection)
        return {site: rows[site] for site in wanted}

    def token_texts(self, ids: Iterable[int]) -> dict[int, str]:
        """Return the piece of text that each token id stands for."""
        from vlsae.models.token_texts import token_texts

        return token_texts(self._tokenizer, ids)

    def edit(self, site: str, function: Callable[[Any], Any]) -> AbstractContextManager[None]:
        """Within the context, replace the hidden states ``(b, s, d)`` at a site by ``function`` of them.

        Raises:
            UserError: an unknown site, or an embedding, behind which nothing is left to run.
        """
        from vlsae.models.hooks import edited, place

        self._check_site(site)
        if site.endswith(".embedding"):
            raise UserError(f"{site} is the model's output; nothing runs behind an edit there.", "Edit a block's site.")
        return edited(place(self.module, self._sites[site].module), function)

    def _check_site(self, site: str) -> None:
        if site not in self._sites:
            raise unknown("site", site, self._sites)

    def _stream_rows(self, stream: str, batch: Batch, sites: list[str], selection: TokenSelection) -> dict[str, Rows]:
        import torch

        from vlsae.models.hooks import place, read
        from vlsae.models.token_rows import TokenRows

        inputs = batch.vision if stream == "vision" else batch.language
        if inputs is None:
            raise UserError(f"{sites[0]} is asked for, and the batch has no {stream}.", "Give images or texts for it.")
        module, embedding = self.module, f"{stream}.embedding"
        inner = [site for site in sites if site != embedding]
        rows: dict[str, Rows] = {}
        if inner:
            tower = self.towers[stream]
            pooled = TokenRows(stream, selection, self._positions(tower, inputs), tower.class_index)
        device = next(module.parameters()).device
        if stream == "vision":
            # open_clip casts the weights of the first layer, so the pixels are cast alike.
            inputs, encode = inputs.to(device, getattr(torch, self._loaded[1])), module.encode_image
        else:
            inputs, encode = inputs.to(device), module.encode_text
        features = read(
            {site: place(module, self._sites[site].module) for site in inner},
            lambda site, hidden: rows.update({site: pooled(hidden)}),
            lambda: encode(inputs, normalize=self.normalize),
            last=None if embedding in sites else inner[-1],
        )
        if embedding in sites:
            number = torch.arange(len(features))
            rows[embedding] = Rows(features, number, torch.full_like(number, -1))
        return rows

    def _positions(self, tower: Tower, inputs: Tensor) -> Callable[[int, int], Positions]:
        from vlsae.models.positions import image_positions, text_positions

        if tower.stream == "vision":
            return lambda items, length: image_positions(items, length, tower.prefix)
        found = text_positions(inputs.cpu(), self.files.config["text_cfg"], self._vocabulary)
        return lambda items, length: found
