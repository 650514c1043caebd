"""probe: ask what a layer, a neuron or a concept holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vlsae.errors import UserError
from vlsae.stages.hardware import load_model, use_hardware
from vlsae.stages.launch import Estimate, Step
from vlsae.stages.upstream import require

if TYPE_CHECKING:
    from pathlib import Path

    from vlsae.dictionaries.references import Referenced
    from vlsae.probes.base import Probe, Representations, TrainedDictionary
    from vlsae.probes.targets import Targets
    from vlsae.runs import Run

SCHEMA = 1

#: Rows by which it is seen whether a dictionary of elsewhere reads such.
LOOKED_AT = 4096

#: Stages whose runs ``--run`` may name.
INPUTS = ("extract", "train")


def parents(config: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the upstream stages with their configurations, after what the probe can check without their rows.

    The main one, unless a run is named: the extraction, or for a probe of dictionaries the training; then an
    extraction for each of the probe's variants.
    """
    from vlsae.config import build

    probe = build(config["probe"])
    if probe.reads == "nothing":
        if config.get("run"):
            raise UserError(f"{_words(config)} has its own data and reads no run.", "Leave out --run.")
        return []
    named = _named(config, probe)
    base = _base(config, named)
    _check_dictionary(config, probe, named)
    _check(config, probe, named, base)
    own = [] if named is not None else [_main(config, probe)]
    return own + [("extract", variant) for variant in _variants(config, probe, base).values()]


def run_name(config: Mapping[str, Any]) -> str:
    """Return the default name of the run: the probe's, after those of the model and data that it reads."""
    from vlsae.config import build, part_name

    probe = build(config["probe"])
    if probe.reads == "nothing":
        return part_name(config["probe"])
    base = _base(config, _named(config, probe))
    return "-".join([part_name(base["model"]), part_name(base["dataset"]), part_name(config["probe"])])


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides the numbers that come out, besides what upstream gives."""
    return {
        "probe": dict(config["probe"]),
        "sites": config["extract"]["sites"],
        "seed": config["seed"],
        "limit": config["limit"],
        "split": dict(config["split"]),
        "run": config.get("run"),
        "dictionary": config.get("dictionary"),
    }


def digests(config: Mapping[str, Any]) -> dict[str, str]:
    """Return content digests of what this stage reads itself: nothing."""
    return {}


def serves(step: Step, manifest: Mapping[str, Any], root: Path) -> bool:
    """Tell whether another run than the one with the step's fingerprint will do: no."""
    return False


def estimate(config: Mapping[str, Any]) -> Estimate:
    """Return the cost of a probe: unknown until its rows are there."""
    return Estimate()


def run(config: Mapping[str, Any], run: Run) -> None:
    """Ask the probe, and write what it found."""
    from vlsae.config import build
    from vlsae.stages.outcome import write_result

    device = use_hardware(config, run)
    probe = build(config["probe"])
    if probe.reads == "nothing":
        representations, targets = _nothing(config["seed"], device)
    else:
        representations, base = _read(config, run, probe, device)
        targets = _targets(representations.samples, base)
    result = probe.measure(representations, targets)
    for name, arrays in getattr(result, "arrays", {}).items():
        _write_arrays(run.path / f"{name}.safetensors", arrays)
    write_result(run, result)


def _check(config: Mapping[str, Any], probe: Probe, named: Run | None, base: Mapping[str, Any]) -> None:
    """Refuse layers and targets that are not there before rows are made, or a run is claimed."""
    from vlsae.config import build
    from vlsae.models.sites import expand_sites, select_sites
    from vlsae.representations import Store

    sites = config["extract"]["sites"]
    if named is None:
        if probe.reads == "representations" and not config.get("dictionary"):
            expand_sites(build(base["model"]), sites)
        samples = build(base["dataset"]).table.data.table
    else:
        extraction = named if named.stage == "extract" else _extraction_of(named)
        store = Store.open(extraction.path / "representations")
        if named.stage == "extract":
            select_sites(list(store.sites), sites)
        samples = store.samples
    probe.check(_targets(samples if config["limit"] is None else samples.slice(0, config["limit"]), base))


def _named(config: Mapping[str, Any], probe: Probe) -> Run | None:
    """Return the run that ``--run`` names; ``UserError`` unless it is a finished extraction or training that fits."""
    from vlsae.runs import input_run, runs_root

    if not config.get("run"):
        return None
    named = input_run(config["run"], runs_root(config["runs_dir"]))
    fitting = ("train",) if probe.reads == "dictionary" and not config.get("dictionary") else INPUTS
    if named.stage not in fitting:
        raise UserError(
            f"{named.id} is a run of the stage {named.stage}; {_words(config)} reads a run of {' or '.join(fitting)}.",
            "Name such a run, or leave out --run to have one made.",
        )
    if named.stage == "train" and not (named.path / "dictionary").is_dir():
        raise UserError(
            f"{named.id} trained a model, not a dictionary.", "Extract its representations and probe those."
        )
    return named


def _base(config: Mapping[str, Any], named: Run | None) -> Mapping[str, Any]:
    """Return the configuration that says which model and data the rows come from: the named run's own, if any."""
    from vlsae.config import load, resolved

    return config if named is None else resolved(load(named.path))


def _main(config: Mapping[str, Any], probe: Probe) -> tuple[str, Mapping[str, Any]]:
    """Return the stage that makes what the probe reads, with its configuration."""
    kept = {name: value for name, value in config.items() if name != "probe"}
    if config.get("dictionary"):
        found = _referenced(config)
        sites = [found.site(stream) for stream in found.sites or ("vision",)]
        return "extract", _extraction(config, config, extract={**config["extract"], "sites": sites})
    if probe.reads == "representations":
        return "extract", _extraction(config, config)
    sites = config["extract"]["sites"]
    train, extract = dict(config["train"]), {**config["extract"], "sites": "embedding"}
    if sites != "all":
        train["sites"] = sites
    return "train", {**kept, "stage": "train", "name": None, "train": train, "extract": extract}


def _extraction(config: Mapping[str, Any], base: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Return the configuration of an extraction from the model and data of ``base``, some nodes of it changed."""
    kept = {name: value for name, value in config.items() if name not in ("train", "objective", "probe")}
    return {**kept, "stage": "extract", "name": None, "model": base["model"], "dataset": base["dataset"], **changes}


def _variants(config: Mapping[str, Any], probe: Probe, base: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    from vlsae.runs import runs_root

    variants = probe.variants(base["model"], base["dataset"], runs_root(config["runs_dir"]))
    settings = {} if base is config else {name: base[name] for name in ("extract", "split", "limit")}
    return {name: _extraction(config, base, **settings, **nodes, run=None) for name, nodes in variants.items()}


def _read(config: Mapping[str, Any], run: Run, probe: Probe, device: str) -> tuple[Representations, Mapping[str, Any]]:
    """Return what the probe reads, made first where it is missing, and the configuration it came from."""
    from vlsae.config import build
    from vlsae.runs import runs_root

    named = _named(config, probe)
    base = _base(config, named)
    if named is None:
        stage, upstream = _main(config, probe)
        named = require(stage, upstream, run)
    else:
        run.add_parent(named.id)
    dictionary = None
    if config.get("dictionary"):
        dictionary = _foreign(config, named)
    elif named.stage == "train":
        dictionary = _dictionary(named)
        named = _extraction_of(named)
    variants = {
        name: _rows(config, require("extract", upstream, run), dictionary)
        for name, upstream in _variants(config, probe, base).items()
    }

    def model() -> Any:
        made = build(base["model"])
        load_model(made, config, device)
        return made

    more = {
        "seed": config["seed"],
        "device": device,
        "variants": variants,
        "model": model,
        "dataset": lambda: build(base["dataset"]),
        "runs": runs_root(config["runs_dir"]),
    }
    return _rows(config, named, dictionary, **more).with_concepts(), base


def _rows(
    config: Mapping[str, Any], extraction: Run, dictionary: TrainedDictionary | None, **more: Any
) -> Representations:
    from vlsae.models.sites import select_sites
    from vlsae.probes.base import Representations
    from vlsae.representations import Store

    store = Store.open(extraction.path / "representations")
    if config["verify"]:
        store.verify()
    if config["limit"] is not None:
        store = store.limit(config["limit"])
    if dictionary is not None:
        sites = list(dictionary.sites.values())
    else:
        sites = select_sites(list(store.sites), config["extract"]["sites"])
    return Representations.of_store(store, sites, dictionary=dictionary, **more)


def _dictionary(named: Run) -> TrainedDictionary:
    from vlsae.dictionaries import AuxiliaryAutoencoder, from_pretrained
    from vlsae.probes.base import TrainedDictionary

    facts = _input(named)
    auxiliary = AuxiliaryAutoencoder.from_pretrained(named.path / "auxiliary").eval() if facts["auxiliary"] else None
    dictionary = from_pretrained(named.path / "dictionary").eval()
    return TrainedDictionary(dictionary, facts["sites"], auxiliary, named.path, named.id)


def _referenced(config: Mapping[str, Any]) -> Referenced:
    from vlsae.dictionaries.references import load_dictionary
    from vlsae.runs import runs_root

    return load_dictionary(config["dictionary"], runs_root(config["runs_dir"]))


def _check_dictionary(config: Mapping[str, Any], probe: Probe, named: Run | None) -> None:
    """Refuse a dictionary for a probe that reads none, and beside the run of another one."""
    if not config.get("dictionary"):
        return
    if named is not None and named.stage == "train":
        raise UserError(f"dictionary= and --run {named.id} both name a dictionary.", "Leave out one of them.")
    _referenced(config)


def _foreign(config: Mapping[str, Any], extraction: Run) -> TrainedDictionary:
    """Return the dictionary that ``dictionary=`` names, after a look at whether these are rows such as it reads."""
    from vlsae.probes.base import TrainedDictionary
    from vlsae.representations import Store

    found = _referenced(config)
    store = Store.open(extraction.path / "representations")
    sites = {stream: found.site(stream) for stream in found.sites or store.streams}
    some = {stream: store.read(site, range(min(LOOKED_AT, store.site(site).rows))) for stream, site in sites.items()}
    found.check(some)
    return TrainedDictionary(found.dictionary, sites, found.auxiliary, None, str(config["dictionary"]))


def _input(named: Run) -> dict[str, Any]:
    """Return what a dictionary's run says of the rows that it reads."""
    from vlsae.dictionaries.references import read_input

    return read_input(named.path / "dictionary")


def _extraction_of(named: Run) -> Run:
    """Return the run that holds rows which a dictionary's run read: the extraction, or the run itself (live)."""
    from vlsae.runs import input_run

    read = _input(named)["extraction"]
    return named if read == named.id else input_run(read, named.root, "extract")


def _targets(samples: Any, base: Mapping[str, Any]) -> Targets:
    """Return the targets of a table of samples, with the factors that its data set knows."""
    from vlsae.config import target_class
    from vlsae.probes.targets import Targets

    factors = getattr(target_class(base["dataset"]), "factors", None)
    return Targets(samples, None if factors is None else factors(samples))


def _nothing(seed: int, device: str) -> tuple[Representations, Targets]:
    import pyarrow as pa

    from vlsae.probes.base import Representations
    from vlsae.probes.targets import Targets

    return Representations(seed=seed, device=device), Targets(pa.table({"sample_id": pa.array([], pa.string())}))


def _write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)


def _words(config: Mapping[str, Any]) -> str:
    from vlsae.config import part_name

    return f"probe={part_name(config['probe'])}"
