"""Which tokens of a text and which patches of a picture activate a concept, where rows are tokens."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from vlsae.errors import UserError
from vlsae.runs.files import load_json

TOKENS = "concept_tokens.jsonl"

#: A token as it is written, and its activation as a share of the item's largest.
Piece = tuple[str, float]


@dataclass(frozen=True)
class Marks:
    """Of one concept: by text its tokens with their activations, and by picture its patches, row by row.

    Patches cover the middle square of a picture where it is ``cut``, else the whole, and a ``share`` of that.
    """

    pieces: dict[str, list[Piece]] = field(default_factory=dict)
    patches: dict[str, list[list[float]]] = field(default_factory=dict)
    cut: bool = True
    share: float = 1.0


def token_marks(path: Path, concepts: Collection[int]) -> dict[int, Marks]:
    """Return the marks of some concepts from a run's ``concept_tokens.jsonl``, none where its rows are no tokens."""
    file = path / TOKENS
    if not file.is_file():
        return {}
    found: dict[int, Marks] = {}
    with file.open(encoding="utf-8") as stream:
        try:
            for line in stream:
                content = load_json(line)
                if content["id"] in concepts:
                    found[content["id"]] = _marks(content)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file} is damaged ({error!r}).", "Make the run anew.") from error
    return found


def _marks(content: dict) -> Marks:
    marks = Marks(**content.get("framing", {}))
    for one in content["texts"]:
        largest = max((activation for _, activation in one["tokens"]), default=0.0) or 1.0
        marks.pieces[one["text"]] = [(piece, activation / largest) for piece, activation in one["tokens"]]
    for one in content["images"]:
        largest = max((value for row in one["patches"] for value in row), default=0.0) or 1.0
        marks.patches[one["pair_id"]] = [[round(value / largest, 3) for value in row] for row in one["patches"]]
    return marks
