"""Image bytes to RGB pictures: upright, eight bits a channel, over white."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vlsae.errors import UserError

#: Formats that are decoded; others that Pillow knows start outside programs (EPS) or are no photographs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

#: Pixels above which a picture is refused before it is decoded.
MOST_PIXELS = 100_000_000


def check_header(data: bytes) -> None:
    """Raise ``UserError`` where the bytes are no picture or one of too many pixels."""
    _open(data)


def check_whole(data: bytes) -> None:
    """Raise ``UserError`` where a picture cannot be read to its end; decoded as small as its format allows."""
    image = _open(data)
    image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
    _load(image)
    _refuse_floats(image)


def decode(data: bytes) -> Image.Image:
    """Return the picture as upright RGB; ``UserError`` where it cannot be read to its end."""
    image = _open(data)
    _load(image)
    _refuse_floats(image)
    return _rgb(_upright(image))


def _open(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        reason = "empty file" if not data else f"none of {', '.join(FORMATS)}"
        raise UserError(f"unreadable image ({reason})") from error
    except Exception as error:  # decoders of arbitrary bytes raise anything
        raise UserError(f"unreadable image ({error})") from error
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise UserError(f"image of {width} × {height} pixels, more than {MOST_PIXELS:,}")
    return image


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except Exception as error:
        raise UserError(f"unreadable image ({error})") from error


def _refuse_floats(image: Image.Image) -> None:
    if image.mode == "F":
        raise UserError("image of floating-point pixels, whose range is unknown")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF says nothing about the orientation, and the pixels are whole
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Sixteen bits a pixel: Pillow's own conversion clips instead of scaling.
        values = np.asarray(image).astype(np.float64)
        return Image.fromarray(np.clip(np.rint(values / 257.0), 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        upper = image.convert("RGBA")
        white = Image.new("RGBA", upper.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, upper).convert("RGB")
    return image.convert("RGB")
