"""The concepts of a run, one after another: ``concepts.jsonl`` may be larger than memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlsae.errors import UserError
from vlsae.runs.files import load_json

CONCEPTS = "concepts.jsonl"

Concept = Mapping[str, Any]


def each_concept(path: Path) -> Iterator[Concept]:
    """Yield the lines of a run's ``concepts.jsonl``, none without such a file; ``UserError`` for a damaged one."""
    file = path / CONCEPTS
    if not file.is_file():
        return
    with file.open(encoding="utf-8") as stream:
        try:
            for number, line in enumerate(stream, start=1):
                if not line.strip():
                    continue
                concept = load_json(line)
                if not isinstance(concept, dict) or not isinstance(concept.get("id"), int):
                    raise ValueError(f"line {number} is no concept")
                yield concept
        except ValueError as error:
            raise UserError(f"{file} is damaged ({error}).", "Make the run anew.") from error


def is_dead(concept: Concept) -> bool:
    """Tell whether no row of the store activates a concept."""
    return not concept["images"] and not concept["texts"]


def vision_share(concept: Concept) -> float | None:
    """Return the share of a concept's mean activation that comes from vision, None where a stream is missing or both
    are silent."""
    vision, language = concept["mean_v"], concept["mean_l"]
    if vision is None or language is None or vision + language <= 0:
        return None
    return float(vision / (vision + language))


def strength(concept: Concept) -> float:
    """Return how strongly its listed items activate a concept, by the weaker of the streams it knows."""
    sides = [concept["images"], concept["texts"]]
    known = [side for side, dead in zip(sides, (concept["dead_v"], concept["dead_l"])) if dead is not None]
    means = [sum(item["act"] for item in side) / len(side) if side else 0.0 for side in known]
    return float(min(means, default=0.0))
