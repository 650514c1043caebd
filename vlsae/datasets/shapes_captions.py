"""What is said about scenes of the embedded world, and the compact vocabulary that says it.

A full caption names every factor that language carries, so it is sufficient; two scenes that share it look alike.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from vlsae.datasets.shapes_world import (
    BACKGROUNDS,
    COLOR_FAMILIES,
    COLORS,
    LONE,
    PLACES,
    SHAPE_FAMILIES,
    SHAPES,
    SIZES,
    STYLES,
    TEXTURES,
    TWIN_FACTORS,
    Scenes,
)

OPENINGS = {"neutral": "", "polite": "please see", "excited": "wow"}

#: Every word the captions, prompts and questions of this world use, in the order of the tokenizer's numbers.
WORDS = (
    *SHAPES, *COLORS, *SIZES, *TEXTURES, *PLACES, *BACKGROUNDS, *COLOR_FAMILIES, *SHAPE_FAMILIES,
    "a", "an", "the", "at", "on", "and", "with", "of", "in", "please", "see", "wow", "object", "objects", "background",
    "shape", "color", "size", "place", "texture", "above", "below", "left", "right", "photo", "picture", "image",
    "scene", "is", "are", "there", "what", "which", "how", "many", "yes", "no", "not", "one", "two", "three", "four",
    "nothing", ",", ".", "?", ":",
)  # fmt: skip

_FAMILY = {
    member: family
    for table in (COLOR_FAMILIES, SHAPE_FAMILIES)
    for family, members in table.items()
    for member in members
}

#: What a caption is made from.
_TOLD = ("count", "shape", "color", "size", "texture", "place", "background", "style", "wording", "twin")


def captions(scenes: Scenes, detail: str = "full", hard: bool = False) -> list[str]:
    """Return one caption a scene.

    ``detail``: ``full`` names everything, ``short`` each object's colour and shape, ``lone`` one factor drawn anew, and
    a factor's own name (:data:`LONE`) that factor alone; ``mixed`` leaves words out in half of the captions, at random
    but alike in both rows of a pair of twins, and never the word that tells them apart. In the hard world two objects
    are told by how they stand to each other, not by their places.
    """
    rows = _rows(scenes)
    say: dict[str, Callable[[dict], str]] = {"full": _full, "short": _short, "lone": _lone, "mixed": _mixed}
    say |= {factor: partial(_lone, factor=factor) for factor in LONE}
    return [_relation(row) if hard and row["count"] == 2 else say[detail](row) for row in rows]


def every_caption(scenes: Scenes) -> list[list[str]]:
    """Return the captions of each scene: the full one, each object's colour and shape, and each factor alone."""
    return [[_full(row), _short(row), *(_lone(row, factor) for factor in LONE)] for row in _rows(scenes)]


def _rows(scenes: Scenes) -> list[dict]:
    columns = {name: getattr(scenes, name).tolist() for name in _TOLD}
    return [dict(zip(columns, values)) for values in zip(*columns.values())]


def article(words: str) -> str:
    """Return the words behind their indefinite article."""
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _object(row: dict, number: int, parts: tuple[bool, ...] = (True,) * 4, family: int = 0) -> str:
    """Return the words for one object; ``parts`` says whether size, texture, colour and place are named."""
    size, texture, color, place = parts
    shape, hue = SHAPES[row["shape"][number]], COLORS[row["color"][number]]
    words = [
        *([SIZES[row["size"][number]]] if size else []),
        *([TEXTURES[row["texture"][number]]] if texture else []),
        *([_FAMILY[hue] if family & 1 else hue] if color else []),
        {0: shape, 1: shape, 2: _FAMILY[shape], 3: _FAMILY[shape], 4: "object", 5: "object"}[family],
    ]
    where = f" at {PLACES[row['place'][number]]}" if place else ""
    return article(" ".join(words)) + where


def _join(row: dict, objects: list[str], background: bool, style: bool) -> str:
    opening = OPENINGS[STYLES[row["style"]]] if style else ""
    ground = f" on {BACKGROUNDS[row['background']]}" if background else ""
    return f"{opening} {' , '.join(objects)}{ground}".strip()


def _full(row: dict) -> str:
    return _join(row, [_object(row, k) for k in range(row["count"])], True, True)


def _short(row: dict) -> str:
    objects = [_object(row, k, (False, False, True, False)) for k in range(row["count"])]
    return _join(row, objects, False, False)


def _mixed(row: dict) -> str:
    # The bits of one number decide, so that twins, which share it, leave out the same words.
    bits = row["wording"]
    if bits & 1:
        return _full(row)
    factor = TWIN_FACTORS[row["twin"]] if row["twin"] >= 0 else ""
    if row["count"] == 2 and bits & 0b110 == 0b110 and factor not in ("place", "count"):
        return _relation(row)
    if bits >> 13 & 1 and factor not in ("count", "binding"):
        return _lone(row, factor)
    told = [bool(bits >> shift & 1) for shift in range(4, 8)]
    size, texture, color, place = (
        kept or factor == name for kept, name in zip(told, ("size", "texture", "color", "place"))
    )
    family = 0
    if factor not in ("shape", "binding"):
        family = (0, 0, 1, 2, 4, 4, 0, 2)[bits >> 8 & 7]
        family = family - 1 if factor == "color" and family & 1 else family
    color = color or factor == "binding"
    ground = bool(bits >> 11 & 1) or factor == "background"
    objects = [_object(row, k, (size, texture, color, place), family) for k in range(row["count"])]
    return _join(row, objects, ground, bool(bits >> 12 & 1))


def _lone(row: dict, factor: str = "") -> str:
    """Return a caption that names one factor alone, at random where none is given, in the form of the prompts."""
    factor = factor or LONE[(row["wording"] >> 14) % len(LONE)]
    parts = tuple(factor == name for name in ("size", "texture", "color", "place"))
    family = 0 if factor == "shape" else 4
    return _join(row, [_object(row, k, parts, family) for k in range(row["count"])], factor == "background", False)


def _relation(row: dict) -> str:
    """Return a caption that tells two objects by how they stand to each other."""
    first, second = row["place"][0], row["place"][1]
    columns = len(PLACES) // 2
    beside = "above" if first // columns < second // columns else "left of"
    parts = (True, True, True, False)
    pair = f"{_object(row, 0, parts)} {beside} {_object(row, 1, parts)}"
    return _join(row, [pair], True, True)


def question(color: str, shape: str) -> str:
    """Return the yes/no question after an object, in the form that POPE asks."""
    return f"is there {article(f'{color} {shape}'.strip())} in the image ?"


def prompts(factor: str) -> list[str]:
    """Return one zero-shot prompt a value of a factor, in the order of its values."""
    table: dict[str, tuple[tuple[str, ...], Callable[[str], str]]] = {
        "shape": (SHAPES, article),
        "color": (COLORS, lambda value: article(f"{value} object")),
        "size": (SIZES, lambda value: article(f"{value} object")),
        "texture": (TEXTURES, lambda value: article(f"{value} object")),
        "place": (PLACES, lambda value: f"an object at {value}"),
        "background": (BACKGROUNDS, lambda value: f"an object on {value}"),
    }
    values, form = table[factor]
    return [form(value) for value in values]


def relations(scenes: Scenes) -> list[str]:
    """Return how the first two objects of each scene stand to each other: ``above``, ``left of`` or ``none``."""
    columns = len(PLACES) // 2
    upper = scenes.place[:, 0] // columns < scenes.place[:, 1] // columns
    return np.where(scenes.count < 2, "none", np.where(upper, "above", "left of")).tolist()
