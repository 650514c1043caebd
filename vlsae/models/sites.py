"""How a user's words for places in a model become site names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from vlsae.errors import UserError, unknown

if TYPE_CHECKING:
    from vlsae.models.base import Model


def expand_sites(model: Model, wanted: str | int | Iterable[str | int]) -> list[str]:
    """Return the sites that the words mean, each once, in the order in which the model reaches them.

    A word is a site (``vision.12``, ``language.5.mlp``), or a layer of every stream (``12``, ``5.mlp``,
    ``embedding``), or ``last`` (each stream's last block) or ``all`` (every layer and the embedding, without parts);
    ``vision.last`` and ``vision.all`` mean one stream.

    Raises:
        UserError: a word means no site, or a layer that one of the streams lacks.
    """
    return select_sites(list(model.sites()), wanted)


def select_sites(known: list[str], wanted: str | int | Iterable[str | int]) -> list[str]:
    """Return those of the ``known`` sites that the words mean, as :func:`expand_sites` does for a model's."""
    words = [wanted] if isinstance(wanted, str | int) else list(wanted)
    found = {site for word in words for part in str(word).split(",") for site in _expand(part.strip(), known)}
    if not found:
        raise UserError("No site is asked for.", "Name one, such as embedding, 12, vision.12 or all.")
    return [site for site in known if site in found]


def layers_of(sites: Iterable[str], stream: str) -> list[int]:
    """Return the numbers of a stream's layers, ascending: 0 is the input of the first block."""
    return sorted(int(match[1]) for site in sites if (match := re.fullmatch(rf"{re.escape(stream)}\.(\d+)", site)))


def _expand(word: str, known: list[str]) -> list[str]:
    if word in known:
        return [word]
    streams = list(dict.fromkeys(site.split(".", 1)[0] for site in known))
    stream, _, rest = word.partition(".")
    if stream in streams:
        return _of_stream(stream, rest, known)
    if rest and not stream.isdigit():
        raise unknown("site", word, [*known, *(f"{one}.last" for one in streams)])
    return [site for stream in streams for site in _of_stream(stream, word, known)]


def _of_stream(stream: str, layer: str, known: list[str]) -> list[str]:
    numbers = layers_of(known, stream)
    if layer == "all":
        return [f"{stream}.{number}" for number in numbers] + [s for s in known if s == f"{stream}.embedding"]
    if layer == "last" and numbers:
        return [f"{stream}.{numbers[-1]}"]
    site = f"{stream}.{layer}"
    if site in known:
        return [site]
    if layer.startswith("-"):
        raise UserError(f"Layer {layer} is negative.", "Layers count from 0, the input of the first block; try 'last'.")
    if layer.split(".")[0].isdigit() and numbers:
        raise UserError(
            f"There is no site {site!r}.",
            f"{stream} has layers 0…{numbers[-1]}; {_parts(stream, known)}write {stream}.{numbers[-1]} for one stream.",
        )
    raise unknown("site", site, [*known, f"{stream}.last", f"{stream}.all"])


def _parts(stream: str, known: list[str]) -> str:
    parts = sorted({site.split(".", 2)[2] for site in known if site.startswith(f"{stream}.") and site.count(".") == 2})
    return f"a block's parts are {' and '.join(parts)}; " if parts else ""
