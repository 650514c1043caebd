"""What the loss of dead concepts brings, on all rows of a step, on a share of them, and without it.

    python benchmarks/dictionary_dead.py FOLDER [--seeds 0 1 2] [--worlds drawn shapes]

TopK; a concept counts as dead after 5,000 rows, ten steps. ``drawn``: rows of 6 of 384 known directions, 64 wide, some
often and most seldom, to 512 concepts, 8 active. ``shapes``: the hard scenes of ``dictionary_table.py`` at its sizes,
steps and batches. FOLDER/dead.csv takes a row a training, and what it has is not trained again.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from dictionary_table import ACTIVE, BATCH, CONCEPTS, SITES, STEPS, World, append_row, rows_of, scores, world_of
from torch import Tensor

from vlsae.dictionaries import TopK
from vlsae.representations import Reader
from vlsae.stages.fitting import seeded
from vlsae.training import build_optimizer, fit, train_step

DEAD_AFTER = 5_000

#: Of each variant what it sets.
VARIANTS: dict[str, dict[str, float]] = {
    "all rows": {},
    "half of the rows": {"auxiliary_rows": 0.5},
    "a quarter": {"auxiliary_rows": 0.25},
    "no such loss": {"auxiliary_weight": 0.0},
}

#: Of each world the learning rates and scalings of the rows that are tried.
TRIED = {"drawn": ((0.01, "none"), (0.01, "rms")), "shapes": ((0.003, "none"), (0.03, "none"))}

WIDTH, DIRECTIONS, PRESENT, DRAWN_ACTIVE, DRAWN_STEPS, DRAWN_BATCH = 64, 384, 6, 8, 780, 512

#: What the page shows, each seed's own: concepts silent on held-out rows, and at the end of training.
SHOWN = ("dead", "silent", "explained", "recovery")

Trained = Callable[[float, int, dict[str, Any]], tuple[TopK, dict[str, float | str]]]


def main() -> int:
    """Train and score every variant that the table lacks, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--worlds", nargs="+", default=list(TRIED), choices=list(TRIED))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    file = given.folder / "dead.csv"
    for name in given.worlds:
        trained = drawn if name == "drawn" else functools.partial(scenes, world_of(name, None, given.folder))
        for rate, norm in TRIED[name]:
            for seed in given.seeds:
                for variant in VARIANTS:
                    key = {"world": name, "rate": str(rate), "input_norm": norm, "variant": variant, "seed": str(seed)}
                    add_row(file, key, trained)
    show(file)
    return 0


def add_row(file: Path, key: dict[str, str], trained: Trained) -> None:
    """Train and score one dictionary, unless the table has it."""
    if any(all(row[part] == value for part, value in key.items()) for row in rows_of(file)):
        return
    options = {"dead_after": DEAD_AFTER, "input_norm": key["input_norm"], **VARIANTS[key["variant"]]}
    dictionary, found = trained(float(key["rate"]), int(key["seed"]), options)
    silent = float((dictionary.silent_for >= DEAD_AFTER).double().mean())
    append_row(file, {**key, "silent": silent, **{name: found[name] for name in SHOWN if name != "silent"}})


def scenes(world: World, rate: float, seed: int, options: dict[str, Any]) -> tuple[TopK, dict[str, float | str]]:
    """Return a dictionary of scenes, and how it does on held-out ones; recovery is that of factors."""
    reader = Reader(world.store, SITES, batch_size=BATCH, split="train", seed=seed)
    dictionary = seeded(seed, lambda: TopK(world.width, CONCEPTS, ACTIVE, **options))
    fit(dictionary, reader, epochs=math.ceil(STEPS / reader.steps_per_epoch), lr=rate, seed=seed)
    return dictionary, scores(world, dictionary.eval())


def drawn(rate: float, seed: int, options: dict[str, Any]) -> tuple[TopK, dict[str, float | str]]:
    """Return a dictionary of drawn rows, and how it does on others.

    Recovery is the share of directions that a concept meets at a cosine above 0.9.
    """
    rows, held_out = rows_of_directions(1, 200_000), rows_of_directions(2, 4_000)
    dictionary = seeded(seed, lambda: TopK(WIDTH, CONCEPTS, DRAWN_ACTIVE, **options))
    dictionary.initialize({"vision": rows[:2048]})
    optimizer = build_optimizer(dictionary, rate)
    for step, places in enumerate(torch.arange(DRAWN_STEPS * DRAWN_BATCH).remainder(len(rows)).split(DRAWN_BATCH)):
        train_step(dictionary, {"vision": rows[places]}, optimizer, step)
    dictionary.eval()
    with torch.no_grad():
        code = dictionary.encode(held_out, "vision").to_dense()
        error = (held_out - dictionary.decode(code, "vision")).square().sum()
        met = (F.normalize(dictionary.decoder.weight.T, dim=1) @ directions().T).amax(dim=0) > 0.9
    return dictionary, {
        "dead": float((code == 0).all(dim=0).double().mean()),
        "explained": float(1 - error / (held_out - held_out.mean(dim=0)).square().sum()),
        "recovery": float(met.double().mean()),
    }


@functools.cache
def directions() -> Tensor:
    """Return the known directions ``(384, 64)``."""
    return F.normalize(torch.randn(DIRECTIONS, WIDTH, generator=torch.Generator().manual_seed(99)), dim=1)


@functools.cache
def rows_of_directions(seed: int, n: int) -> Tensor:
    """Return rows ``(n, 64)`` that have 6 of the directions on average, the i-th as often as 1/√i."""
    generator = torch.Generator().manual_seed(seed)
    often = torch.arange(1, DIRECTIONS + 1).rsqrt()
    has = torch.rand(n, DIRECTIONS, generator=generator) < PRESENT * often / often.sum()
    strength = 0.5 + torch.rand(n, DIRECTIONS, generator=generator)
    return (has * strength) @ directions() + 0.02 * torch.randn(n, WIDTH, generator=generator)


def show(file: Path) -> None:
    """Print the means over seeds as Markdown, and each seed's own in brackets."""
    every = rows_of(file)
    names = ("world", "rate", "input_norm", "variant")
    lines = ["| " + " | ".join([*names, *SHOWN]) + " |", "|---" * (len(names) + len(SHOWN)) + "|"]
    for key in dict.fromkeys(tuple(row[name] for name in names) for row in every):
        own = [row for row in every if tuple(row[name] for name in names) == key]
        cells = []
        for column in SHOWN:
            values = [float(row[column]) for row in own]
            cells.append(f"{np.mean(values):.3f} ({', '.join(f'{value:.3f}' for value in values)})")
        lines.append("| " + " | ".join([*key, *cells]) + " |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
