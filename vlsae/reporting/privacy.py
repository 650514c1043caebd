"""What of the data a page may show: all of it, no pictures, or nothing of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

#: Columns of a stage's tables that hold the data's own words.
OWN_WORDS = frozenset(
    {"text", "texts", "caption", "prompt", "question", "answer", "input", "output", "sample_id", "pair_id", "path"}
    | {"image", "source", "name", "proposed", "second", "third", "continuation"}
)

_PATH = re.compile(r"(?<![\w/.:])(?:[A-Za-z]:\\|(?:path:)?(?:~|\.{1,2})?/)[^\s'\",\]}]+")


@dataclass(frozen=True)
class Privacy:
    """``media``: pictures may stand on the page. ``redact``: no pictures, texts, ids, paths or names made of texts."""

    media: bool = True
    redact: bool = False

    @property
    def pictures(self) -> bool:
        """Whether pictures may be shown."""
        return self.media and not self.redact

    @property
    def note(self) -> str:
        """What the page says of what it leaves out, empty where it leaves out nothing."""
        if self.redact:
            return "Pictures, texts, ids and paths of the data, and the names made of them, are left out of this page."
        return "" if self.media else "Pictures are left out of this page."

    def text(self, text: str) -> str:
        """Return a text of the data as it may be shown."""
        if not self.redact:
            return text
        words = len(text.split())
        return f"[{words} word{'s' * (words != 1)}]"

    def item(self, name: str, number: int) -> str:
        """Return what the ``number``-th item of a list is called."""
        return f"item {number}" if self.redact else name

    def paths(self, text: str) -> str:
        """Return a text of the run's own, such as its command, without paths of a machine where they are redacted."""
        return _PATH.sub("[path]", text) if self.redact else text

    def cell(self, column: str, value: Any) -> Any:
        """Return a cell of a stage's table as it may be shown."""
        if self.redact and isinstance(value, str):
            return self.text(value) if column.lower() in OWN_WORDS else self.paths(value)
        return value
