"""Long texts in pieces of bounded length."""

from __future__ import annotations

import re
from collections.abc import Iterator


def chunks(text: str, size: int) -> list[str]:
    """Return consecutive pieces of at most ``size`` UTF-8 bytes that make up the text, cut between words.

    A word that is longer by itself is cut between characters; one character is never cut.
    """
    pieces: list[str] = []
    current, length = "", 0
    for part, weight in _parts(text, size):
        if current and length + weight > size:
            pieces.append(current)
            current, length = "", 0
        current, length = current + part, length + weight
    return [*pieces, current] if current else pieces


def _parts(text: str, size: int) -> Iterator[tuple[str, int]]:
    """Yield words with the space behind them, and their bytes; the characters of those that are too long."""
    for found in re.finditer(r"\S+\s?|\s", text):
        part = found.group()
        weight = len(part.encode())
        if weight <= size:
            yield part, weight
        else:
            yield from ((character, len(character.encode())) for character in part)
