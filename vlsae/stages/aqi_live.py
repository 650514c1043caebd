"""One pass beside the model: moments of all layers while it runs, and rows kept of a number fixed before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vlsae import ranks

if TYPE_CHECKING:
    import numpy as np

    from vlsae.aqi.analysis import Analysis, Settings
    from vlsae.aqi.kept import KeptRows
    from vlsae.aqi.labelling import Labelling
    from vlsae.aqi.onepass import OnePass
    from vlsae.datasets.base import Dataset
    from vlsae.models.base import Model, TokenSelection
    from vlsae.representations.extraction import Numbered
    from vlsae.runs import Run


def score_live(config: Mapping[str, Any], run: Run, device: str) -> None:
    """Run the model over the prompts, block by block, and write what the moments give."""
    from vlsae.aqi.design import design_of
    from vlsae.aqi.kept import KeptRows, kept_places
    from vlsae.aqi.onepass import OnePass
    from vlsae.config import build
    from vlsae.models import expand_sites
    from vlsae.stages.aqi import analysis_settings, write
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
    widths = _widths(model, sites, stream)
    places = kept_places(design, labelling.ids, settings["live_rows"], config["seed"])
    kept = KeptRows(widths, places, settings["memory_gb"] * 1e9)
    passes = OnePass(widths, design, settings["memory_gb"] * 1e9 - kept.bytes)
    tokens, size = selection(config["extract"]), config["extract"]["batch_size"]
    for batch, values in forward(model, dataset, labelling.rows, passes.order, sites, tokens, size):
        slots = _slots(values, sites, stream)
        passes.add(batch, slots)
        kept.add(batch, slots)
    if not ranks.is_first():
        return
    mean = config["extract"]["tokens"]["pooling"] == "mean"
    control = f"{stream}.{FIRST}" if mean and f"{stream}.{FIRST}" in widths else None
    write(run, _analysed(passes, kept, labelling, analysis_settings(config), control))


def forward(
    model: Model,
    dataset: Dataset,
    samples: np.ndarray,
    order: np.ndarray,
    sites: Sequence[str],
    tokens: TokenSelection,
    batch_size: int,
) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """Yield the places ``(b,)`` of samples in an order, and their rows at each site; the first item of each sample.

    Batches are dealt to the ranks, and rank 0 is given all of them in their order: the numbers are one process's.
    """
    import numpy as np

    from vlsae.memory import Pieces
    from vlsae.progress import progress
    from vlsae.representations.extraction import prepare

    def represented(places: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        batch = _first_items(dataset, samples[places].tolist())
        found = model.represent(prepare(model, dataset, batch, sites), sites, tokens)
        values = {site: rows.values for site, rows in found.items()}
        return np.asarray(places), {site: x.cpu() for site, x in values.items()} if ranks.size() > 1 else values

    pieces = Pieces("extract.batch_size")
    with progress("aqi", len(order), "samples") as advance:
        for first in range(0, len(order), batch_size * ranks.size()):
            at = first + batch_size * ranks.rank()
            for found in ranks.gather(pieces.run(order[at : at + batch_size], represented)):
                yield from found
                advance(sum(len(places) for places, _ in found))


def _first_items(dataset: Dataset, samples: Sequence[int]) -> Numbered:
    """Return samples of one forward pass with the first of each one's texts."""
    from dataclasses import replace

    from vlsae.representations.extraction import numbered

    every = numbered(dataset, samples)
    kept = [place for place, item in enumerate(every.item) if item == 0]
    columns = {name: [getattr(every, name)[place] for place in kept] for name in ("texts", "owner", "item")}
    answers = None if every.answers is None else [every.answers[place] for place in kept]
    return replace(every, answers=answers, **columns)


def _analysed(
    passes: OnePass, kept: KeptRows, labelling: Labelling, settings: Settings, control: str | None
) -> Analysis:
    """Return what the pass gives: all of the index where all rows were kept, else moments with what kept rows add."""
    from dataclasses import replace

    from vlsae.aqi.analysis import analyse, from_layers, gains
    from vlsae.aqi.kept import with_kept

    design = passes.design
    if len(kept.places) == len(labelling.rows):
        found = analyse(kept.source(control), labelling, design, settings, lambda layers: None)
        found.notes.append(f"One pass: all {len(kept.places)} rows were kept in memory (aqi.live_rows).")
        return found
    layers = passes.layers()
    first = None if control is None else next(layer for layer in layers if layer.site == control)
    found = replace(from_layers(layers, labelling, design), control=first, gains=gains(layers, first, design))
    if len(kept.places) == 0:
        found.notes.append(
            "One pass: Dunn, silhouette, dbs, permutations, learned pooling and the projection need rows "
            "(aqi.live_rows, aqi.source=store); AUROC is along the direction of the blocks before."
        )
        return found
    some = replace(labelling.take(kept.places), texts=None)
    rest = analyse(kept.source(None), some, design.take(kept.places), settings, lambda layers: None)
    return with_kept(found, rest, len(kept.places))


def _widths(model: Model, sites: Sequence[str], stream: str) -> dict[str, int]:
    from vlsae.stages.aqi_input import slots_of

    known = model.sites()
    return {name: sum(known[site].width for site in read) for name, read in slots_of(sites, stream)}


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
