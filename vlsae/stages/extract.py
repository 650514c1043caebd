"""extract: run a model over a dataset and store its representations."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlsae import ranks
from vlsae.stages.hardware import device_of, load_model, set_threads, use_hardware
from vlsae.stages.launch import Estimate, Step, ranks_for

if TYPE_CHECKING:
    from vlsae.datasets.base import Dataset
    from vlsae.models.base import Model, TokenSelection
    from vlsae.representations import Store
    from vlsae.runs import Run

logger = logging.getLogger(__name__)

SCHEMA = 1

#: Rows that are timed before a plan says how long an extraction takes.
TIMED_ROWS = 64
#: The first pass also starts libraries and fills caches, which on a busy machine takes longer than the rows.
TIMED_PASSES = 2


def parents(config: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the upstream stages: none."""
    return []


def run_name(config: Mapping[str, Any]) -> str:
    """Return the default name of the run."""
    from vlsae.config import part_name

    return f"{part_name(config['model'])}-{part_name(config['dataset'])}"


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides the numbers that come out, besides weights and data."""
    settings = config["extract"]
    return {
        "sites": _as_list(settings["sites"]),
        "tokens": dict(settings["tokens"]),
        "dtype": settings["dtype"],
        "shard_samples": settings["shard_samples"],
        "split": dict(config["split"]),
        "limit": config["limit"],
    }


def digests(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the content digests of weights and data."""
    from vlsae.config import build

    return {"model": build(config["model"]).digest(), "dataset": build(config["dataset"]).digest()}


def serves(step: Step, manifest: Mapping[str, Any], root: Path) -> bool:
    """Tell whether a finished run holds the sites and rows of a step, and maybe more."""
    have, want = manifest["identity"], step.identity
    if have["digests"] != step.digests:
        return False
    if any(have.get(name) != want[name] for name in want if name not in ("sites", "limit")):
        return False
    if have["limit"] is not None and (want["limit"] is None or want["limit"] > have["limit"]):
        return False
    return set(want["sites"]) <= set(have["sites"]) | set(have.get("expanded_sites", ()))


def estimate(config: Mapping[str, Any]) -> Estimate:
    """Return rows, bytes, memory and time, from a timed forward pass over a few rows."""
    from vlsae.config import build
    from vlsae.models import expand_sites
    from vlsae.representations.extraction import numbered, prepare
    from vlsae.representations.layout import DTYPES

    model, dataset = build(config["model"]), build(config["dataset"])
    settings = config["extract"]
    sites = expand_sites(model, settings["sites"])
    samples = min(len(dataset), config["limit"] or len(dataset))
    if samples == 0:
        return Estimate(0, 0, 0, 0.0)
    count = ranks_for(config["stage"], config)
    load_model(model, config, device_of(config))
    set_threads(config, count)
    rows = numbered(dataset, range(min(TIMED_ROWS, samples)))
    passes = []
    for _ in range(TIMED_PASSES):
        start = time.perf_counter()
        found = model.represent(prepare(model, dataset, rows, sites), sites, selection(settings))
        passes.append(time.perf_counter() - start)
    seconds = min(passes) * samples / len(rows.samples) / count
    stored = (
        sum(found[site].values.numel() for site in sites) * DTYPES[settings["dtype"]] * samples // len(rows.samples)
    )
    shard = min(settings["shard_samples"], samples)
    return Estimate(samples, stored, stored * shard // samples, seconds)


def run(config: Mapping[str, Any], run: Run) -> None:
    """Store the representations of every sample at the wanted sites."""
    from vlsae.config import build
    from vlsae.models import expand_sites
    from vlsae.representations import Store
    from vlsae.representations.extraction import extract_rows

    model, dataset, settings = build(config["model"]), build(config["dataset"]), config["extract"]
    device = use_hardware(config, run)
    load_model(model, config, device)
    sites = expand_sites(model, settings["sites"])
    samples = min(len(dataset), config["limit"] or len(dataset))
    path = run.path / "representations"
    extract_rows(
        model,
        dataset,
        path,
        sites=sites,
        tokens=selection(settings),
        samples=samples,
        split=config["split"],
        dtype=settings["dtype"],
        batch_size=settings["batch_size"],
        shard_samples=settings["shard_samples"],
        thumbnails=settings["thumbnails"],
        workers=config["hardware"]["workers"],
        attributes=run.manifest["identity"]["digests"],
    )
    counts = ranks.add_up(model.input_counts())
    if not ranks.is_first():
        return
    run.set_fingerprint(run.manifest["fingerprint"], {**run.manifest["identity"], "expanded_sites": sites})
    store = Store.open(path)
    note_store(run, store, model)
    _summarise(run, store, dataset, counts)


def shared_by_ranks(config: Mapping[str, Any]) -> bool:
    """Tell whether several processes share the stage: each writes whole shards of the store."""
    return True


def know_files(run: Run) -> None:
    """Hand the digests of a run's store to the run, so that they are not taken again."""
    from vlsae.representations import Store

    store = Store.open(run.path / "representations")
    run.know_digests({f"{store.path.name}/{name}": facts["sha256"] for name, facts in store.index.files.items()})


def note_store(run: Run, store: Store, model: Model) -> None:
    """Note the digests of a run's store, how its tokens read and where its patches lie, so that reports need no model.

    The latter two in ``tokens.json``, id → text, and ``framing.json``.
    """
    from vlsae.models.framing import framing
    from vlsae.runs.files import write_json

    know_files(run)
    if "language" in store.streams and "token" in store.row_table("language").column_names:
        ids = sorted(set(store.row_table("language").column("token").unique().to_pylist()) - {-1})
        write_json(run.path / "tokens.json", model.token_texts(ids))
    if "vision" in store.streams and "role" in store.row_table("vision").column_names:
        seen = framing(model)
        if seen is not None:
            write_json(run.path / "framing.json", seen._asdict())


def selection(settings: Mapping[str, Any]) -> TokenSelection:
    """Return the token selection of an ``extract`` node."""
    from vlsae.models import TokenSelection

    return TokenSelection(**settings["tokens"])


def _summarise(run: Run, store: Store, dataset: Dataset, counts: Mapping[str, int]) -> None:
    from vlsae.representations import position_norms
    from vlsae.runs import Measure

    streams = dict.fromkeys(site.split(".")[0] for site in store.sites)
    metrics = {f"rows/{stream}": Measure(store.row_table(stream).num_rows, "rows") for stream in streams}
    metrics["samples"] = Measure(store.samples.num_rows, "samples")
    metrics["pairs"] = Measure(len(store.pairs), "pairs")
    metrics["skipped"] = Measure(len(dataset.skipped), "samples")
    for name, count in counts.items():
        metrics[name] = Measure(count, "inputs")
        if count:
            logger.warning("%s: %d of the inputs read", name, count)
    for site, info in store.sites.items():
        metrics[f"width/{site}"] = Measure(info.width, "dimensions")
        if info.pooling == "tokens" and (warning := position_norms(store, site).warning):
            logger.warning(warning)
    metrics["stored"] = Measure(_bytes(store.path), "bytes")
    by_reason: dict[str, list[str]] = {}
    for skipped in dataset.skipped:
        by_reason.setdefault(skipped.reason, []).append(skipped.row)
    for reason, rows in by_reason.items():
        logger.warning("left out %d: %s (%s%s)", len(rows), reason, ", ".join(rows[:3]), "…" if len(rows) > 3 else "")
    run.write_summary(metrics)


def _bytes(folder: Path) -> int:
    return sum(os.path.getsize(entry) for entry in folder.rglob("*") if entry.is_file())


def _as_list(sites: str | Sequence[str]) -> list[str]:
    if isinstance(sites, str):
        return [sites]
    return [str(site) for site in sites] if isinstance(sites, Sequence) else [str(sites)]
