"""One pass beside the model: moments of all layers while it runs, nothing of a prompt kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from vlsae.aqi.design import Design
    from vlsae.aqi.layer import Layer
    from vlsae.aqi.onepass import OnePass
    from vlsae.datasets.base import Dataset
    from vlsae.models.base import Model, TokenSelection
    from vlsae.representations.extraction import Numbered
    from vlsae.runs import Run


def score_live(config: Mapping[str, Any], run: Run, device: str) -> None:
    """Run the model over the prompts, block by block, and write what the moments give."""
    from dataclasses import replace

    from vlsae.aqi.analysis import from_layers
    from vlsae.aqi.design import design_of
    from vlsae.config import build
    from vlsae.models import expand_sites
    from vlsae.stages.aqi import write
    from vlsae.stages.aqi_input import FIRST, labelling_of, sites_of, stream_of
    from vlsae.stages.extract import selection
    from vlsae.stages.hardware import load_model

    settings = config["aqi"]
    model, dataset = build(config["model"]), build(config["dataset"])
    known = list(model.sites())
    texts = any(len(one) > 0 for one in dataset.table[:1]["texts"])
    stream = stream_of(settings["stream"], known, texts, dataset.has_images)
    sites = sites_of(known, expand_sites(model, config["extract"]["sites"]), stream)
    labelling = labelling_of(dataset.table, settings, stream, config["limit"])
    design = design_of(labelling, settings["blocks"], settings["folds"], settings["rows"]["seed"])
    load_model(model, config, device)
    passes = _passes(model, sites, design, settings["memory_gb"] * 1e9, stream == "joint")
    tokens, size = selection(config["extract"]), config["extract"]["batch_size"]
    for places, values in forward(model, dataset, labelling.rows, passes.order, sites, tokens, size):
        passes.add(places, _slots(values, sites, stream))
    layers = passes.layers()
    found = from_layers(layers, labelling, design)
    if config["extract"]["tokens"]["pooling"] == "mean" and layers[0].site == f"{stream}.{FIRST}":
        found = replace(found, control=layers[0], gains=_gains(layers, design))
    found.notes.append(
        "One pass: Dunn, silhouette, dbs, permutations, learned pooling and the projection need rows "
        "(aqi.source=store); AUROC is along the direction of the blocks before."
    )
    write(run, found)


def forward(
    model: Model,
    dataset: Dataset,
    samples: np.ndarray,
    order: np.ndarray,
    sites: Sequence[str],
    tokens: TokenSelection,
    batch_size: int,
) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """Yield the places ``(b,)`` of samples in an order, and their rows at each site; the first item of each sample."""
    import numpy as np

    from vlsae.memory import Pieces
    from vlsae.progress import progress
    from vlsae.representations.extraction import prepare

    def represented(places: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        batch = _first_items(dataset, samples[places].tolist())
        found = model.represent(prepare(model, dataset, batch, sites), sites, tokens)
        return np.asarray(places), {site: rows.values for site, rows in found.items()}

    pieces = Pieces("extract.batch_size")
    with progress("aqi", len(order), "samples") as advance:
        for at in range(0, len(order), batch_size):
            yield from pieces.run(order[at : at + batch_size], represented)
            advance(min(batch_size, len(order) - at))


def _first_items(dataset: Dataset, samples: Sequence[int]) -> Numbered:
    """Return samples of one forward pass with the first of each one's texts."""
    from dataclasses import replace

    from vlsae.representations.extraction import numbered

    every = numbered(dataset, samples)
    kept = [place for place, item in enumerate(every.item) if item == 0]
    columns = {name: [getattr(every, name)[place] for place in kept] for name in ("texts", "owner", "item")}
    answers = None if every.answers is None else [every.answers[place] for place in kept]
    return replace(every, answers=answers, **columns)


def _passes(model: Model, sites: Sequence[str], design: Design, memory: float, joint: bool) -> OnePass:
    from vlsae.aqi.onepass import OnePass
    from vlsae.stages.aqi_input import slots_of

    known = model.sites()
    slots = slots_of(sites, "joint" if joint else "")
    return OnePass({name: sum(known[site].width for site in read) for name, read in slots}, design, memory)


def _slots(values: Mapping[str, Any], sites: Sequence[str], stream: str) -> dict[str, Any]:
    """Return the values of each slot; of two streams side by side, each scaled to root mean square 1."""
    import torch

    from vlsae.aqi.pooling import rms_scaled
    from vlsae.stages.aqi_input import slots_of

    if stream != "joint":
        return dict(values)
    return {
        name: torch.cat([rms_scaled(values[site].double()) for site in read], dim=1)
        for name, read in slots_of(sites, stream)
    }


def _gains(layers: Sequence[Layer], design: Design) -> list[Any]:
    from vlsae.aqi.analysis import gains

    return gains(list(layers), layers[0], design)
