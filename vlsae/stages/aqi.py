"""aqi: score how far apart safe and unsafe inputs lie inside a model, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vlsae.errors import UserError
from vlsae.stages.aqi_input import FIRST, extraction, labelling_of, sites_of, slots_of, stream_of, streams_of
from vlsae.stages.hardware import use_hardware
from vlsae.stages.launch import Estimate, Step
from vlsae.stages.upstream import require

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from vlsae.aqi.analysis import Analysis, Settings, Source
    from vlsae.aqi.labelling import Labelling
    from vlsae.representations import Store
    from vlsae.runs import Run

SCHEMA = 1

#: Where a run keeps its moments.
STATE = "state"

#: The ids of the rows that were scored.
ROWS = "rows.txt"


def parents(config: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the extractions that are read, after labels and settings were checked; none for one pass or two runs."""
    from vlsae.runs import input_run, runs_root
    from vlsae.stages.aqi_compare import inputs

    settings = config["aqi"]
    if settings["compare"] is not None:
        inputs(config, runs_root(config["runs_dir"]))
        return []
    check_settings(config)
    if config.get("run"):
        _labelled(config, _open(config, input_run(config["run"], runs_root(config["runs_dir"]), "extract")))
        return []
    stream, sites = _plan(config)
    if settings["source"] == "live":
        return []
    control = _control(config, stream)
    return [("extract", extraction(config, sites)), *([("extract", control)] if control else [])]


def run_name(config: Mapping[str, Any]) -> str:
    """Return the default name of the run."""
    from vlsae.config import part_name

    if config["aqi"]["compare"] is not None:
        return "-vs-".join(_plain_name(one) for one in config["aqi"]["compare"])
    return f"{part_name(config['model'])}-{part_name(config['dataset'])}"


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides the numbers that come out, besides what upstream gives."""
    names = ("sites", "tokens", "dtype")
    return {
        "aqi": dict(config["aqi"]),
        "extract": {name: config["extract"][name] for name in names},
        "seed": config["seed"],
        "limit": config["limit"],
        "run": config.get("run"),
    }


def digests(config: Mapping[str, Any]) -> dict[str, str]:
    """Return content digests of what this stage reads itself: model and data, in one pass beside the model."""
    from vlsae.config import build

    if config["aqi"]["source"] != "live" or config["aqi"]["compare"] is not None:
        return {}
    return {"model": build(config["model"]).digest(), "dataset": build(config["dataset"]).digest()}


def serves(step: Step, manifest: Mapping[str, Any], root: Path) -> bool:
    """Tell whether another run than the one with the step's fingerprint will do: no."""
    return False


def estimate(config: Mapping[str, Any]) -> Estimate:
    """Return the cost of one pass beside the model, timed on a few rows; unknown where stored rows are scored."""
    from dataclasses import replace

    from vlsae.stages import extract

    if config["aqi"]["source"] != "live" or config["aqi"]["compare"] is not None:
        return Estimate()
    return replace(extract.estimate(config), bytes=0, memory=None)


def shared_by_ranks(config: Mapping[str, Any]) -> bool:
    """Tell whether several processes share the stage: one pass beside the model, whose batches are dealt to them."""
    return bool(config["aqi"]["source"] == "live" and config["aqi"]["compare"] is None)


def run(config: Mapping[str, Any], run: Run) -> None:
    """Score the layers, or compare two runs, and write what came out."""
    from vlsae.stages.aqi_compare import compare_runs
    from vlsae.stages.aqi_live import score_live

    device = use_hardware(config, run)
    if config["aqi"]["compare"] is not None:
        compare_runs(config, run)
    elif config["aqi"]["source"] == "live":
        score_live(config, run, device)
    else:
        score_store(config, run)


def score_store(config: Mapping[str, Any], run: Run) -> None:
    """Score stored representations."""
    store = _open(config, require("extract", _extraction(config), run))
    stream, labelling = _labelled(config, store)
    sites = sites_of(list(store.sites), _wanted(config, store), stream)
    rows = {name: _pooled_rows(store, name) for name in streams_of(stream)}
    if len(labelling.classes) > 2:
        _score_many(config, run, labelling, _source(store, sites, stream, labelling, rows))
        return
    source, note = _with_control(config, run, store, _source(store, sites, stream, labelling, rows), stream)
    _score_two(config, run, labelling, source, note)


def _score_two(config: Mapping[str, Any], run: Run, labelling: Labelling, source: Source, note: str | None) -> None:
    from vlsae.aqi.analysis import analyse
    from vlsae.aqi.design import design_of
    from vlsae.progress import progress

    design = design_of(labelling, config["aqi"]["blocks"], config["aqi"]["folds"], config["aqi"]["rows"]["seed"])
    with progress("aqi", len(source.sites), "layers") as advance:
        found = analyse(source, labelling, design, analysis_settings(config), advance)
    if note is not None:
        found.notes.append(note)
    write(run, found)


def _score_many(config: Mapping[str, Any], run: Run, labelling: Labelling, source: Source) -> None:
    import numpy as np

    from vlsae.aqi.design import design_of
    from vlsae.aqi.many import measure_many
    from vlsae.aqi.report_many import result_of_many
    from vlsae.progress import progress
    from vlsae.stages.outcome import write_result

    settings = config["aqi"]
    design = design_of(labelling, settings["blocks"], settings["folds"], settings["rows"]["seed"])
    every = np.arange(len(labelling.rows))
    at_all = settings["pairwise"] == "all" or (settings["pairwise"] == "auto" and len(every) <= 2000)
    layers = []
    with progress("aqi", len(source.sites), "layers") as advance:
        for place, site in enumerate(source.sites):
            layers.append(measure_many(site, source.fetch(place, every), design, at_all))
            advance(1)
    write_result(run, result_of_many(layers, labelling), rows_sha256=labelling.digest)


def write(run: Run, found: Analysis) -> None:
    """Write what was found: the result, the ids of the rows, and the moments that a comparison reads."""
    from vlsae.aqi.report import result_of
    from vlsae.aqi.state import State, facts_of, save
    from vlsae.stages.outcome import write_result

    labelling, design = found.labelling, found.design
    if found.headline.layer < 0:
        statuses = ", ".join(f"{layer.site} {layer.status}" for layer in found.layers)
        raise UserError(
            f"No layer separates anything that could be scored: {statuses}.",
            "Use other tokens (extract.tokens.pooling), other layers, or more rows.",
        )
    (run.path / ROWS).write_text("\n".join(labelling.ids) + "\n", encoding="utf-8")
    cells = {layer.site: layer.cells for layer in found.layers}
    widths = {site: one.width for site, one in cells.items()}
    scores = {
        layer.site: layer.auroc.scores
        for layer in found.layers
        if layer.auroc is not None and len(layer.auroc.scores) == len(design.codes)
    }
    facts = facts_of(labelling.classes, labelling.strata_names, design, widths, labelling.digest)
    save(State(cells, design, scores, facts), run.path / STATE)
    write_result(run, result_of(found), rows_sha256=labelling.digest, dropped=dict(labelling.dropped))


def analysis_settings(config: Mapping[str, Any]) -> Settings:
    """Return the settings of the analysis from the ``aqi`` node."""
    from vlsae.aqi.analysis import Settings

    node = config["aqi"]
    return Settings(
        permutations=node["permutations"],
        pairwise=node["pairwise"],
        composites=tuple(node["composites"]["names"]),
        lam=node["composites"]["lambda"],
        gamma=node["composites"]["gamma"],
        chi_max=node["composites"]["chi_max"],
        length_match=node["length_match"],
        learned_loss=node["learned"]["loss"],
        learned_map=node["learned"]["map"],
        learned_rows=node["learned"]["rows"],
        projection=node["projection"],
        seed=config["seed"],
    )


def check_settings(config: Mapping[str, Any]) -> None:
    """Raise ``UserError`` for settings that can only fail later: weights, a missing chi_max, UMAP, token rows."""
    from vlsae.aqi.composites import check_weight
    from vlsae.aqi.projection import check_projection

    node = config["aqi"]
    check_weight("aqi.composites.lambda", node["composites"]["lambda"])
    check_weight("aqi.composites.gamma", node["composites"]["gamma"])
    if "paper_product" in node["composites"]["names"] and node["composites"]["chi_max"] is None:
        raise UserError(
            "AQI-C02: paper_product needs a largest chi that counts as 1.", "Add aqi.composites.chi_max=NUMBER."
        )
    check_projection(node["projection"])
    if config["extract"]["tokens"]["pooling"] == "tokens":
        raise UserError(
            "extract.tokens.pooling=tokens: the index needs one row an input.", "Use extract.tokens.pooling=mean."
        )
    if node["source"] == "live" and (config.get("run") or len(node["classes"]) > 2):
        raise UserError(
            "aqi.source=live runs the model itself, on two classes.", "Leave out --run, or use aqi.source=store."
        )


def _plan(config: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return stream and sites of a configuration, its labels checked before anything is run."""
    from vlsae.config import build
    from vlsae.models import expand_sites

    model, dataset = build(config["model"]), build(config["dataset"])
    known = list(model.sites())
    texts = any(len(one) > 0 for one in dataset.table[:1]["texts"])
    stream = stream_of(config["aqi"]["stream"], known, texts, dataset.has_images)
    labelling_of(dataset.table, config["aqi"], stream, config["limit"])
    return stream, sites_of(known, expand_sites(model, config["extract"]["sites"]), stream)


def _extraction(config: Mapping[str, Any]) -> Mapping[str, Any]:
    if config.get("run"):
        return {**extraction(config, ["all"]), "run": config["run"]}
    return extraction(config, _plan(config)[1])


def _control(config: Mapping[str, Any], stream: str) -> Mapping[str, Any] | None:
    """Return the extraction of the bag of tokens, None where the layers' own rows are one."""
    if stream == "joint" or config["extract"]["tokens"]["pooling"] == "mean":
        return None
    return extraction(config, [f"{stream}.{FIRST}"], pooling="mean")


def _open(config: Mapping[str, Any], extraction: Run) -> Store:
    from vlsae.representations import Store

    store = Store.open(extraction.path / "representations")
    return store if config["limit"] is None else store.limit(config["limit"])


def _labelled(config: Mapping[str, Any], store: Store) -> tuple[str, Labelling]:
    """Return the stream and the labelled samples of a store."""
    texts = "language" in store.streams
    stream = stream_of(config["aqi"]["stream"], list(store.sites), texts, "vision" in store.streams)
    return stream, labelling_of(store.samples, config["aqi"], stream, config["limit"])


def _wanted(config: Mapping[str, Any], store: Store) -> list[str]:
    """Return the stored sites that a configuration asks for; of a named run all, unless layers are named."""
    from vlsae.models.sites import select_sites

    return select_sites(list(store.sites), config["extract"]["sites"])


def _pooled_rows(store: Store, stream: str) -> np.ndarray:
    """Return for each sample the row of its first item, ``(samples,)``; ``UserError`` for rows that are tokens."""
    import numpy as np

    table = store.row_table(stream)
    position, item, sample = (table[name].to_numpy() for name in ("position", "item", "sample"))
    if (position >= 0).any():
        raise UserError(
            f"The store {store.path} holds a row for each token; the index needs one an input.",
            "Extract with extract.tokens.pooling=mean.",
        )
    found = np.full(store.n_samples, -1, dtype=np.int64)
    found[sample[item == 0]] = np.flatnonzero(item == 0)
    return found


def _source(
    store: Store, sites: list[str], stream: str, labelling: Labelling, rows: Mapping[str, np.ndarray]
) -> Source:
    """Return where rows come from; of two streams side by side, each scaled to root mean square 1."""
    import numpy as np

    from vlsae.aqi.analysis import Source

    slots = slots_of(sites, stream)
    for name, place in rows.items():
        if (place[labelling.rows] < 0).any():
            first = labelling.ids[int(np.flatnonzero(place[labelling.rows] < 0)[0])]
            raise UserError(f"Sample {first!r} has no {name} row.", "Leave out samples without it.")

    def fetch(place: int, chosen: np.ndarray) -> np.ndarray:
        parts = [
            store.read(site, rows[site.split(".")[0]][labelling.rows[chosen]]).double().numpy()
            for site in slots[place][1]
        ]
        return parts[0] if len(parts) == 1 else np.concatenate([_unit(part) for part in parts], axis=1)

    widths = [sum(store.sites[site].width for site in read) for _, read in slots]
    return Source([name for name, _ in slots], widths, fetch)


def _unit(x: np.ndarray) -> np.ndarray:
    import numpy as np

    size = np.sqrt((x**2).mean(axis=1, keepdims=True))
    return x / np.where(size > 0, size, 1.0)


def _with_control(
    config: Mapping[str, Any], run: Run, store: Store, source: Source, stream: str
) -> tuple[Source, str | None]:
    """Return the source with the bag of tokens, or a note where there is none."""
    from dataclasses import replace

    if stream == "joint":
        return source, None
    first = f"{stream}.{FIRST}"
    if first in source.sites and store.sites[first].pooling == "mean":
        place = list(source.sites).index(first)
        return replace(source, control=lambda rows: source.fetch(place, rows)), None
    wanted = None if config.get("run") else _control(config, stream)
    if wanted is None:
        return source, "No embedding control: the named run holds no mean of the first block's input."
    other = _open(config, require("extract", wanted, run))
    numbers = _pooled_rows(other, stream)[labelling_of(other.samples, config["aqi"], stream, config["limit"]).rows]

    def control(rows: np.ndarray) -> np.ndarray:
        return other.read(first, numbers[rows]).double().numpy()

    return replace(source, control=control), None


def _plain_name(reference: str) -> str:
    """Return a run's name without its stage, for the name of a comparison."""
    parts = [part for part in str(reference).rstrip("/").split("/") if part]
    return "-".join(parts[-2:])
