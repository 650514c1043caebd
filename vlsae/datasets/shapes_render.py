"""Drawing scenes of the embedded world, many at once.

Objects come from an atlas of anti-aliased masks, one a shape and radius, and are pasted window by window; noise comes
from one bank of fixed numbers, so that a scene's pixels depend on its own factors alone.
Shapes: b scenes, s the side of an image, w the side of a window, m slots.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from vlsae.datasets.shapes_world import PLACES, SHAPES, SLOTS, Scenes

PALETTE = np.array(
    [(222, 42, 42), (245, 142, 24), (240, 222, 52), (38, 160, 66),
     (58, 204, 222), (38, 78, 222), (140, 54, 190), (248, 142, 196)], np.int16
)  # fmt: skip
GROUND = np.array([(232, 232, 232), (128, 128, 128), (26, 26, 26), (204, 180, 140)], np.int16)


@dataclass(frozen=True)
class Look:
    """What a split looks like, in pixels of a 64 × 64 image: radii of the three sizes, noise and texture depth."""

    radii: tuple[float, float, float]
    noise: int
    contrast: float


PLAIN = Look(radii=(7.0, 10.0, 14.0), noise=6, contrast=1.0)
HARD = Look(radii=(6.0, 9.0, 13.0), noise=16, contrast=0.85)


def look(hard: bool) -> Look:
    """Return the look of a split."""
    return HARD if hard else PLAIN


def render(scenes: Scenes, side: int = 64, hard: bool = False) -> np.ndarray:
    """Return the images ``(b, s, s, 3)`` uint8."""
    style = look(hard)
    window, masks = _atlas(side, style.radii)
    margin = window
    canvas = _grounds(scenes, side, style, margin)
    textures = _textures(window, max(1, round(side / 32)))
    flat = canvas.reshape(len(scenes), -1, 3)
    for slot in range(SLOTS):
        rows = np.flatnonzero(scenes.count > slot)
        if not len(rows):
            break
        pixels = _pixels(scenes, rows, slot, side, window, margin)
        mask = masks[scenes.shape[rows, slot], scenes.size[rows, slot]].reshape(len(rows), -1, 1)
        texture = textures[scenes.texture[rows, slot]].reshape(len(rows), -1, 1)
        ground = GROUND[scenes.background[rows]]
        color = PALETTE[scenes.color[rows, slot]] + scenes.tint[rows, slot]
        color = (ground + style.contrast * (color - ground)).astype(np.float32)[:, None, :]
        old = flat[rows[:, None], pixels]
        old += mask * (color * texture - old)
        flat[rows[:, None], pixels] = old
    inner = canvas[:, margin : margin + side, margin : margin + side]
    inner = inner + _noise(scenes.noise, side, style.noise)[..., None]
    return np.clip(inner, 0, 255, out=inner).astype(np.uint8)


def masks(scenes: Scenes, side: int = 64, hard: bool = False) -> np.ndarray:
    """Return where each object is seen, ``(b, m, s, s)`` bool; what a later object hides is left out."""
    window, atlas = _atlas(side, look(hard).radii)
    margin = window
    whole = side + 2 * margin
    seen = np.zeros((len(scenes), SLOTS, whole * whole), bool)
    for slot in range(SLOTS):
        rows = np.flatnonzero(scenes.count > slot)
        if not len(rows):
            break
        pixels = _pixels(scenes, rows, slot, side, window, margin)
        mask = atlas[scenes.shape[rows, slot], scenes.size[rows, slot]].reshape(len(rows), -1) > 0.5
        for earlier in range(slot):
            seen[rows[:, None], earlier, pixels] &= ~mask
        seen[rows[:, None], slot, pixels] = mask
    square = seen.reshape(len(scenes), SLOTS, whole, whole)
    return square[:, :, margin : margin + side, margin : margin + side]


def _pixels(scenes: Scenes, rows: np.ndarray, slot: int, side: int, window: int, margin: int) -> np.ndarray:
    """Return the flat numbers of the window's pixels on the canvas with its margin, ``(b, w · w)``."""
    whole = side + 2 * margin
    place = scenes.place[rows, slot].astype(np.int64)
    shift = np.rint(scenes.shift[rows, slot] * (side / 64)).astype(np.int64)
    columns = len(PLACES) // 2
    y = side // 4 + (place // columns) * (side // 2) + shift[:, 0] + margin - window // 2
    x = side // 4 + (place % columns) * (side // 2) + shift[:, 1] + margin - window // 2
    offsets = (np.arange(window)[:, None] * whole + np.arange(window)[None, :]).reshape(-1)
    return (y * whole + x)[:, None] + offsets


def _grounds(scenes: Scenes, side: int, style: Look, margin: int) -> np.ndarray:
    """Return the empty scenes ``(b, s + 2 margin, s + 2 margin, 3)`` float32: ground colour and gradient."""
    ramp = np.linspace(-1, 1, side + 2 * margin, dtype=np.float32)
    falls = np.stack([np.zeros_like(ramp), -ramp, ramp]) * np.float32(30 * (side + 2 * margin) / side)
    level = GROUND[scenes.background].astype(np.float32)
    rows = level[:, None, :] + falls[scenes.gradient][:, :, None]
    return np.repeat(rows[:, :, None, :], side + 2 * margin, axis=2)


def _noise(numbers: np.ndarray, side: int, strength: int) -> np.ndarray:
    """Return each scene's noise ``(b, s, s)`` float32: a square cut from the bank at a place that its number tells."""
    bank = _noise_bank()
    places = bank.shape[0] - side
    top, left = numbers % places, (numbers // places) % places
    squares = np.lib.stride_tricks.sliding_window_view(bank, (side, side))
    return squares[top, left] * np.float32(strength)


@cache
def _noise_bank(size: int = 1024) -> np.ndarray:
    return np.random.default_rng(20).standard_normal((size, size), dtype=np.float32)


@cache
def _textures(window: int, period: int) -> np.ndarray:
    """Return the brightness that each texture gives to the pixels of a window, ``(textures, w, w)`` float32."""
    y, x = np.mgrid[:window, :window]
    solid = np.ones((window, window))
    striped = np.where((x + y) // (2 * period) % 2 == 0, 1.0, 0.35)
    dotted = np.where((x // period % 3 == 1) & (y // period % 3 == 1), 0.1, 1.0)
    return np.stack([solid, striped, dotted]).astype(np.float32)


@cache
def _atlas(side: int, radii: tuple[float, ...]) -> tuple[int, np.ndarray]:
    """Return the window's side and the masks ``(shapes, sizes, w, w)`` float32, anti-aliased four times a side."""
    scaled = [radius * side / 64 for radius in radii]
    window = 2 * int(np.ceil(max(scaled))) + 2
    fine = 4
    line = (np.arange(window * fine) + 0.5) / fine - window / 2
    y, x = np.meshgrid(line, line, indexing="ij")
    masks = np.stack([[_inside(name, x / r, y / r) for r in scaled] for name in SHAPES]).astype(np.float32)
    masks = masks.reshape(len(SHAPES), len(scaled), window, fine, window, fine).mean(axis=(3, 5))
    return window, masks.astype(np.float32)


def _inside(name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Tell which points lie inside a shape of radius 1 around the origin; y points down."""
    distance = np.hypot(x, y)
    if name == "circle":
        return distance < 0.95
    if name == "ring":
        return (distance < 1.0) & (distance > 0.55)
    if name == "square":
        return np.maximum(abs(x), abs(y)) < 0.85
    if name == "diamond":
        return abs(x) + abs(y) < 1.05
    if name == "triangle":
        return (y < 0.8) & (y > -0.95 + 1.85 * abs(x))
    if name == "star":
        angle = np.arctan2(x, -y) % (2 * np.pi / 5) - np.pi / 5
        # Between two tips the edge runs from radius 1 to 0.4: the line through both in the mirrored half sector.
        half = np.pi / 5
        turned = half - abs(angle)
        px, py = distance * np.cos(turned), distance * np.sin(turned)
        qx, qy = 0.42 * np.cos(half), 0.42 * np.sin(half)
        return (px - 1.05) * qy - py * (qx - 1.05) < 0
    if name == "cross":
        return (np.minimum(abs(x), abs(y)) < 0.28) & (np.maximum(abs(x), abs(y)) < 1.0)
    return (abs(y) < 0.36) & (abs(x) < 1.0)
