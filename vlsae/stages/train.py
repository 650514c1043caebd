"""train: fit an objective: a dictionary on representations, stored or live, or a learner on raw samples."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlsae import ranks
from vlsae.errors import UserError
from vlsae.stages.fitting import fit_in_run, seeded
from vlsae.stages.hardware import use_hardware
from vlsae.stages.launch import Estimate, Step
from vlsae.stages.learning import check_rows, holds_tokens, learned, made
from vlsae.stages.live import check_live, estimate_live, open_live
from vlsae.stages.upstream import require

if TYPE_CHECKING:
    from vlsae.dictionaries.auxiliary import AuxiliaryAutoencoder
    from vlsae.loggers import Logger
    from vlsae.runs import Run

logger = logging.getLogger(__name__)

SCHEMA = 1

#: A store up to this size is hashed before it is trained on, a matter of seconds; a larger one where verify=true.
VERIFIED_BYTES = 4 << 30

#: The loop hands its metrics to the logger itself.
LOGS_ITSELF = True

#: Settings of the train node that change nothing in what is learned.
NOT_IDENTITY = ("log_every", "checkpoint_every", "evaluate", "tune")


def parents(config: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the upstream stages with their configurations: the extraction of the sites trained on."""
    where = source(config)
    if where == "samples":
        return []
    _check_asked(config)
    if where == "live":
        check_live(config)
    if config.get("run"):
        return []
    _check_split(config)
    check_rows(config, config["extract"]["tokens"]["pooling"] == "tokens")
    return [] if where == "live" else [("extract", _extraction(config))]


def run_name(config: Mapping[str, Any]) -> str:
    """Return the default name of the run."""
    from vlsae.config import part_name

    return "-".join(part_name(config[part]) for part in ("model", "dataset", "objective"))


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides the numbers that come out, besides weights and data."""
    live = source(config) == "live"
    left_out = NOT_IDENTITY if live else (*NOT_IDENTITY, "live")
    own = {"tokens": dict(config["extract"]["tokens"])} if live else {}
    return {
        **own,
        "objective": dict(config["objective"]),
        "train": {name: value for name, value in config["train"].items() if name not in left_out},
        "seed": config["seed"],
        "limit": config["limit"],
        "split": dict(config["split"]),
        "run": config.get("run"),
    }


def digests(config: Mapping[str, Any]) -> dict[str, str]:
    """Return content digests of what this stage reads itself: a learner's data, or data and model of live rows."""
    from vlsae.config import build

    read = {"samples": ("dataset",), "live": ("model", "dataset")}.get(source(config), ())
    return {name: build(config[name]).digest() for name in read}


def serves(step: Step, manifest: Mapping[str, Any], root: Path) -> bool:
    """Tell whether another run than the one with the step's fingerprint will do: no."""
    return False


def estimate(config: Mapping[str, Any]) -> Estimate:
    """Return the cost of a training, from a timed pass of the model (live) or a few timed steps."""
    from vlsae.stages.train_cost import estimate_training

    return estimate_live(config) if source(config) == "live" else estimate_training(config)


def source(config: Mapping[str, Any]) -> str:
    """Return what the objective learns from: ``representations``, ``live`` (the same without a store), ``samples``."""
    from vlsae.config import target_class

    own = getattr(target_class(config["objective"]), "source", "representations")
    asked = config["train"]["source"]
    if asked == "live" and own == "representations":
        return "live"
    if asked not in ("auto", own):
        raise UserError(
            f"train.source={asked}, and objective {config['objective']['_target_']} learns from {own}.",
            f"Use train.source={own} or leave it at auto.",
        )
    return own


def run(config: Mapping[str, Any], run: Run) -> None:
    """Train, evaluate on held-out rows, and write what came out."""
    from vlsae.loggers import NoLogger, started
    from vlsae.stages.train_learner import train_learner

    use_hardware(config, run)
    train = train_learner if source(config) == "samples" else train_dictionary
    with started(config, run) if ranks.is_first() else nullcontext(NoLogger()) as second:
        train(config, run, second)


def shared_by_ranks(config: Mapping[str, Any]) -> bool:
    """Tell whether several processes share the training, each with a part of every batch; a fit in one go is one's.

    Raises ``UserError`` for objectives and sources that do not come to one process's numbers so.
    """
    from vlsae.config import target_class
    from vlsae.dictionaries.fit import Fit

    objective = target_class(config["objective"])
    if issubclass(objective, Fit):
        return False
    what = None
    if not getattr(objective, "over_ranks", False):
        what = f"objective {objective.__name__} learns from whole batches"
    elif source(config) == "live":
        what = "train.source=live reads a model's rows in one process"
    elif config["train"]["unpaired"] and "." not in str(config["train"]["sites"]):
        what = "train.unpaired=true reads two streams of different lengths"
    if what is not None:
        raise UserError(f"hardware.ranks={config['hardware']['ranks']}: {what}.", "Use hardware.ranks=1.")
    return True


def train_dictionary(config: Mapping[str, Any], run: Run, second: Logger) -> None:
    """Train a dictionary on the stored representations of an extraction, or on live ones."""
    from vlsae.reporting import write_report
    from vlsae.stages import held_out

    settings = config["train"]
    live = open_live(config, run) if source(config) == "live" else None
    if live is not None:
        extraction, store, sites, readers = run.id, live.store, live.sites, live.readers
        tokens = holds_tokens(store, sites)
    else:
        extraction, store = _stored(config, run)
        sites = sites_by_stream(store, settings["sites"])
        tokens = holds_tokens(store, sites)
        check_rows(config, tokens)
        readers = _readers(store, sites, config, unpaired=settings["unpaired"] or tokens)
    _require_held_out(readers)
    auxiliary = None
    if not tokens and _needs_auxiliary(store, sites, settings):
        auxiliary = _fit_auxiliary(store, sites, config, run, second)
        readers = {split: reader.mapped(auxiliary.encode) for split, reader in readers.items()}
        if ranks.is_first():
            auxiliary.save_pretrained(run.path / "auxiliary")
    width = auxiliary.width if auxiliary is not None else _common_width(store, sites)
    objective, readers = made(config, store, readers, width)
    dictionary, making = learned(objective, readers, config, run, second)
    if not ranks.is_first():
        return
    dictionary.save_pretrained(run.path / "dictionary")
    rows = held_out.rows(
        store,
        sites,
        paired=not settings["unpaired"] and not tokens,
        limit=settings["evaluate"]["rows"],
        seed=config["seed"],
    )
    _describe_input(run.path / "dictionary", extraction, store, sites, auxiliary is not None, rows.values)
    if auxiliary is not None:
        rows = rows.mapped(auxiliary.encode)
    metrics = held_out.measure(dictionary, rows, config, run)
    if live is not None and tokens:
        metrics |= held_out.loss_in_model(dictionary, live.model, store, sites, config)
    metrics |= held_out.name_concepts(dictionary, store, sites, auxiliary, config, run)
    run.write_summary(metrics | making)
    held_out.write_concepts(dictionary, store, sites, auxiliary, settings["evaluate"]["concepts"], run)
    if tokens:
        held_out.write_token_marks(dictionary, store, sites, run)
    write_report(run.path)


def _stored(config: Mapping[str, Any], run: Run) -> tuple[str, Any]:
    """Return the extraction that is trained on, made first where it is missing, and its store."""
    from vlsae.representations import Store

    upstream = require("extract", _extraction(config), run)
    store = Store.open(upstream.path / "representations")
    if ranks.is_first() and (config["verify"] or store.bytes <= VERIFIED_BYTES):
        store.verify()
    return upstream.id, store if config["limit"] is None else store.limit(config["limit"])


def sites_by_stream(store: Any, wanted: str | list[str]) -> dict[str, str]:
    """Return the one site of each stream that a dictionary trains on.

    Raises :class:`~vlsae.errors.UserError` where the store lacks the site or two sites of one stream are asked for.
    """
    names = [wanted] if isinstance(wanted, (str, int)) else list(wanted)
    streams = list(dict.fromkeys(site.split(".")[0] for site in store.sites))
    chosen: dict[str, str] = {}
    for name in map(str, names):
        own = [f"{stream}.{name}" for stream in streams if name.split(".")[0] not in streams] or [name]
        for site in own:
            if site not in store.sites:
                raise UserError(
                    f"train.sites={wanted}: the extraction holds no site {site!r}.",
                    f"It holds {', '.join(store.sites)}; name one a stream, or extract more with extract.sites=[…].",
                )
            stream = site.split(".")[0]
            if chosen.setdefault(stream, site) != site:
                raise UserError(f"train.sites={wanted} names two sites of {stream}.", "Name one site a stream.")
    return chosen


def _check_asked(config: Mapping[str, Any]) -> None:
    """Refuse what no upstream rows could mend, before a run is claimed."""
    if not config["train"]["sites"]:
        raise UserError(
            "train.sites is empty.",
            "Name one site a stream, such as train.sites=[vision.6,language.6], or leave it at embedding.",
        )
    k, concepts = (config["objective"].get(name) for name in ("k", "n_concepts"))
    if isinstance(k, int) and isinstance(concepts, int) and k > concepts:
        raise UserError(
            f"objective.k={k} is above objective.n_concepts={concepts}.",
            f"Use a k of at most {concepts}, or more concepts.",
        )


def _check_split(config: Mapping[str, Any]) -> None:
    """Refuse shares that leave nothing to train on, or nothing to score the dictionary on, before rows are made."""
    from vlsae.config import build

    validation, test = config["split"]["validation"], config["split"]["test"]
    # A dataset with a split of its own does not go by the shares.
    if (validation == 0 or validation + test >= 1) and "split" not in build(config["dataset"]).table.column_names:
        raise UserError(
            f"split.validation={validation} and split.test={test}: a dictionary needs rows to train on and held-out "
            "rows to be scored on.",
            "Use a split.validation above 0 that leaves a share for training, such as 0.2.",
        )


def _require_held_out(readers: Mapping[str, Any]) -> None:
    """Refuse to begin where the training's end would find no rows to score the dictionary on."""
    if readers["validation"].n_rows == 0:
        raise UserError(
            f"The split holds no row out to score the dictionary on; {readers['train'].n_rows} are for training.",
            "Use more samples (limit, dataset) or a larger split.validation.",
        )


def _extraction(config: Mapping[str, Any]) -> dict[str, Any]:
    extract = dict(config["extract"])
    if extract["sites"] == "embedding" and config["train"]["sites"] != "embedding":
        extract["sites"] = config["train"]["sites"]
    kept = {name: value for name, value in config.items() if name not in ("train", "objective")}
    return {**kept, "stage": "extract", "name": None, "extract": extract, "run": config.get("run")}


def _readers(store: Any, sites: Mapping[str, str], config: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    from vlsae.representations import Reader
    from vlsae.training.together import shared

    settings = {**config["train"], **changes}
    order = settings.get("order_seed")
    common = {
        "batch_size": settings["batch_size"],
        "seed": config["seed"] if order is None else order,
        "paired": len(sites) > 1 and not settings["unpaired"],
    }
    shuffles = {"train": settings["shuffle"], "validation": False}
    key = (str(store.path), store.n_samples, tuple(sites.items()), tuple(common.items()))
    return {
        split: shared(Reader(store, dict(sites), split=split, shuffle=shuffle, **common), (*key, split, shuffle))
        for split, shuffle in shuffles.items()
    }


def _needs_auxiliary(store: Any, sites: Mapping[str, str], settings: Mapping[str, Any]) -> bool:
    aligned = all(site.endswith(".embedding") for site in sites.values())
    widths = {store.sites[site].width for site in sites.values()}
    choice = settings["auxiliary"]
    if choice == "never" and len(sites) > 1 and len(widths) == 1 and not aligned:
        logger.warning("%s are not aligned, and train.auxiliary=never", " and ".join(sites.values()))
    if choice == "always" and len(sites) < 2:
        raise UserError("train.auxiliary=always needs two streams.", "Leave train.auxiliary at auto.")
    return choice == "always" or (choice == "auto" and len(sites) > 1 and not aligned)


def _common_width(store: Any, sites: Mapping[str, str]) -> int:
    widths = {site: store.sites[site].width for site in sites.values()}
    if len(set(widths.values())) > 1:
        words = ", ".join(f"{site} is {width} wide" for site, width in widths.items())
        raise UserError(
            f"A shared dictionary needs one width: {words}.", "Use train.auxiliary=auto, or sites of equal width."
        )
    return next(iter(widths.values()))


def _fit_auxiliary(
    store: Any, sites: Mapping[str, str], config: Mapping[str, Any], run: Run, second: Logger
) -> AuxiliaryAutoencoder:
    from vlsae.dictionaries import AuxiliaryAutoencoder

    settings = dict(config["train"]["auxiliary_autoencoder"])
    widths = {stream: store.sites[site].width for stream, site in sites.items()}
    auxiliary = seeded(
        config["seed"],
        lambda: AuxiliaryAutoencoder(
            widths["vision"],
            widths["language"],
            settings["width"] or max(widths.values()),
            similarity=settings["similarity"],
            temperature=settings["temperature"],
        ),
    )
    readers = _readers(store, sites, config, batch_size=settings["batch_size"])
    training = {"epochs": settings["epochs"], "lr": settings["lr"], "schedule": "cosine", "warmup_epochs": 0}
    fit_in_run(auxiliary, readers, config, run, second, prefix="auxiliary", **training)
    return auxiliary.eval().requires_grad_(False)


def _describe_input(
    folder: Path, extraction: str, store: Any, sites: Mapping[str, str], auxiliary: bool, rows: Mapping[str, Any]
) -> None:
    """Write beside the weights which representations they read, for those who load the dictionary elsewhere."""
    from vlsae.dictionaries.references import INPUT, statistics_of

    facts = {
        "extraction": extraction,
        "model": store.attributes.get("model"),
        "sites": dict(sites),
        "pooling": {stream: store.sites[site].pooling for stream, site in sites.items()},
        "auxiliary": auxiliary,
        "statistics": statistics_of(rows),
    }
    (folder / INPUT).write_text(json.dumps(facts, indent=2) + "\n")
