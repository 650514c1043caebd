"""Texts as numbers of their words, by a list of known words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

#: What stands before a text, and for a word that is not known.
START, UNKNOWN = "<start>", "<unknown>"

#: A word with what is joined to it, an ending that stands alone in tagged text ('s), or a mark.
WORD = re.compile(r"\w+(?:['’-]\w+)*|['’]\w+|[^\w\s]")


def words_of(text: str) -> list[str]:
    """Return the words and marks of a text, in small letters."""
    return WORD.findall(text.lower())


class Words:
    """A list of known words, :data:`START` and :data:`UNKNOWN` first."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self._numbers = {word: number for number, word in enumerate(self.words)}

    @classmethod
    def commonest(cls, texts: Iterable[str], most: int) -> Words:
        """Return at most so many words: the commonest of some texts, equal ones by spelling."""
        counts = Counter(word for text in texts for word in words_of(text))
        ordered = sorted(counts, key=lambda word: (-counts[word], word))
        return cls([START, UNKNOWN, *ordered[: most - 2]])

    def __len__(self) -> int:
        return len(self.words)

    def numbers(self, text: str) -> list[int]:
        """Return the number of each word of a text."""
        unknown = self._numbers[UNKNOWN]
        return [self._numbers.get(word, unknown) for word in words_of(text)]
