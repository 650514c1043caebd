"""What a training will cost, from a few steps that are timed before it begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from vlsae.stages.hardware import device_of, set_threads
from vlsae.stages.launch import Estimate, ranks_for

#: Steps that are timed; the first one also starts libraries.
TIMED_STEPS = 3

#: Samples by which the number of rows of a sample is judged.
LOOKED_AT = 1000

#: Numbers held for each parameter: itself, its gradient and two moments of Adam; the gradient is not in a checkpoint.
HELD, SAVED = 4, 3


def estimate_training(config: Mapping[str, Any]) -> Estimate:
    """Return the rows of an epoch, the bytes of checkpoints and weights, memory, and the time of all epochs at most.

    Rows alone where an objective is fitted in one go or learns from labels; neither early stopping nor the evaluation
    at the end is foreseen.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        return _of_samples(config) if _source(config) == "samples" else _of_rows(config)


def _of_rows(config: Mapping[str, Any]) -> Estimate:
    import torch

    from vlsae.config import build, target_class
    from vlsae.dictionaries.fit import Fit
    from vlsae.models import expand_sites
    from vlsae.signatures import parameters_of

    settings, kind = config["train"], target_class(config["objective"])
    model, dataset = build(config["model"]), build(config["dataset"])
    sites = expand_sites(model, settings["sites"])
    rows = _rows(dataset, sites, config)
    tokens = config["extract"]["tokens"]["pooling"] == "tokens"
    if tokens or rows == 0 or issubclass(kind, Fit) or "classes" in parameters_of(kind):
        return Estimate(rows=None if tokens else rows)
    widths = {site.split(".")[0]: model.sites()[site].width for site in sites}
    runtime: dict[str, Any] = {"width": max(widths.values())}
    if "model" in parameters_of(kind):
        runtime["model"] = model
    objective = build(config["objective"], **runtime)
    own = max(1, settings["batch_size"] // ranks_for("train", config))
    batch = {name: torch.randn(own, runtime["width"]) for name in widths}
    values = sum(x.numel() for x in batch.values()) + 2 * sum(len(x) for x in batch.values()) * objective.n_concepts
    return _estimate(objective, lambda: batch, config, rows, values)


def _of_samples(config: Mapping[str, Any]) -> Estimate:
    from vlsae.config import build
    from vlsae.training.samples import SampleReader

    learner, settings = build(config["objective"]), config["train"]
    reader = SampleReader(
        build(config["dataset"]),
        learner,
        batch_size=settings["batch_size"],
        split_settings=config["split"],
        limit=config["limit"],
        every_text=getattr(learner, "every_text", False),
    )
    if not reader.n_rows:
        return Estimate(rows=0)
    steps = iter(range(TIMED_STEPS))
    return _estimate(learner, lambda: reader.batch(next(steps)), config, reader.n_rows, 0)


def _estimate(objective: Any, batch: Callable[[], Any], config: Mapping[str, Any], rows: int, values: int) -> Estimate:
    """Return the cost of a training of so many rows an epoch, whose batches hold so many numbers beside the weights."""
    import torch

    from vlsae.training.rows import to_device
    from vlsae.training.step import build_optimizer, train_step

    settings, device = config["train"], torch.device(device_of(config))
    set_threads(config, ranks_for("train", config))
    objective.to(device).train()
    initialize = getattr(objective, "initialize", None)
    first = to_device(batch(), device)
    if initialize is not None:
        with torch.no_grad():
            initialize(first)
    optimizer, taken = build_optimizer(objective, settings["lr"]), []
    for number in range(TIMED_STEPS):
        start = time.perf_counter()
        current = first if number == 0 else to_device(batch(), device)
        train_step(objective, current, optimizer, number).total.item()
        taken.append(time.perf_counter() - start)
    parameters = sum(one.numel() for one in objective.parameters())
    steps = -(-rows // settings["batch_size"]) * settings["epochs"]
    # Two checkpoints, the best weights, and what the training gives.
    stored = 4 * parameters * (2 * SAVED + 2)
    return Estimate(rows, stored, 4 * (HELD * parameters + values), min(taken[1:]) * steps)


def _rows(dataset: Any, sites: list[str], config: Mapping[str, Any]) -> int:
    """Return about how many rows (pairs) an epoch has."""
    samples = min(len(dataset), config["limit"] or len(dataset))
    texts = dataset.table[: min(samples, LOOKED_AT)]["texts"]
    language = any(site.startswith("language.") for site in sites)
    each = sum(map(len, texts)) / max(1, len(texts)) if language else 1.0
    share = 1 - config["split"]["validation"] - config["split"]["test"]
    return round(samples * each * share)


def _source(config: Mapping[str, Any]) -> str:
    from vlsae.config import target_class

    return str(getattr(target_class(config["objective"]), "source", "representations"))
