"""train.source=live: a dictionary learns from a model's rows that never lie on disk.

What the training's validation and the evaluation read are the rows of a bounded number of samples, which are kept.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlsae.errors import UserError
from vlsae.stages.hardware import device_of, load_model, set_threads
from vlsae.stages.launch import Estimate

if TYPE_CHECKING:
    from vlsae.datasets.base import Dataset
    from vlsae.models.base import Model
    from vlsae.representations import Store
    from vlsae.representations.live import ModelRows
    from vlsae.runs import Run

logger = logging.getLogger(__name__)

#: How many rows each sample of the training has, so that a resumed run need not count again.
COUNTS = "live/counts.safetensors"

#: Samples that are timed before a plan says how long a training takes.
TIMED_SAMPLES = 32


@dataclass(frozen=True)
class Live:
    """A loaded model, the store of the samples kept, the one site by stream, and the readers by split."""

    model: Model
    store: Store
    sites: dict[str, str]
    readers: dict[str, Any]


def check_live(config: Mapping[str, Any]) -> None:
    """Refuse what training without a store cannot do, before a run is claimed."""
    from vlsae.config import build, target_class
    from vlsae.signatures import parameters_of

    if config.get("run"):
        raise UserError("train.source=live reads no run.", "Leave out --run, or train.source=live.")
    if "classes" in parameters_of(target_class(config["objective"])):
        raise UserError("This objective needs a label of every row, which live rows have not.", "Train from a store.")
    site_of(build(config["model"]), config["train"]["sites"])


def site_of(model: Model, wanted: Any) -> str:
    """Return the one site that is read; ``UserError`` for several, and for one that has a single row a sample."""
    from vlsae.models import expand_sites

    sites = expand_sites(model, wanted)
    if len(sites) > 1:
        raise UserError(
            f"train.source=live reads one site, and train.sites={wanted} means {', '.join(sites)}.",
            f"Name one, such as train.sites={sites[0]}.",
        )
    if sites[0].endswith(".embedding") and not model.sites()[sites[0]].tokens:
        raise UserError(
            f"{sites[0]} has one row a sample: a store of it is small.",
            "Use train.source=representations, or a layer such as train.sites=vision.last.",
        )
    return sites[0]


def open_live(config: Mapping[str, Any], run: Run) -> Live:
    """Load the model, keep the samples that are evaluated on, count the rows of the others, and return the readers."""
    from vlsae.representations import Reader, Store
    from vlsae.representations.live import LiveReader
    from vlsae.stages.extract import note_store
    from vlsae.training.together import shared

    settings = config["train"]
    rows, numbers = _rows(config), _numbers(config)
    store = _kept(config, run, rows, numbers)
    note_store(run, store, rows.model)
    sites = {rows.stream: rows.site}
    order = config["seed"] if settings["order_seed"] is None else settings["order_seed"]
    train = LiveReader(
        rows,
        numbers["train"],
        _counts(run.path / COUNTS, rows, numbers["train"]),
        batch_size=settings["batch_size"],
        window=settings["live"]["window"],
        seed=order,
        shuffle=settings["shuffle"],
    )
    validation = Reader(store, sites, batch_size=settings["batch_size"], split="validation", shuffle=False)
    logger.info(
        "live: an epoch is %d rows of %d samples; a window of at most %d rows (%.2f GB) is held",
        train.n_rows,
        len(numbers["train"]),
        settings["live"]["window"],
        4e-9 * settings["live"]["window"] * rows.width,
    )
    digests = run.manifest["identity"]["digests"]
    key = (tuple(digests.items()), tuple(sites.items()), settings["batch_size"], order, settings["live"]["window"])
    return Live(rows.model, Store.open(store.path), sites, {"train": shared(train, key), "validation": validation})


def estimate_live(config: Mapping[str, Any]) -> Estimate:
    """Return the rows of an epoch, bytes kept, memory of the window, and the model's time in all epochs at most.

    From a timed pass over a few samples; the steps of the dictionary itself come on top.
    """
    from vlsae.representations.layout import DTYPES

    set_threads(config)
    rows, numbers, settings = _rows(config), _numbers(config), config["train"]
    some = numbers["train"][:TIMED_SAMPLES]
    if len(some) == 0:
        return Estimate(0, 0, 0, 0.0)
    list(rows.of(some[:1]))
    start = time.perf_counter()
    found = sum(len(owners) for owners, _ in rows.of(some))
    seconds = (time.perf_counter() - start) / len(some)
    epoch = found * len(numbers["train"]) // len(some)
    kept = sum(min(settings["live"]["kept"], len(numbers[split])) for split in ("train", "validation"))
    stored = kept * found // len(some) * rows.width * DTYPES[config["extract"]["dtype"]]
    memory = 4 * rows.width * (min(settings["live"]["window"], epoch) + settings["batch_size"])
    return Estimate(epoch, stored, memory, seconds * (len(numbers["train"]) * settings["epochs"] + kept))


def _rows(config: Mapping[str, Any]) -> ModelRows:
    from vlsae.config import build
    from vlsae.representations.live import ModelRows
    from vlsae.stages.extract import selection

    model, extract = build(config["model"]), config["extract"]
    load_model(model, config, device_of(config))
    return ModelRows(
        model,
        build(config["dataset"]),
        site_of(model, config["train"]["sites"]),
        selection(extract),
        batch_size=extract["batch_size"],
        workers=config["hardware"]["workers"],
    )


def _numbers(config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the numbers of the samples of each split."""
    from vlsae.config import build
    from vlsae.datasets.base import SPLITS, sample_splits

    dataset: Dataset = build(config["dataset"])
    samples = min(len(dataset), config["limit"] or len(dataset))
    splits = np.asarray(sample_splits(dataset, samples, config["split"]))
    return {split: np.flatnonzero(splits == split) for split in SPLITS}


def _kept(config: Mapping[str, Any], run: Run, rows: ModelRows, numbers: Mapping[str, np.ndarray]) -> Store:
    """Write the rows of the samples that are kept, or go on writing them, and return their store."""
    from vlsae.datasets.chosen import Chosen
    from vlsae.representations import Store
    from vlsae.representations.extraction import extract_rows
    from vlsae.representations.order import sample_positions

    most, extract = config["train"]["live"]["kept"], config["extract"]
    chosen = [
        numbers[split][sample_positions(len(numbers[split]), most, config["split"]["seed"])]
        for split in ("train", "validation")
    ]
    dataset = Chosen(rows.dataset, np.concatenate(chosen))
    path = run.path / "representations"
    extract_rows(
        rows.model,
        dataset,
        path,
        sites=[rows.site],
        tokens=rows.tokens,
        samples=len(dataset),
        split=config["split"],
        dtype=extract["dtype"],
        batch_size=extract["batch_size"],
        shard_samples=extract["shard_samples"],
        thumbnails=extract["thumbnails"],
        workers=config["hardware"]["workers"],
        attributes=run.manifest["identity"]["digests"],
    )
    return Store.open(path)


def _counts(path: Path, rows: ModelRows, samples: np.ndarray) -> np.ndarray:
    import torch

    from vlsae.training import weight_files

    if path.is_file():
        return np.asarray(weight_files.read(path)[0]["rows"].numpy())
    counts = rows.counts(samples)
    weight_files.write(path, {"rows": torch.from_numpy(counts)}, {"site": rows.site})
    return counts
