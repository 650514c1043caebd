"""The model's own image transform, and the same in one go for pictures that already have the model's size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlsae.errors import UserError


class Pixels:
    """open_clip's evaluation transform for one model; ``size`` is the side, or (height, width)."""

    def __init__(self, preprocess: Mapping[str, Any], size: int | Sequence[int]) -> None:
        from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict

        height, width = (size, size) if isinstance(size, int) else size
        merged = merge_preprocess_dict(PreprocessCfg(), dict(preprocess))
        settings = PreprocessCfg(**{**merged, "size": (height, width)})
        self.size = (height, width)
        self.transform = image_transform_v2(settings, is_train=False)
        self._mean = torch.tensor(settings.mean, dtype=torch.float32).reshape(-1, 1, 1)
        self._std = torch.tensor(settings.std, dtype=torch.float32).reshape(-1, 1, 1)

    def __call__(self, images: np.ndarray | Sequence[Image.Image]) -> Tensor:
        """Return ``(n, 3, height, width)`` float32 of PIL images or a uint8 array ``(n, h, w, 3)``.

        Raises:
            UserError: the array has another type or shape.
        """
        if isinstance(images, np.ndarray):
            if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
                raise UserError(
                    f"Images are an array of {images.dtype} {images.shape}.", "Expected uint8 (n, height, width, 3)."
                )
            if images.shape[1:3] == self.size:
                return self._at_size(images)
        pictures = (p if isinstance(p, Image.Image) else Image.fromarray(p) for p in images)
        return torch.stack([self.transform(picture) for picture in pictures])

    def _at_size(self, images: np.ndarray) -> Tensor:
        # At the model's size every resize and crop of the transform returns the image as it is.
        pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        scaled = pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        return scaled.sub_(self._mean).div_(self._std)
