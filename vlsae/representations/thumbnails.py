"""Small pictures that a store keeps, so that reports need no data set."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

#: Quality of the JPEG of a picture that had to be made smaller.
QUALITY = 85


def thumbnails(images: np.ndarray | Sequence[Image.Image | np.ndarray], side: int = 64) -> list[bytes]:
    """Return each image encoded: as PNG, pixel by pixel, where it fits ``side × side``, else a smaller JPEG.

    ``images`` are ``(n, height, width, 3)`` uint8, or pictures of any sizes; the ratio of sides is kept.
    """
    return [_encoded(image, side) for image in images]


def _encoded(image: Image.Image | np.ndarray, side: int) -> bytes:
    from PIL import Image

    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    if max(picture.size) <= side:
        # The least effort: at this size it costs a tenth more bytes and takes a fraction of the time.
        picture.convert("RGB").save(buffer, "PNG", compress_level=1)
    else:
        scale = side / max(picture.size)
        width, height = (max(1, round(length * scale)) for length in picture.size)
        picture = picture if picture.mode in ("RGB", "L") else picture.convert("RGB")
        small = picture.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
        small.convert("RGB").save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
