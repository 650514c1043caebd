"""Rows a second of extraction beside the bare forward pass of the same ViT-B-32 with random weights.

The contenders take turns in one process, in an order that rotates from round to round, so that a busy machine slows all
of them alike. All of them preprocess decoded photos; the bare loop then calls ``encode_image`` and keeps nothing.

    python benchmarks/extract.py --photos FOLDER_OR_ZIP --threads 1
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from vlsae.datasets.base import Dataset
from vlsae.models import CLIP, TokenSelection
from vlsae.representations.extraction import extract_rows

SUFFIXES = (".jpg", ".jpeg", ".png")


class Photos(Dataset):
    """Decoded photos in memory."""

    has_images = True

    def __init__(self, photos: Sequence[Image.Image]) -> None:
        import datasets

        names = [f"photo-{number:05d}" for number in range(len(photos))]
        columns = {
            "sample_id": names,
            "texts": [["a photo"]] * len(names),
            "group": names,
            "source": ["photos"] * len(names),
        }
        self._photos, self._table = list(photos), datasets.Dataset.from_dict(columns)

    @property
    def table(self) -> Any:
        """The names of the photos."""
        return self._table

    def images(self, indices: Sequence[int]) -> list[Image.Image]:
        """Return photos that were decoded before."""
        return [self._photos[index] for index in indices]

    def digest(self) -> str:
        """Nothing is reused here."""
        return ""


def decoded_photos(source: Path | None, count: int) -> list[Image.Image]:
    """Return photos of a folder or zip archive, repeated to ``count``, or random pictures of a photo's size."""
    if source is None:
        random = np.random.default_rng(0)
        return [Image.fromarray(random.integers(0, 256, (480, 640, 3), dtype=np.uint8)) for _ in range(count)]
    if source.is_dir():
        paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES)[:count]
        photos = [Image.open(path).convert("RGB") for path in paths]
    else:
        with zipfile.ZipFile(source) as archive:
            names = sorted(name for name in archive.namelist() if name.lower().endswith(SUFFIXES))[:count]
            photos = [Image.open(archive.open(name)).convert("RGB") for name in names]
    if not photos:
        raise SystemExit(f"{source} holds no photos ({', '.join(SUFFIXES)}).")
    return [photos[number % len(photos)] for number in range(count)]


def random_clip(folder: Path, architecture: str) -> CLIP:
    """Write a model with random weights in open_clip's own format and open it."""
    import json

    import open_clip
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = open_clip.create_model(architecture, load_weights=False)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    description = {"model_cfg": open_clip.get_model_config(architecture), "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(description))
    return CLIP(checkpoint=f"path:{folder}")


def contenders(
    model: CLIP, photos: Photos, folder: Path, sites: list[str], batch_size: int, thumbnails: int
) -> dict[str, Callable[[], None]]:
    """Return what is timed: each goes once through all photos."""
    starts = range(0, len(photos), batch_size)
    stores = iter(range(10**6))

    def batches():
        return (model.prepare(photos.images(range(i, min(i + batch_size, len(photos))))) for i in starts)

    def bare() -> None:
        device = next(model.module.parameters()).device
        with torch.no_grad():
            for batch in batches():
                model.module.encode_image(batch.vision.to(device), normalize=False)

    def represent() -> None:
        for batch in batches():
            model.represent(batch, sites)

    def extract() -> None:
        extract_rows(
            model,
            photos,
            folder / f"store-{next(stores)}",
            sites=sites,
            tokens=TokenSelection(),
            samples=len(photos),
            split={"seed": 0, "validation": 0.2, "test": 0.0},
            batch_size=batch_size,
            thumbnails=thumbnails,
        )

    return {"bare forward": bare, "represent": represent, "extraction into a store": extract}


def measure(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return (wall, CPU) seconds of each contender in each round, after one round that is not counted."""
    names = list(runs)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            wall, cpu = time.perf_counter(), time.process_time()
            runs[name]()
            if number:
                taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return taken


def report(taken: dict[str, list[tuple[float, float]]], rows: int, title: str) -> Table:
    """Return the table: medians over rounds with the median ratio within a round, the best round, and CPU seconds."""
    columns = ("contender", "rows/s", "of bare", "best rows/s", "of bare", "CPU s/row", "of bare")
    table = Table(*columns, title=title)
    bare = [wall for wall, _ in taken["bare forward"]]
    bare_cpu = statistics.median(cpu for _, cpu in taken["bare forward"])
    for name, times in taken.items():
        ratios = [base / wall for base, (wall, _) in zip(bare, times)]
        best = min(wall for wall, _ in times)
        table.add_row(
            name,
            f"{rows / statistics.median(wall for wall, _ in times):.2f}",
            f"{statistics.median(ratios):.1%}",
            f"{rows / best:.2f}",
            f"{min(bare) / best:.1%}",
            f"{statistics.median(cpu for _, cpu in times) / rows:.4f}",
            f"{statistics.median(cpu for _, cpu in times) / bare_cpu:.1%}",
        )
    return table


def main() -> None:
    """Measure and show the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder or zip archive; default: random pictures of 640×480")
    parser.add_argument("--architecture", default="ViT-B-32")
    parser.add_argument("--sites", default="vision.embedding", help="comma-separated")
    parser.add_argument("--count", type=int, default=64, help="photos a pass")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--thumbnails", type=int, default=20_000, help="photos that get a thumbnail, as in `vlsae extract`"
    )
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = random_clip(folder, options.architecture)
        model.load(options.device)
        photos = Photos(decoded_photos(options.photos, options.count))
        runs = contenders(model, photos, folder, options.sites.split(","), options.batch_size, options.thumbnails)
        taken = measure(runs, options.rounds)
    title = (
        f"{options.architecture}, {options.sites}, {options.count} photos, batches of {options.batch_size}, "
        f"{options.threads} thread(s), {options.device}, {options.rounds} rounds"
    )
    Console().print(report(taken, options.count, title))


if __name__ == "__main__":
    main()
