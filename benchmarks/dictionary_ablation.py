"""The dictionary of our own with one of its parts taken out at a time, on the world it was tuned on.

    python benchmarks/dictionary_ablation.py FOLDER [--seeds 0] [--variants whole one_decoder …]

Rows, sizes, settings and measures are those of ``dictionary_table.py``; FOLDER/ablation.csv takes a row a training, and
what it has is not trained again. Settings stay those that were tuned for the whole: what a part gives is what is lost
without it, not what another tuning might win back.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from dictionary_table import (
    ACTIVE,
    BATCH,
    CONCEPTS,
    SETTINGS,
    SITES,
    STEPS,
    World,
    append_row,
    rows_of,
    scores,
    world_of,
)
from torch import Tensor, nn

from vlsae.dictionaries.canonical import Canonical, canonical_maps
from vlsae.dictionaries.centered import unit_size
from vlsae.representations import Reader
from vlsae.stages.fitting import seeded
from vlsae.training import fit

#: What the page shows of a row.
SHOWN = ("recovery", "excess", "explained_vision", "explained_language", "code_r1", "dead")


class RandomStart(Canonical):
    """No concept starts along a canonical axis, and none leads."""

    def _start(self, scaled: Mapping[str, Tensor], correlations: Tensor) -> None:
        self.axes = 0
        super()._start(scaled, correlations)


class OwnCoordinates(RandomStart):
    """Rows stay in their own coordinates, centred and scaled by modality: what only one of them knows counts fully."""

    def initialize(self, batch: Mapping[str, Tensor]) -> None:
        """Measure as before, then take the maps out and start at random."""
        super().initialize(batch)
        rows = {stream: self._scaled(x, stream).double() for stream, x in self._paired(batch).items()}
        self.canonical_map.copy_(torch.eye(self.width).expand_as(self.canonical_map))
        self._start(rows, torch.ones(self.width, dtype=torch.float64))


class OneDecoder(Canonical):
    """Both modalities are decoded by one set of columns, which starts at the mean of both."""

    starting = False

    def _decoder(self, stream: str) -> nn.Linear:
        return self.text_decoder if self.starting and stream == "language" else self.vision_decoder

    def _start(self, scaled: Mapping[str, Tensor], correlations: Tensor) -> None:
        self.starting = True
        super()._start(scaled, correlations)
        self.starting = False
        with torch.no_grad():
            self.vision_decoder.weight.add_(self.text_decoder.weight)
        self.after_step(0)

    def _column_size(self) -> Tensor:
        return torch.linalg.vector_norm(self._decoder("vision").weight.detach(), dim=0).clamp(min=1e-12)


class OneCentre(Canonical):
    """Mean and size are those of both modalities together, so that the gap between them stays."""

    def initialize(self, batch: Mapping[str, Tensor]) -> None:
        """Measure mean, size and canonical axes of pairs, and start from them."""
        rows = self._paired(batch)
        both = torch.cat(list(rows.values()))
        self.mean.copy_(both.mean(dim=0).expand_as(self.mean))
        self.scale.fill_(unit_size(both - self.mean[0]))
        scaled = {stream: self._scaled(x, stream).double() for stream, x in rows.items()}
        maps, correlations = canonical_maps(list(scaled.values()), 2 * self.ridge * self.width / len(both))
        for own, found in zip(self.canonical_map, maps):
            own.copy_((found * correlations).T)
        self._start(scaled, correlations)


#: Of each variant its class and what it changes of the settings.
VARIANTS: dict[str, tuple[Callable[..., Canonical], dict[str, float]]] = {
    "whole": (Canonical, {}),
    "agreement=0": (Canonical, {"agreement": 0}),
    "leading=0": (Canonical, {"leading": 0}),
    "remainder=1": (Canonical, {"remainder": 1}),
    "random_start": (RandomStart, {}),
    "own_coordinates": (OwnCoordinates, {}),
    "one_decoder": (OneDecoder, {}),
    "one_centre": (OneCentre, {}),
}


def main() -> int:
    """Train and score every variant that the table lacks, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    file = given.folder / "ablation.csv"
    world = world_of("shapes_validation", None, given.folder)
    for seed in given.seeds:
        for name in given.variants:
            if not any(row["variant"] == name and row["seed"] == str(seed) for row in rows_of(file)):
                append_row(file, {"variant": name, "seed": seed, **scores(world, trained(world, name, seed))})
    lines = ["| variant | seed | " + " | ".join(SHOWN) + " |", "|---" * (2 + len(SHOWN)) + "|"]
    for row in rows_of(file):
        numbers = [f"{float(row[one]):.3f}" for one in SHOWN]
        lines.append("| " + " | ".join([f"`{row['variant']}`", row["seed"], *numbers]) + " |")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def trained(world: World, name: str, seed: int) -> Canonical:
    """Return a variant trained on the world's rows, at the settings that were chosen for the whole."""
    kind, changed = VARIANTS[name]
    chosen = json.loads(SETTINGS.read_text(encoding="utf-8"))["chosen"]["canonical"]
    words = dict(word.removeprefix("objective.").split("=") for word in chosen["settings"])
    options = {**{key: float(value) for key, value in words.items()}, **changed}
    reader = Reader(world.store, SITES, batch_size=BATCH, split="train", seed=seed)
    dictionary = seeded(seed, lambda: kind(world.width, CONCEPTS, ACTIVE, **options))
    fit(dictionary, reader, epochs=math.ceil(STEPS / reader.steps_per_epoch), lr=chosen["lr"], seed=seed)
    return dictionary.eval()


if __name__ == "__main__":
    sys.exit(main())
