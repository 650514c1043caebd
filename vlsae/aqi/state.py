"""The moments and scores of a run on disk: what a comparison needs, and what parts of one pass merge from.

n rows, L layers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlsae.aqi.accumulators import ClassMoments
from vlsae.aqi.design import Design
from vlsae.errors import MissingFile, UserError

FILE = "moments.safetensors"

#: What two parts of one pass must agree in.
SHARED = ("schema", "classes", "strata", "n_blocks", "n_folds", "sites", "widths", "rows_sha256")

SCHEMA = 1


@dataclass(frozen=True)
class State:
    """Each site's moments by cell, each row's ``design`` and, where rows were at hand, scores ``(L, n)`` by site.

    ``facts`` hold classes, strata, sites, widths and the digest of the rows' ids.
    """

    cells: dict[str, ClassMoments]
    design: Design
    scores: dict[str, np.ndarray]
    facts: dict[str, Any]

    @property
    def sites(self) -> list[str]:
        """The sites in the model's order."""
        return list(self.facts["sites"])


def facts_of(
    classes: Sequence[str], strata: Sequence[str], design: Design, widths: Mapping[str, int], digest: str
) -> dict[str, Any]:
    """Return what a state says of itself."""
    return {
        "schema": SCHEMA,
        "classes": list(classes),
        "strata": list(strata),
        "n_blocks": design.n_blocks,
        "n_folds": design.n_folds,
        "sites": list(widths),
        "widths": list(widths.values()),
        "rows_sha256": digest,
    }


def save(state: State, folder: Path) -> None:
    """Write a state into a folder, by way of a temporary name."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    design = state.design
    tensors = {name: np.asarray(getattr(design, name)) for name in ("codes", "strata", "blocks", "folds")}
    for site, cells in state.cells.items():
        tensors |= {f"{site}/{name}": np.ascontiguousarray(array) for name, array in cells.arrays().items()}
    tensors |= {f"{site}/scores": scores for site, scores in state.scores.items()}
    written = folder / f".{FILE}"
    save_file(tensors, written, metadata={"facts": json.dumps(state.facts)})
    written.replace(folder / FILE)


def load(folder: Path) -> State:
    """Return the state of a folder; ``MissingFile`` without one, ``UserError`` for one that is damaged."""
    from safetensors import SafetensorError, safe_open

    path = folder / FILE
    if not path.is_file():
        raise MissingFile(f"There is no {path}.", "Only a finished run of vlsae aqi holds one.")
    try:
        with safe_open(path, framework="numpy") as file:
            facts = json.loads(file.metadata()["facts"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}).", "Make the run anew.") from error
    design = Design(
        codes=tensors["codes"],
        strata=tensors["strata"],
        blocks=tensors["blocks"],
        folds=tensors["folds"],
        n_classes=len(facts["classes"]),
        n_strata=len(facts["strata"]),
        n_blocks=facts["n_blocks"],
        n_folds=facts["n_folds"],
    )
    names = ("count", "shift", "shifted_mean", "m2")
    cells = {
        site: ClassMoments.from_arrays({name: tensors[f"{site}/{name}"] for name in names}) for site in facts["sites"]
    }
    scores = {site: tensors[f"{site}/scores"] for site in facts["sites"] if f"{site}/scores" in tensors}
    return State(cells, design, scores, facts)


def merge(parts: Sequence[State]) -> dict[str, ClassMoments]:
    """Return the moments of parts of one pass over the same rows, each of which saw other blocks.

    Raises ``UserError``: AQI-S01 where parts differ in what they were made from, AQI-S02 for a block seen twice.
    """
    first = parts[0]
    merged = {site: ClassMoments(cells.n_classes, cells.width) for site, cells in first.cells.items()}
    seen: set[int] = set()
    for number, part in enumerate(parts):
        differing = [name for name in SHARED if part.facts[name] != first.facts[name]]
        if differing:
            raise UserError(
                f"AQI-S01: part {number} differs from part 0 in {', '.join(differing)}.",
                "Merge parts of one pass: the same rows, layers and blocks.",
            )
        count = next(iter(part.cells.values())).count
        own = set(np.flatnonzero(count.reshape(-1, len(first.facts["strata"]) * 2).any(axis=1)).tolist())
        if seen & own:
            raise UserError(f"AQI-S02: block {min(seen & own)} comes twice, again in part {number}.", "Give it once.")
        seen |= own
        for site, cells in part.cells.items():
            merged[site].merge(cells)
    return merged
