"""Write windows of words from tagged text (CoNLL-U) as a table for ``dataset=text``.

Use: python scripts/tagged_windows.py IN.conllu OUT.csv [--text OUT.txt]

Each row holds the words before one word, and two classes: of the window's last word and of the word that comes next.
``--text`` also writes the words alone, a sentence a line, to train a network on.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path


def sentences(path: Path) -> Iterator[list[tuple[str, str]]]:
    """Yield each sentence's words with their classes; parts of joined words are left out for the word as written."""
    words: list[tuple[str, str]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line and words:
            yield words
            words = []
        cells = line.split("\t")
        if cells[0].isdigit():
            words.append((cells[1], cells[3]))
    if words:
        yield words


def windows(words: list[tuple[str, str]], size: int) -> Iterator[tuple[str, str, str]]:
    """Yield text, class of its last word and class of the next for each full window of ``size`` words."""
    for end in range(size, len(words)):
        own = words[end - size : end]
        yield " ".join(word for word, _ in own), own[-1][1], words[end][1]


def main() -> None:
    """Write one window a sentence at most, so that rows do not overlap."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--words", type=int, default=9, help="words of a window")
    parser.add_argument("--text", type=Path, help="a file for the words alone")
    options = parser.parse_args()
    if options.text:
        lines = (" ".join(word for word, _ in words) for words in sentences(options.source))
        options.text.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with options.target.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["text", "last_class", "next_class", "group"])
        for number, words in enumerate(sentences(options.source)):
            found = list(windows(words, options.words))
            if found:
                writer.writerow([*found[number % len(found)], f"sentence {number}"])


if __name__ == "__main__":
    main()
