"""Image bytes to RGB pictures: upright, eight bits a channel, over white."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vlsae.errors import UserError

#: Pixels above which a picture is refused before it is decoded.
MOST_PIXELS = 100_000_000


def check_header(data: bytes) -> None:
    """Raise ``UserError`` where the bytes are no picture or one of too many pixels."""
    _open(data)


def decode(data: bytes) -> Image.Image:
    """Return the picture as upright RGB; ``UserError`` where it cannot be read to its end."""
    image = _open(data)
    try:
        return _rgb(ImageOps.exif_transpose(image))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(f"unreadable image ({error})") from error


def _open(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "empty file" if not data else str(error).split(" <")[0]
        raise UserError(f"unreadable image ({reason})") from error
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise UserError(f"image of {width} × {height} pixels, more than {MOST_PIXELS:,}")
    return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        # Sixteen bits a pixel: PIL's own conversion clips instead of scaling.
        scale = 257.0 if values.max(initial=0.0) > 255 else 1.0
        return Image.fromarray(np.clip(values / scale, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        upper = image.convert("RGBA")
        white = Image.new("RGBA", upper.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, upper).convert("RGB")
    return image.convert("RGB")
