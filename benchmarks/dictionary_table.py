"""Every kind of dictionary on the same held-out rows, by data set: trained together, then scored by probe=dictionary.

    python benchmarks/dictionary_table.py FOLDER --data ../shared/data [--datasets shapes nlvr_dev coco_photos]
        [--objectives vl_sae top_k …] [--seeds 0 1 2] [--k 16] [--set train.epochs=40 …]

Writes FOLDER/<dataset>.csv, a row a dictionary, and prints the numbers of the paper's table. The bundled CLIP never saw
a photograph: what it makes of nlvr_dev and coco_photos is a demonstration of the method, not of the model.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

#: Objectives that take n_concepts and k; the others come with their own sizes.
SIZED = (
    *("vl_sae", "shared_lin_2dec", "dist_1dec", "random_enc", "sae_s", "sae_d"),
    *("top_k", "batch_top_k", "matryoshka", "matryoshka_k", "jump_relu", "gated", "relu_l1"),
    *("codebook", "kmeans", "nmf"),
)
OTHERS = ("pca", "ica", "splice")

SHOWN = (
    "l0",
    "explained_variance/vision",
    "explained_variance/language",
    "dead/vision",
    "consistency/excess",
    "monosemanticity/vision",
    "loss_recovered/mean",
    "recovery/auroc",
    "sparse_probing/k1/auroc",
    "absorption",
    "removal",
)


def main() -> int:
    """Train, score and print; return the worst exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--datasets", nargs="+", default=["shapes", "nlvr_dev", "coco_photos"])
    parser.add_argument("--objectives", nargs="+", default=[*SIZED, *OTHERS])
    parser.add_argument("--seeds", nargs="+", default=["0", "1", "2"])
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--concepts", type=int, default=512)
    parser.add_argument("--bootstrap", type=int, default=200)
    parser.add_argument("--set", nargs="*", default=[], help="Further overrides of every training.")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    return max(table(name, given) for name in given.datasets)


def table(name: str, given: argparse.Namespace) -> int:
    """Make the table of one data set."""
    data = [f"dataset={'shapes' if name == 'shapes' else 'captions'}"]
    if name != "shapes":
        data += [f"dataset.path={prepared(name, given.data, given.folder)}", "train.batch_size=64"]
    runs: list[str] = []
    for sized in (True, False):
        chosen = [one for one in given.objectives if (one in SIZED) == sized]
        sizes = [f"objective.n_concepts={given.concepts}", f"objective.k={given.k}"] if sized else []
        if not chosen:
            continue
        words = ["train", "-m", *data, f"objective={','.join(chosen)}", f"seed={','.join(given.seeds)}", *sizes]
        small = ["train.evaluate.bootstrap=2", "train.evaluate.concepts=1"]
        before = set(sweeps())
        code = vlsae([*words, "launcher=together", *small, *given.set])
        for path in sorted(set(sweeps()) - before):
            runs += [job["run_id"] for job in json.loads(path.read_text())["jobs"] if job["status"] == "done"]
        if code not in (0, 2):
            return code
    if not runs:
        return 1
    others = f"probe.runs=[{','.join(runs[1:])}]"
    words = ["probe", "probe=dictionary", "--run", runs[0], others, f"probe.bootstrap={given.bootstrap}"]
    code = vlsae([*words, "--name", f"table-{name}"])
    if code == 0:
        made = runs_root() / "probe" / f"table-{name}" / "latest" / "tables" / "comparison.csv"
        shutil.copyfile(made, given.folder / f"{name}.csv")
        show(name, given.folder / f"{name}.csv")
    return code


def prepared(name: str, data: Path, folder: Path) -> Path:
    """Return a folder of images and captions with labels, unpacked from the shared data."""
    target = folder / "data" / name
    if target.is_dir():
        return target
    target.mkdir(parents=True)
    rows = nlvr(data / name, target) if name == "nlvr_dev" else photos(data / name, target)
    with (target / "captions.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return target


def nlvr(source: Path, target: Path) -> list[dict[str, object]]:
    """Return NLVR's pictures with a sentence each, labelled by colour and shape of their largest object."""
    with zipfile.ZipFile(source / "images.zip") as archive:
        archive.extractall(target)
    largest: dict[str, tuple[int, str]] = {}
    with (source / "objects.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            own = (int(row["size"]), f"{row['colour']} {row['shape']}")
            largest[row["image"]] = max(largest.get(row["image"], own), own)
    with (source / "sentences.csv").open(encoding="utf-8", newline="") as file:
        return [
            {"image": row["image"], "text": row["sentence"], "label": largest[row["image"]][1]}
            for row in csv.DictReader(file)
            if row["image"] in largest
        ]


def photos(source: Path, target: Path) -> list[dict[str, object]]:
    """Return the photographs that have captions."""
    for name in ("photos_open.zip", "photos_restricted.zip"):
        with zipfile.ZipFile(source / name) as archive:
            archive.extractall(target)
    places = {path.name: str(path.relative_to(target)) for path in target.rglob("*.jpg")}
    content = json.loads((source / "captions.json").read_text(encoding="utf-8"))
    names = {one["id"]: one["file_name"] for one in content["images"]}
    return [
        {"image": places[Path(names[one["image_id"]]).name], "text": one["caption"]}
        for one in content["annotations"]
        if Path(names[one["image_id"]]).name in places
    ]


def show(name: str, file: Path) -> None:
    """Print the main numbers of a table, a line a dictionary."""
    with file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    columns = [one for one in SHOWN if one in rows[0]]
    sys.stdout.write(f"\n{name}\n" + " | ".join(["kind", "seed", *columns]) + "\n")
    for row in rows:
        numbers = [f"{float(row[one]):.3f}" if row[one] else "-" for one in columns]
        sys.stdout.write(" | ".join([row["run"].split("/")[1], row["seed"], *numbers]) + "\n")


def runs_root() -> Path:
    """Return the folder of runs."""
    return Path(os.environ.get("VLSAE_RUNS", "runs"))


def sweeps() -> list[Path]:
    """Return the records of all sweeps."""
    return sorted(runs_root().glob("sweeps/*/v*/sweep.json"))


def vlsae(words: list[str]) -> int:
    """Run a command and return its exit code."""
    sys.stdout.write("vlsae " + " ".join(words) + "\n")
    sys.stdout.flush()
    return subprocess.run([sys.executable, "-m", "vlsae", *words], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
