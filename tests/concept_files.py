"""Runs with many concepts for tests of reports, written without a model: ``concept_files.py FOLDER N`` writes one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from run_factory import new_run

ITEMS = (("", 10), ("_median", 3), ("_low", 3))


def write_run(
    root: Path,
    concepts: int,
    *,
    text: Callable[[int], str] = lambda number: f"a red circle left of a blue square, number {number}",
    name: Callable[[int], str | None] = lambda number: None,
    extraction: str | None = None,
    pair_ids: list[str] | None = None,
) -> Path:
    """Return the folder of a finished training that holds so many concepts, with names where they are given."""
    parents = [extraction] if extraction else []
    run = new_run(root, "concepts", "train", config="model: {}\n", parents=parents)
    run.write_summary({"explained_variance/vision": 0.5})
    generator = np.random.default_rng(0)
    ids = pair_ids or [f"s{number:05d}" for number in range(500)]
    with (run.path / "concepts.jsonl").open("w", encoding="utf-8") as file:
        for number in range(concepts):
            file.write(json.dumps(concept(number, generator, ids, text)) + "\n")
    if name(0) is not None:
        (run.path / "tables").mkdir()
        lines = ["concept,name,score,shuffled"]
        lines += [f'{number},"{str(name(number)).replace(chr(34), chr(34) * 2)}",0.8,0.5' for number in range(concepts)]
        (run.path / "tables" / "names.csv").write_text("\n".join(lines) + "\n")
    run.finish()
    return run.path


def concept(number: int, generator: np.random.Generator, ids: list[str], text: Callable[[int], str]) -> dict:
    """A concept as ``concepts.jsonl`` holds it; every seventeenth is dead."""
    dead = number % 17 == 16
    record = {"id": number, "name": None}
    for letter in "vl":
        frequency = 0.0 if dead else float(10 ** generator.uniform(-4, -1.2))
        record |= {f"freq_{letter}": frequency, f"mean_{letter}": frequency * 0.7, f"dead_{letter}": dead}
        record[f"density_{letter}"] = [] if dead else generator.integers(0, 9, 12).tolist()
    record["mean_activation"] = (record["mean_v"] + record["mean_l"]) / 2
    for ending, count in ITEMS:
        activations = [] if dead else np.sort(generator.random(count))[::-1].round(6).tolist()
        chosen = [ids[int(place)] for place in generator.integers(0, len(ids), count)]
        record[f"images{ending}"] = [{"pair_id": i, "path": None, "act": a} for i, a in zip(chosen, activations)]
        record[f"texts{ending}"] = [{"pair_id": i, "text": text(number), "act": a} for i, a in zip(chosen, activations)]
    return record


if __name__ == "__main__":
    sys.stdout.write(f"{write_run(Path(sys.argv[1]), int(sys.argv[2]))}\n")
