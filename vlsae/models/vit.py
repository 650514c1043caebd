"""Vision transformers of timm, transformers and open_clip, each by its own modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlsae.errors import MissingFile, UserError, unknown
from vlsae.models import hub
from vlsae.models.base import Batch, Model, Rows, Site, TokenSelection
from vlsae.models.checkpoints import CONFIG_NAME as OPEN_CLIP_CONFIG
from vlsae.models.checkpoints import WEIGHT_NAMES as OPEN_CLIP_WEIGHTS
from vlsae.models.checkpoints import parse
from vlsae.models.clip import CLIP
from vlsae.models.model_folder import CONFIG_NAME, SMALL_NAMES, WEIGHT_NAMES, resolve_folder

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image


class ViT(Model):
    """A vision model: the vision tower of a CLIP of open_clip, or a model of timm or transformers, such as DINOv2.

    ``checkpoint`` is ``bundled`` (the bundled CLIP's tower), ``path:FOLDER`` or ``hub:ORG/NAME@REV`` in the format of
    any of the three libraries, ``open_clip:ARCH/TAG``, or ``path:FILE`` of weights alone with timm's name of their
    ``architecture``. The embedding is the model's own summary: its pooled output before a classifier.
    """

    def __init__(self, *, checkpoint: str = "bundled", architecture: str | None = None) -> None:
        self.checkpoint = checkpoint
        self.architecture = architecture

    @cached_property
    def model(self) -> Model:
        """The model of the library that the checkpoint belongs to."""
        from vlsae.models.vit_timm import TimmViT
        from vlsae.models.vit_transformers import TransformersViT

        kind, rest = parse(self.checkpoint)
        path = Path(rest).expanduser()
        if kind == "path" and path.is_file():
            if self.architecture is None:
                raise UserError(
                    f"{path} holds weights alone, which do not say their architecture.",
                    "Add timm's name of it: model.architecture=vit_base_patch16_224. A module of your own, or a "
                    "convolutional network, is read by model=torch_module.",
                )
            return TimmViT(path, self.architecture)
        if self.architecture is not None:
            raise UserError(
                f"model.architecture={self.architecture} goes with a lone weight file; {self.checkpoint} says its own.",
                "Leave model.architecture out.",
            )
        if kind in ("bundled", "open_clip"):
            return CLIP(checkpoint=self.checkpoint)
        if kind == "hub":
            small, weights = (OPEN_CLIP_CONFIG, *SMALL_NAMES), (*WEIGHT_NAMES, *OPEN_CLIP_WEIGHTS)
            path = hub.snapshot(rest, (CONFIG_NAME, *small), weights)
        if (path / OPEN_CLIP_CONFIG).is_file() and not (path / CONFIG_NAME).is_file():
            return CLIP(checkpoint=self.checkpoint)
        files = resolve_folder(f"path:{path}")
        if "architecture" in files.config and "model_type" not in files.config:
            return TimmViT(files)
        if "model_type" not in files.config:
            raise MissingFile(
                f"{path}/{CONFIG_NAME} says neither timm's architecture nor transformers' model_type.",
                "Give a folder that one of the two libraries wrote.",
            )
        return TransformersViT(files)

    @cached_property
    def _sites(self) -> dict[str, Site]:
        return {name: site for name, site in self.model.sites().items() if name.startswith("vision.")}

    @property
    def module(self) -> Any:
        """The original module, with its text tower where it is a CLIP."""
        return self.model.module  # type: ignore[attr-defined]

    def sites(self) -> dict[str, Site]:
        """Return every site in the order in which the model reaches them; parts are ``attention`` and ``mlp``."""
        return dict(self._sites)

    def digest(self) -> str:
        """Return the SHA-256 of weights, architecture and preprocessing, without loading the weights."""
        return self.model.digest()

    def load(self, device: str = "cpu", dtype: str = "float32") -> None:
        """Load the weights once, in evaluation mode; ``UserError`` where they are damaged or do not fit."""
        self.model.load(device, dtype)

    def prepare(
        self, images: np.ndarray | Sequence[Image.Image] | None = None, texts: Sequence[str] | None = None
    ) -> Batch:
        """Preprocess images by the model's own transform; texts are not looked at."""
        return self.model.prepare(images)

    def represent(self, batch: Batch, sites: Iterable[str], tokens: TokenSelection | None = None) -> dict[str, Rows]:
        """Return the rows of each site; ``UserError`` for an unknown site or pooling, or a batch without images."""
        wanted = [sites] if isinstance(sites, str) else list(sites)
        for site in wanted:
            self._check_site(site)
        return self.model.represent(batch, wanted, tokens)

    def edit(self, site: str, function: Callable[[Any], Any]) -> AbstractContextManager[None]:
        """Within the context, replace the hidden states ``(b, s, d)`` at a site by ``function`` of them."""
        self._check_site(site)
        return self.model.edit(site, function)

    def _check_site(self, site: str) -> None:
        if site not in self._sites:
            raise unknown("site", site, self._sites)
