"""Every kind of dictionary on the same held-out rows, each at settings that were tuned on another world.

    python benchmarks/dictionary_table.py tune FOLDER
    python benchmarks/dictionary_table.py table FOLDER --data ../shared/data [--worlds shapes nlvr_dev coco_photos]
        [--objectives vl_sae top_k …] [--seeds 0 1 2]

``tune`` tries the settings of ``TRIALS`` on scenes of seed 0, six trainings a kind, writes all of them to
FOLDER/tuning.csv and the best to FOLDER/dictionary_settings.json; the file of that name beside this script is what it
found. ``table`` reads that file and trains every kind on other worlds: hard scenes of seed 9100 with all combinations
and uneven colours and shapes; the boxes of NLVR's pictures, captioned and labelled from their object lists; photographs
with their captions. It writes FOLDER/<world>.csv, a row a dictionary, going on where it was interrupted.

The bundled CLIP saw neither boxes nor photographs: there the numbers are a demonstration of the method, not of the
model. Everything runs in this process, without reports, so that a dictionary costs seconds.
"""

from __future__ import annotations

import argparse
import csv
import functools
import json
import math
import os
import subprocess
import sys
import time
import zipfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlsae.config import compose, resolved
from vlsae.datasets import Shapes
from vlsae.dictionaries.base import Dictionary
from vlsae.dictionaries.codes import code_matrix
from vlsae.dictionaries.consistency import consistency_measures, retrieval_measures
from vlsae.dictionaries.factor_scores import Factors, recovery
from vlsae.dictionaries.fit import Fit
from vlsae.dictionaries.loss_recovered import contrastive_recovery
from vlsae.dictionaries.reconstruction import reconstruction
from vlsae.dictionaries.recovery import supervised
from vlsae.dictionaries.usage import usage_measures
from vlsae.representations import Reader, Store
from vlsae.stages import held_out
from vlsae.stages.fitting import seeded
from vlsae.stages.learning import made
from vlsae.training import fit

SETTINGS = Path(__file__).with_name("dictionary_settings.json")
SITES = {"vision": "vision.embedding", "language": "language.embedding"}
STEPS, BATCH = 250, 256
CONCEPTS, ACTIVE = 512, 16

#: Learning rates, and where a kind has no setting of its own to try, twice as many.
RATES, MORE_RATES = (3e-3, 1e-2), (1e-3, 3e-3, 1e-2, 2e-2)

#: Learning rates at which the best of a kind's first settings are tried again.
HIGHER = (3e-2, 6e-2)

#: Of each kind the settings that all its trials have, and those of which each is tried at every rate.
TRIALS: dict[str, tuple[list[str], list[list[str]]]] = {
    "vl_sae": ([], [["objective.loss_balance=none"], ["objective.loss_balance=variance"]]),
    "dist_1dec": ([], [["objective.loss_balance=none"], ["objective.loss_balance=variance"]]),
    "random_enc": ([], [["objective.loss_balance=none"], ["objective.loss_balance=variance"]]),
    "shared_lin_2dec": ([], []),
    "sae_s": ([], []),
    "sae_d": ([], []),
    "top_k": ([], [["objective.input_norm=none"], ["objective.input_norm=rms"]]),
    "batch_top_k": (
        ["objective.threshold_decay=0.9"],
        [["objective.input_norm=none"], ["objective.input_norm=rms"]],
    ),
    "matryoshka": (
        ["objective.threshold_decay=0.9"],
        [["objective.prefixes=null"], ["objective.prefixes=[24,48,96,512]"]],
    ),
    "matryoshka_k": ([], [["objective.largest=32"], ["objective.largest=128"]]),
    "jump_relu": ([], [["objective.bandwidth=0.01"], ["objective.bandwidth=0.1"]]),
    "gated": (["objective.adapt=0.05"], [["objective.sparsity=1"], ["objective.sparsity=4"]]),
    "relu_l1": (["objective.adapt=0.05"], [["objective.sparsity=5"], ["objective.sparsity=20"]]),
    "codebook": ([], [["objective.initial=normal"], ["objective.initial=rows"]]),
    "prototype": ([], [["objective.initial=uniform"], ["objective.initial=rows"]]),
    "canonical": ([], [["objective.agreement=1"], ["objective.agreement=4"]]),
}

#: Fits learn without a rate.
FITS: dict[str, list[list[str]]] = {
    "pca": [[]],
    "ica": [[]],
    "kmeans": [["objective.epochs=5"], ["objective.epochs=20"]],
    "nmf": [["objective.alpha=0.001"], ["objective.alpha=0.01"]],
    "splice": [[]],
}
#: Components are as many as the width, words as many as the captions have.
NARROW = ("pca", "ica", "splice")
#: 512 prototypes cost minutes a training: prototypes keep their own size.
OWN_SIZE = ("prototype",)

SHAPES = ("dataset=shapes",)
HELD_OUT = ("dataset.seed=9100", "dataset.part=all", "dataset.hard=true", "dataset.imbalance=0.5")

#: What the choice among a kind's trials goes by: the sum of these.
JUDGED = ("recovery", "excess", "explained", "code_r1")


@dataclass(frozen=True)
class World:
    """Rows of one data set: ``store`` to train on, held-out pairs by stream ``(n, d)``, their factors if known."""

    name: str
    store: Store
    values: dict[str, torch.Tensor]
    factors: Factors | None

    @property
    def width(self) -> int:
        """The width of the rows."""
        return self.values["vision"].shape[1]


def main() -> int:
    """Tune, or make the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["tune", "table"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--worlds", nargs="+", default=["shapes", "nlvr_dev", "coco_photos"])
    parser.add_argument("--objectives", nargs="+", default=[*TRIALS, *FITS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.what == "tune":
        tune(given.folder, given.objectives)
        return 0
    chosen = json.loads(SETTINGS.read_text(encoding="utf-8"))["chosen"]
    for name in given.worlds:
        table(world_of(name, given.data, given.folder), chosen, given)
    return 0


def tune(folder: Path, objectives: list[str]) -> None:
    """Try every kind's settings on the validation world, and write what was best."""
    world = world_of("shapes_validation", None, folder)
    file = folder / "tuning.csv"
    for name in objectives:
        for lr, words in trials_of(name):
            add_row(file, world, name, 0, lr, words)
    for name in objectives:
        if name in TRIALS:
            words = best_of(file)[name]["settings"]
            for lr in HIGHER:
                add_row(file, world, name, 0, lr, words)
    best = best_of(file)
    found_by = {
        "world": "dataset=shapes, 10,000 scenes of seed 0, the validation split",
        "training": f"about {STEPS} steps of {BATCH} pairs, seed 0, the weights after the last step",
        "size": f"{CONCEPTS} concepts, {ACTIVE} active; pca and ica as many as the width, splice a word each; "
        "prototype 15, 1 active",
        "chosen_by": "the largest sum of " + ", ".join(JUDGED),
        "trials": {name: sum(row["objective"] == name for row in rows_of(file)) for name in best},
    }
    text = json.dumps({"found_by": found_by, "chosen": best}, indent=1)
    (folder / SETTINGS.name).write_text(text + "\n", encoding="utf-8")


def best_of(file: Path) -> dict[str, dict[str, Any]]:
    """Return the learning rate, the overrides and the score of each kind's best trial."""
    best: dict[str, dict[str, Any]] = {}
    for row in rows_of(file):
        score = sum(float(row[one]) for one in JUDGED)
        if row["objective"] not in best or score > best[row["objective"]]["score"]:
            best[row["objective"]] = {"lr": float(row["lr"]), "settings": row["settings"].split(), "score": score}
    return best


def trials_of(name: str) -> list[tuple[float, list[str]]]:
    """Return the learning rates and overrides that are tried of a kind first."""
    if name in FITS:
        return [(0.0, words) for words in FITS[name]]
    common, varied = TRIALS[name]
    rates = RATES if varied else MORE_RATES
    return [(lr, [*common, *words]) for words in varied or [[]] for lr in rates]


def table(world: World, chosen: dict[str, dict[str, Any]], given: argparse.Namespace) -> None:
    """Train and score every kind on a world with all seeds, and print the table."""
    file = given.folder / f"{world.name}.csv"
    for seed in given.seeds:
        for name in given.objectives:
            if name in chosen:
                add_row(file, world, name, seed, chosen[name]["lr"], chosen[name]["settings"])
    if world.factors is not None:
        raw = {stream: x.double().numpy() for stream, x in world.values.items()}
        ceiling = supervised(raw, world.factors, resamples=2).auroc.value
        sys.stdout.write(f"\n{world.name}: recovery of supervised probes {ceiling:.3f}\n")
    show(file)


def add_row(file: Path, world: World, name: str, seed: int, lr: float, words: list[str]) -> None:
    """Train and score one dictionary and append its row, unless the file has it."""
    key = {"objective": name, "seed": str(seed), "lr": str(lr), "settings": " ".join(words)}
    if any(all(row[part] == value for part, value in key.items()) for row in rows_of(file)):
        return
    start = time.process_time()
    dictionary = trained(world, name, seed, lr, words)
    learned = time.process_time()
    row = {**key, **scores(world, dictionary), "cpu_s": round(learned - start, 1)}
    append_row(file, row)
    sys.stdout.write(f"{world.name} {name} seed {seed} lr {lr} {' '.join(words)}: {row['cpu_s']} s\n")
    sys.stdout.flush()


def append_row(file: Path, row: dict[str, Any]) -> None:
    """Add a row to a table, which may be new."""
    new = not file.exists()
    with file.open("a", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def trained(world: World, name: str, seed: int, lr: float, words: list[str]) -> Dictionary:
    """Return a dictionary trained on a world's rows."""
    sizes = [] if name in OWN_SIZE else [f"objective.k={ACTIVE}"]
    sizes += [] if name in NARROW + OWN_SIZE else [f"objective.n_concepts={CONCEPTS}"]
    if name == "prototype" and not world.name.startswith("shapes"):
        sizes.append("objective.label=label")
    config = {**configuration(f"objective={name}", *sizes, *words), "seed": seed}
    batch = min(BATCH, 64 if world.name == "coco_photos" else BATCH)
    reader = Reader(world.store, SITES, batch_size=batch, split="train", seed=seed)
    objective, readers = made(config, world.store, {"train": reader}, world.width)
    if isinstance(objective, Fit):
        return seeded(seed, lambda: objective.fit(readers["train"]))
    epochs = math.ceil(STEPS / reader.steps_per_epoch)
    fit(objective, readers["train"], epochs=epochs, lr=lr, seed=seed)
    return objective.product().eval()


@functools.cache
def configuration(*words: str) -> dict[str, Any]:
    """Return the composed configuration of a training."""
    return dict(resolved(compose("train", list(words))))


@torch.no_grad()
def scores(world: World, dictionary: Dictionary) -> dict[str, float | str]:
    """Return the numbers of a table's row, on the world's held-out pairs."""
    common: dict[str, Any] = {"seed": 0, "resamples": 2}
    values = world.values
    parts = {s: reconstruction(dictionary, x, s, **common)["explained_variance"].value for s, x in values.items()}
    codes = {stream: code_matrix(dictionary, x, stream) for stream, x in values.items()}
    usage = usage_measures(codes, **common)
    sides = codes["vision"], codes["language"]
    agreement = consistency_measures(*sides, **common)
    found = retrieval_measures(sides, (values["vision"], values["language"]), **common)
    both = [found[f"code_retrieval/{way}/r1"].value for way in ("image_to_text", "text_to_image")]
    named = None if world.factors is None else recovery(codes, world.factors, **common)
    return {
        "l0": np.mean([np.diff(one.indptr).mean() for one in sides]),
        "explained": np.mean(list(parts.values())),
        "explained_vision": parts["vision"],
        "explained_language": parts["language"],
        "consistency": agreement["consistency"].value,
        "excess": agreement["consistency/excess"].value,
        "code_r1": np.mean(both),
        "loss_recovered": contrastive_recovery(dictionary, values, **common)["loss_recovered/mean"].value,
        "recovery": "" if named is None else named.auroc.value,
        "recovery_f1": "" if named is None else named.f1.value,
        "dead": np.mean([usage[f"dead/{stream}"].value for stream in SITES]),
        "parameters": sum(one.numel() for one in dictionary.parameters()),
    }


def world_of(name: str, data: Path | None, folder: Path) -> World:
    """Return a world's rows, extracted by the bundled CLIP where they are not there yet."""
    if name.startswith("shapes"):
        words = [*SHAPES, *(HELD_OUT if name == "shapes" else ())]
    else:
        if data is None:
            raise SystemExit(f"{name} needs --data, the folder of data sets.")
        words = ["dataset=captions", f"dataset.path={prepared(name, data, folder)}"]
    run = f"table-{name}"
    path = Path(os.environ.get("VLSAE_RUNS", "runs")) / "extract" / run / "latest" / "representations"
    if not path.is_dir():
        command = [sys.executable, "-m", "vlsae", "extract", *words, "--name", run]
        subprocess.run(command, check=True)
    store = Store.open(path)
    rows = held_out.rows(store, SITES, paired=True, limit=10_000, seed=0)
    if name.startswith("shapes"):
        factors = Factors(*Shapes.factors(rows.samples))._replace(only=Shapes.one_stream)
    else:
        factors = box_factors(rows.samples) if name == "nlvr_dev" else None
    return World(name, store, rows.values, factors)


def prepared(name: str, data: Path, folder: Path) -> Path:
    """Return a folder of images and captions, made from the shared data."""
    target = folder / "data" / name
    if (target / "captions.jsonl").is_file():
        return target
    target.mkdir(parents=True, exist_ok=True)
    rows = boxes(data / name, target) if name == "nlvr_dev" else photos(data / name, target)
    with (target / "captions.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return target


def boxes(source: Path, target: Path) -> list[dict[str, object]]:
    """Cut NLVR's pictures into their three boxes; return each with what it holds as its caption.

    CLIP sees the middle of a wide picture alone, and half of the human sentences are false of theirs: a box and the
    list of its objects are pairs. A box's label is the kind of its largest object.
    """
    from PIL import Image

    sizes = {10: "small", 20: "medium", 30: "large"}
    held: dict[tuple[str, int], list[tuple[int, str, str]]] = defaultdict(list)
    with (source / "objects.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            held[row["image"], int(row["box"])].append((int(row["size"]), row["colour"], row["shape"]))
    found = []
    with zipfile.ZipFile(source / "images.zip") as archive:
        places = {Path(name).name: name for name in archive.namelist()}
        for (image, box), objects in sorted(held.items()):
            name = f"{Path(image).stem}-{box}.png"
            with archive.open(places[image]) as stream, Image.open(stream) as picture:
                picture.convert("RGB").crop((150 * box, 0, 150 * box + 100, 100)).save(target / name)
            # The text encoder reads 46 words.
            kinds = sorted(set(objects), reverse=True)[:9]
            text = " , ".join(f"a {sizes[size]} {colour} {shape}" for size, colour, shape in kinds)
            largest = " ".join(max(objects)[1:])
            found.append({"image": name, "text": text, "label": largest, "group": image})
    return found


def box_factors(samples: Any) -> Factors:
    """Return what each box's caption says it holds: sizes, colours, shapes and kinds, each a factor value."""
    texts = [one[0] for one in samples.column("texts").to_pylist()]
    words = [[tuple(part.split()[1:]) for part in text.split(" , ")] for text in texts]
    names, groups, columns = [], [], []
    for place, group in enumerate(("size", "colour", "shape")):
        for value in sorted({one[place] for row in words for one in row}):
            names.append(f"{group}={value}")
            groups.append(group)
            columns.append([any(one[place] == value for one in row) for row in words])
    for kind in sorted({one[1:] for row in words for one in row}):
        names.append("kind=" + " ".join(kind))
        groups.append("kind")
        columns.append([any(one[1:] == kind for one in row) for row in words])
    return Factors(names, groups, np.array(columns).T)


def photos(source: Path, target: Path) -> list[dict[str, object]]:
    """Return the photographs that have captions; a photograph's label is the kind of its largest object."""
    for name in ("photos_open.zip", "photos_restricted.zip"):
        with zipfile.ZipFile(source / name) as archive:
            archive.extractall(target)
    places = {path.name: str(path.relative_to(target)) for path in target.rglob("*.jpg")}
    content = json.loads((source / "captions.json").read_text(encoding="utf-8"))
    names = {one["id"]: one["file_name"] for one in content["images"]}
    held = json.loads((source / "instances.json").read_text(encoding="utf-8"))
    kinds = {one["id"]: one["supercategory"] for one in held["categories"]}
    by_size = sorted(held["annotations"], key=lambda one: one["area"])
    labels = {one["image_id"]: kinds[one["category_id"]] for one in by_size}
    return [
        {"image": places[Path(names[number]).name], "text": one["caption"], "label": labels[number]}
        for one in content["annotations"]
        if Path(names[number := one["image_id"]]).name in places
    ]


def show(file: Path) -> None:
    """Print a table of all kinds as Markdown: means over seeds, and of what is judged each seed's own."""
    every = rows_of(file)
    names = list(dict.fromkeys(row["objective"] for row in every))
    columns = ("l0", "explained_vision", "explained_language", "code_r1", "loss_recovered", "dead")
    lines = ["| objective | recovery | consistency excess | " + " | ".join(columns) + " |"]
    lines.append("|---" * (3 + len(columns)) + "|")
    for name in names:
        own = [row for row in every if row["objective"] == name]
        judged = [_mean(own, one) + _each(own, one) for one in ("recovery", "excess")]
        lines.append("| " + " | ".join([f"`{name}`", *judged, *(_mean(own, one) for one in columns)]) + " |")
    sys.stdout.write("\n".join(lines) + "\n")


def _mean(rows: list[dict[str, str]], column: str) -> str:
    values = [float(row[column]) for row in rows if row[column]]
    return f"{np.mean(values):.3f}" if values else "–"


def _each(rows: list[dict[str, str]], column: str) -> str:
    values = [f"{float(row[column]):.3f}" for row in rows if row[column]]
    return f" ({', '.join(values)})" if len(values) > 1 else ""


def rows_of(file: Path) -> list[dict[str, str]]:
    """Return the rows of a table so far."""
    if not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


if __name__ == "__main__":
    sys.exit(main())
