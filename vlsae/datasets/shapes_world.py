"""The embedded world: what a scene of coloured shapes can hold, and how scenes are drawn.

Shapes: n scenes, m the most objects a scene may hold (:data:`SLOTS`). Factors are small integers that index the tuples
of words below; slots behind a scene's count hold zeros and mean nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

#: Raised when the same seed no longer gives the same scenes, captions or pixels.
WORLD_VERSION = 1

SLOTS = 4
CHUNK = 4096  # scenes are drawn chunk by chunk, so that a longer dataset begins with the shorter one

SHAPES = ("circle", "ring", "square", "diamond", "triangle", "star", "cross", "bar")
COLORS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SIZES = ("small", "medium", "large")
TEXTURES = ("solid", "striped", "dotted")
PLACES = ("top-left", "top-right", "bottom-left", "bottom-right")
BACKGROUNDS = ("white", "grey", "black", "beige")
GRADIENTS = ("flat", "falling", "rising")  # only the image shows it
STYLES = ("neutral", "polite", "excited")  # only the caption shows it

#: The hierarchy: a family and its members.
COLOR_FAMILIES = {"warm": ("red", "orange", "yellow", "pink"), "cool": ("green", "cyan", "blue", "purple")}
SHAPE_FAMILIES = {"round": ("circle", "ring"), "polygon": ("square", "diamond", "triangle", "star", "cross", "bar")}

#: The factors in which the two rows of a pair of twins differ, in turn.
TWIN_FACTORS = ("shape", "color", "size", "texture", "place", "background", "count", "binding")

#: The factors that a caption may name alone.
LONE = TWIN_FACTORS[:6]

#: Which values each factor of an object takes.
OBJECT_VALUES = {"shape": SHAPES, "color": COLORS, "size": SIZES, "texture": TEXTURES, "place": PLACES}


@dataclass(frozen=True)
class Recipe:
    """How scenes are drawn.

    ``part``: which combinations of colour and shape occur (``seen``, ``unseen``, ``all``); ``single``: share of scenes
    with one object beyond what ``max_objects`` gives; ``imbalance``: exponent of a power law over colours and shapes;
    ``cooccurrence``: probability that a further object has the partner shape of the first; ``hard``: smaller, fainter,
    noisier, shaken objects that may hide each other; ``simple``: large solid objects at the centres of their places, on
    flat grounds, from which a model learns shapes first; ``crossed``: scenes come in blocks of this many (0: none),
    each with four shapes and the four colours that occur beside all of them, so that within a block no colour tells of
    a shape.
    """

    max_objects: int = SLOTS
    part: str = "seen"
    hard: bool = False
    twins: bool = False
    single: float = 0.0
    imbalance: float = 0.0
    cooccurrence: float = 0.0
    simple: bool = False
    crossed: int = 0


@dataclass
class Scenes:
    """Factors of n scenes. Object factors are ``(n, m)``, scene factors ``(n,)``, all small integers.

    ``shift (n, m, 2)`` pixels away from the place's centre, ``tint (n, m, 3)`` added to the colour, ``noise (n,)``
    picks the noise, ``wording (n,)`` picks the caption's form; ``twin (n,)`` is the number of the factor that differs
    from the other row of the pair, ``twin_object (n,)`` the object it belongs to; −1 is none.
    """

    count: np.ndarray
    shape: np.ndarray
    color: np.ndarray
    size: np.ndarray
    texture: np.ndarray
    place: np.ndarray
    background: np.ndarray
    gradient: np.ndarray
    style: np.ndarray
    shift: np.ndarray
    tint: np.ndarray
    noise: np.ndarray
    wording: np.ndarray
    twin: np.ndarray
    twin_object: np.ndarray

    def __len__(self) -> int:
        return len(self.count)

    def take(self, rows: np.ndarray | slice) -> Scenes:
        """Return the scenes of some rows."""
        return Scenes(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def allowed(part: str) -> np.ndarray:
    """Return which combinations of shape and colour a part holds, ``(shapes, colors)`` bool.

    Each shape leaves out one colour and each colour one shape: where both numbers add up to a multiple of 8.
    """
    total = np.arange(len(SHAPES))[:, None] + np.arange(len(COLORS))[None, :]
    unseen = total % len(COLORS) == 0
    return {"seen": ~unseen, "unseen": unseen, "all": np.ones_like(unseen)}[part]


def partner(shape: np.ndarray) -> np.ndarray:
    """Return the shape that co-occurs with a shape by bias: circle and ring, square and diamond, …"""
    return shape ^ 1


def draw(n: int, seed: int, recipe: Recipe) -> Scenes:
    """Draw n scenes; row i depends on the seed, the recipe and i alone."""
    chunks = [_chunk(number, seed, recipe) for number in range(-(-n // CHUNK))]
    whole = {field.name: np.concatenate([getattr(c, field.name) for c in chunks]) for field in fields(Scenes)}
    return Scenes(**{name: values[:n] for name, values in whole.items()})


def _chunk(number: int, seed: int, recipe: Recipe) -> Scenes:
    rng = np.random.default_rng([WORLD_VERSION, seed, number])
    if not recipe.twins:
        low, high = np.ones(CHUNK, np.int8), np.full(CHUNK, recipe.max_objects, np.int8)
        return _sorted(_free(rng, low, high, recipe, _legal(number, seed, recipe)))
    factors = twin_factors(recipe.max_objects)
    pairs = CHUNK // 2
    names = np.array([TWIN_FACTORS.index(f) for f in factors], np.int8)
    factor = names[(np.arange(pairs) + number * pairs) % len(factors)]
    two = np.isin(factor, [TWIN_FACTORS.index("count"), TWIN_FACTORS.index("binding")])
    moved = factor == TWIN_FACTORS.index("place")
    low = np.where(two, 2, 1).astype(np.int8)
    high = np.where(moved, min(recipe.max_objects, SLOTS - 1), recipe.max_objects).astype(np.int8)
    first = _sorted(_free(rng, low, high, recipe, allowed(recipe.part)))
    return _interleave(*_twins(rng, first, factor, recipe))


def twin_factors(max_objects: int) -> tuple[str, ...]:
    """Return the factors through which pairs of twins go: those of several objects only where there are several."""
    return TWIN_FACTORS if max_objects > 1 else TWIN_FACTORS[:6]


def _legal(number: int, seed: int, recipe: Recipe) -> np.ndarray:
    """Return what the scenes of a chunk may hold, ``(shapes, colors)`` for all or ``(n, shapes, colors)`` for each."""
    legal = allowed(recipe.part)
    if not recipe.crossed:
        return legal
    block = (number * CHUNK + np.arange(CHUNK)) // recipe.crossed
    # A stream of its own, read from its start: a block's shapes do not depend on where chunks end.
    order = np.argsort(np.random.default_rng([WORLD_VERSION, seed, CHUNK]).random((block[-1] + 1, len(SHAPES))), axis=1)
    chosen = np.zeros((len(order), len(SHAPES)), bool)
    np.put_along_axis(chosen, order[:, : len(SHAPES) // 2], True, axis=1)
    beside_all = np.all(legal | ~chosen[:, :, None], axis=1)
    crossing: np.ndarray = chosen[:, :, None] & beside_all[:, None, :]
    return crossing[block]


def _free(rng: np.random.Generator, low: np.ndarray, high: np.ndarray, recipe: Recipe, legal: np.ndarray) -> Scenes:
    """Draw independent scenes with a number of objects between low and high ``(n,)`` out of legal combinations."""
    n = len(low)

    def pick(values: int, *shape: int) -> np.ndarray:
        return rng.integers(values, size=(n, *shape), dtype=np.int8)

    count = (low + (rng.random(n) * (high - low + 1)).astype(np.int8)).astype(np.int8)
    count = np.where(rng.random(n) < recipe.single, low, count)
    shape, color = _combinations(rng, n, recipe, legal)
    size, texture = pick(len(SIZES), SLOTS), pick(len(TEXTURES), SLOTS)
    background, gradient, style = pick(len(BACKGROUNDS)), pick(len(GRADIENTS)), pick(len(STYLES))
    place = np.argsort(rng.random((n, SLOTS)), axis=1).astype(np.int8)
    reach = 4 if recipe.hard else 3
    shift = rng.integers(-reach, reach + 1, size=(n, SLOTS, 2), dtype=np.int8)
    tint = rng.integers(-12, 13, size=(n, SLOTS, 3), dtype=np.int8)
    noise, wording = rng.integers(2**31, size=(2, n), dtype=np.int64)
    none = np.full(n, -1, np.int8)
    if recipe.simple:
        size[:] = len(SIZES) - 1
        for part in (texture, gradient, shift, tint):
            part[:] = 0
    return Scenes(
        count, shape, color, size, texture, place, background, gradient, style, shift, tint, noise, wording, none, none
    )


def _combinations(rng: np.random.Generator, n: int, recipe: Recipe, legal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draw shapes and colours ``(n, m)``: first the shape, then a colour that is legal beside it."""
    weight_shape = (1.0 + np.arange(len(SHAPES))) ** -recipe.imbalance
    weight_color = (1.0 + np.arange(len(COLORS))) ** -recipe.imbalance
    edges = np.cumsum(weight_shape / weight_shape.sum())[:-1]
    drawn = rng.random((n, SLOTS))
    if legal.ndim == 2:
        shape = np.searchsorted(edges, drawn, side="right")
    else:
        shape = _weighted(drawn, np.broadcast_to((legal.any(2) * weight_shape)[:, None], (n, SLOTS, len(SHAPES))))
    biased = rng.random((n, SLOTS)) < recipe.cooccurrence
    biased[:, 0] = False
    shape = np.where(biased, partner(shape[:, :1]), shape)
    table = np.broadcast_to(legal, (n, *legal.shape[-2:]))[np.arange(n)[:, None], shape] * weight_color
    color = _weighted(rng.random((n, SLOTS)), table)
    return shape.astype(np.int8), color.astype(np.int8)


def _weighted(drawn: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the values ``(n, m)`` that numbers drawn from [0, 1) pick by weights ``(n, m, v)``, none of weight 0."""
    table = np.cumsum(weights / weights.sum(-1, keepdims=True), axis=-1)
    table[..., -1] = 1.0
    picked = (drawn[..., None] >= table).sum(-1)
    # A value that cannot occur has a step of zero height, so only rounding could pick it; the last legal one stands in.
    legal = weights > 0
    last = weights.shape[-1] - 1 - np.argmax(legal[..., ::-1], axis=-1)
    return np.where(np.take_along_axis(legal, picked[..., None], axis=-1)[..., 0], picked, last)


def _sorted(scenes: Scenes) -> Scenes:
    """Put the objects into reading order (by place) and zeros behind the count."""
    absent = np.arange(SLOTS) >= scenes.count[:, None]
    order = np.argsort(scenes.place + 100 * absent.astype(np.int16), axis=1, kind="stable")
    new = {}
    for name in (*OBJECT_VALUES, "shift", "tint"):
        values = getattr(scenes, name)
        index = order if values.ndim == 2 else order[..., None]
        values = np.take_along_axis(values, index, axis=1)
        new[name] = np.where(absent if values.ndim == 2 else absent[..., None], 0, values).astype(np.int8)
    return replace(scenes, **new)


def _twins(rng: np.random.Generator, first: Scenes, factor: np.ndarray, recipe: Recipe) -> tuple[Scenes, Scenes]:
    """Return the first rows and their twins, which differ in one factor alone ``(n,)``."""
    n = len(first)
    rows = np.arange(n)
    which = (rng.random(n) * first.count).astype(np.int8)
    new = {name: getattr(first, name).copy() for name in (*OBJECT_VALUES, "background", "count")}
    legal = allowed(recipe.part)

    factor = np.where((factor == TWIN_FACTORS.index("binding")) & ~_can_swap(first, legal), 0, factor).astype(np.int8)
    swap = np.flatnonzero(factor == TWIN_FACTORS.index("binding"))
    new["shape"][swap, :2] = first.shape[swap, 1::-1]

    # With one legal value there is none to change to: such pairs differ in size instead.
    for name, other in (("shape", legal.T[first.color[rows, which]]), ("color", legal[first.shape[rows, which]])):
        stuck = (factor == TWIN_FACTORS.index(name)) & (other.sum(1) < 2)
        factor = np.where(stuck, TWIN_FACTORS.index("size"), factor).astype(np.int8)
        changed = np.flatnonzero(factor == TWIN_FACTORS.index(name))
        old = getattr(first, name)[changed, which[changed]]
        new[name][changed, which[changed]] = _another(rng, old, other[changed])
    for name in ("size", "texture"):
        changed = np.flatnonzero(factor == TWIN_FACTORS.index(name))
        old = getattr(first, name)[changed, which[changed]]
        open_ = np.ones((len(changed), len(OBJECT_VALUES[name])), bool)
        new[name][changed, which[changed]] = _another(rng, old, open_)
    changed = np.flatnonzero(factor == TWIN_FACTORS.index("place"))
    free = np.ones((n, len(PLACES)), bool)
    for slot in range(SLOTS):
        there = np.flatnonzero(first.count > slot)
        free[there, first.place[there, slot]] = False
    new["place"][changed, which[changed]] = _another(rng, first.place[changed, which[changed]], free[changed])
    changed = np.flatnonzero(factor == TWIN_FACTORS.index("background"))
    every = np.ones((len(changed), len(BACKGROUNDS)), bool)
    new["background"][changed] = _another(rng, first.background[changed], every)
    new["count"][factor == TWIN_FACTORS.index("count")] -= 1

    marked = replace(first, twin=factor, twin_object=which)
    return marked, _sorted(replace(marked, **new))


def _can_swap(scenes: Scenes, legal: np.ndarray) -> np.ndarray:
    """Tell in which scenes the first two objects can exchange their shapes and differ from before."""
    shape, color = scenes.shape, scenes.color
    differ = (shape[:, 0] != shape[:, 1]) & (color[:, 0] != color[:, 1])
    return differ & legal[shape[:, 1], color[:, 0]] & legal[shape[:, 0], color[:, 1]] & (scenes.count > 1)


def _another(rng: np.random.Generator, old: np.ndarray, legal: np.ndarray) -> np.ndarray:
    """Draw, for each row, a legal value other than the old one, all equally likely."""
    score = rng.random(legal.shape)
    score[~legal] = -1.0
    score[np.arange(len(old)), old] = -1.0
    return score.argmax(axis=1).astype(np.int8) if len(old) else old


def _interleave(first: Scenes, second: Scenes) -> Scenes:
    """Put the pairs' rows next to each other: 2i and 2i + 1."""
    whole = {}
    for field in fields(Scenes):
        pair = np.stack([getattr(first, field.name), getattr(second, field.name)], axis=1)
        whole[field.name] = pair.reshape(-1, *pair.shape[2:])
    return Scenes(**whole)
