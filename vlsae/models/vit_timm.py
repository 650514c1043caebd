"""Models of timm: their own modules and transforms, from a folder in timm's format or from weights alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlsae.errors import UserError, nearest, unknown
from vlsae.models.checkpoints import file_digest
from vlsae.models.model_folder import ModelFolder
from vlsae.models.vision import VisionModel
from vlsae.models.weights import load_exactly, read_tensors

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from torch import Tensor

    from vlsae.models.towers import Tower


class TimmViT(VisionModel):
    """A model of timm without its classifier: what it returns is the summary that the classifier would read."""

    def __init__(self, files: ModelFolder | Path, architecture: str | None = None) -> None:
        super().__init__()
        folder = isinstance(files, ModelFolder)
        self.config: Mapping[str, Any] = files.config if isinstance(files, ModelFolder) else {}
        self.weights: Path = files.weights[0] if isinstance(files, ModelFolder) else files
        self.architecture = str(self.config["architecture"] if folder else architecture)

    @cached_property
    def _skeleton(self) -> Any:
        import torch

        with torch.device("meta"):
            return self._create()

    def _create(self) -> Any:
        import timm

        if not timm.is_model(self.architecture):
            close = nearest(self.architecture, timm.list_models())
            if not close:
                raise UserError(
                    f"There is no architecture {self.architecture!r} in timm.", "timm.list_models() lists all."
                )
            raise unknown("architecture in timm", self.architecture, close)
        return timm.create_model(
            self.architecture, pretrained=False, num_classes=0, **(self.config.get("model_args") or {})
        )

    def _describe(self) -> Tower:
        from dataclasses import replace

        from vlsae.models.towers import Tower, timm_tower

        width = int(self._skeleton.head_hidden_size if hasattr(self._skeleton, "head_hidden_size") else 0)
        width = width or int(self._skeleton.num_features)
        found = timm_tower(self._skeleton, "", width) or Tower("vision", "", 0, 0, width)
        return replace(found, encode="forward")

    def _build(self) -> Any:
        model = self._create()
        classifier = model.pretrained_cfg.get("classifier") or ()
        heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
        tensors = read_tensors(self.weights)
        unused = [name for name in tensors if any(name.startswith(f"{head}.") for head in heads)]
        load_exactly(model, tensors, self.weights, ignored=unused)
        return model

    @cached_property
    def _transform(self) -> Any:
        import timm.data

        facts = {**self._skeleton.pretrained_cfg, **(self.config.get("pretrained_cfg") or {})}
        return timm.data.create_transform(**timm.data.resolve_data_config({}, pretrained_cfg=facts), is_training=False)

    def _pixels(self, images: np.ndarray | Sequence[Image.Image]) -> Tensor:
        import torch
        from PIL import Image

        pictures = [image if isinstance(image, Image.Image) else Image.fromarray(image) for image in images]
        return torch.stack([self._transform(picture) for picture in pictures])

    def _encode(self, module: Any, pixels: Tensor) -> Tensor:
        return module(pixels)

    def digest(self) -> str:
        """Return the SHA-256 of weights, architecture and preprocessing."""
        description = {
            "architecture": self.architecture,
            "config": dict(self.config),
            "weights": file_digest(self.weights),
        }
        return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()
