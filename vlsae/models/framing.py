"""Which part of a picture a model sees, found by sending a picture of coordinates through its own transform."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from vlsae.models.base import Model

#: Sides of the picture that is sent through: twice as wide as it is high.
HEIGHT, WIDTH = 192, 384


class Framing(NamedTuple):
    """What of a picture is seen: the middle square where ``cut``, else the whole made square; ``share`` of its side."""

    cut: bool
    share: float


def framing(model: Model) -> Framing | None:
    """Return what of a picture the transform of a model keeps, None where it makes no square ``(3, h, h)`` of it."""
    pictures = np.zeros((3, HEIGHT, WIDTH, 3), np.uint8)
    pictures[0, :, :, 0] = np.linspace(0, 255, WIDTH).round()
    pictures[0, :, :, 1] = np.linspace(0, 255, HEIGHT).round()[:, None]
    pictures[2] = 255
    pixels = getattr(model.prepare(images=pictures), "vision", None)
    if pixels is None or pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.shape[2] != pixels.shape[3]:
        return None
    ramp, black, white = pixels.double().numpy()
    # The transform ends in one line a channel, from black to white.
    places = ((ramp - black) / (white - black))[:2]
    side = pixels.shape[3]
    # A side of n pixels spans n - 1 steps between their middles.
    width, height = (float(np.ptp(one)) * side / max(1, side - 1) for one in places)
    cut = width < 0.75 * height
    return Framing(cut, round(min(1.0, height if cut else width), 2))
