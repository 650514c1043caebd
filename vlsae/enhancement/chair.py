"""CHAIR: which objects a caption mentions, and how many are not in the picture (Rohrbach et al. 2018)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from vlsae.errors import UserError

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_IRREGULAR = {
    "buses": "bus", "children": "child", "dice": "die", "feet": "foot", "geese": "goose", "knives": "knife",
    "leaves": "leaf", "men": "man", "mice": "mouse", "oxen": "ox", "people": "person", "policemen": "policeman",
    "policewomen": "policewoman", "teeth": "tooth", "women": "woman", "wolves": "wolf", "calves": "calf",
    "shelves": "shelf", "lives": "life", "halves": "half", "loaves": "loaf", "scarves": "scarf", "wives": "wife",
    "snowmen": "snowman", "fishermen": "fisherman", "firemen": "fireman", "gentlemen": "gentleman",
}  # fmt: skip


def chair_mentions(caption: str, synonyms: Mapping[str, str]) -> list[str]:
    """Return the objects that a caption mentions, in order and with repeats.

    ``synonyms`` maps words and phrases to objects; the longest phrase wins ("hot dog" is no dog), plurals count.
    """
    phrases = _phrases(tuple(synonyms.items()))
    words = [word.removesuffix("'s") for word in _WORD.findall(caption.lower().replace("’", "'"))]
    longest = max((len(phrase) for phrase in phrases), default=0)
    mentions, position = [], 0
    while position < len(words):
        for length in range(min(longest, len(words) - position), 0, -1):
            found = _look_up(words[position : position + length], phrases)
            if found is not None:
                mentions.append(found)
                position += length
                break
        else:
            position += 1
    return mentions


def chair_scores(mentions: Sequence[Sequence[str]], truth: Sequence[Collection[str]]) -> dict[str, float]:
    """Return ``chair_i, chair_s, recall, mean_mentions`` of captions against the objects in their pictures.

    ``chair_i``: share of mentions of absent objects; ``chair_s``: share of captions with one, captions without
    mentions included; ``recall``: share of present objects that are mentioned, over all pictures. An undefined ratio
    is NaN. Raises ``ValueError`` where the two are not of one length.
    """
    if len(mentions) != len(truth):
        raise UserError(f"mentions and truth must be of one length; got {len(mentions)} and {len(truth)}.")
    absent = [[word for word in words if word not in present] for words, present in zip(mentions, truth)]
    total = sum(map(len, mentions))
    found = sum(len(set(present) & set(words)) for words, present in zip(mentions, truth))
    return {
        "chair_i": _ratio(sum(map(len, absent)), total),
        "chair_s": _ratio(sum(1 for words in absent if words), len(mentions)),
        "recall": _ratio(found, sum(len(set(present)) for present in truth)),
        "mean_mentions": _ratio(total, len(mentions)),
    }


@lru_cache(maxsize=8)
def _phrases(synonyms: tuple[tuple[str, str], ...]) -> dict[tuple[str, ...], str]:
    phrases = {tuple(_WORD.findall(phrase.lower())): name for phrase, name in synonyms}
    phrases.pop((), None)
    return phrases


def _look_up(words: list[str], phrases: Mapping[tuple[str, ...], str]) -> str | None:
    # Only the last word of a phrase takes a plural: "traffic lights", "wine glasses".
    for last in _singulars(words[-1]):
        found = phrases.get((*words[:-1], last))
        if found is not None:
            return found
    return None


def _singulars(word: str) -> Iterator[str]:
    yield word
    if word in _IRREGULAR:
        yield _IRREGULAR[word]
    yield from _regular(word)


def _regular(word: str) -> Iterable[str]:
    if len(word) < 4 or not word.endswith("s") or word.endswith("ss"):
        return
    if word.endswith("ies"):
        yield word[:-3] + "y"
    yield word[:-1]
    if word.endswith("es"):
        yield word[:-2]


def _ratio(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else float("nan")
