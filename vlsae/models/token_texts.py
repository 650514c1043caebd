"""How single tokens read: the piece of text that each token id adds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def token_texts(tokenizer: Any, ids: Iterable[int]) -> dict[int, str]:
    """Return the text of each token id, with the space before it where the tokenizer writes one.

    A token is decoded after itself: what the second one adds is its text within a sentence, whatever sign the
    vocabulary uses for a space.
    """
    inner = getattr(tokenizer, "tokenizer", tokenizer)
    found = {}
    for number in map(int, ids):
        alone = str(inner.decode([number]))
        found[number] = str(inner.decode([number, number])).removeprefix(alone) or alone
    return found
