"""enhance: put the concepts back into the model and compare a task before and after."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vlsae.errors import UserError
from vlsae.stages.hardware import load_model, use_hardware
from vlsae.stages.launch import Estimate, Step
from vlsae.stages.upstream import require

if TYPE_CHECKING:
    from pathlib import Path

    from vlsae.enhancement.task import Task, Work
    from vlsae.models.base import Model
    from vlsae.result import Result
    from vlsae.runs import Run

SCHEMA = 1

STREAMS = ("vision", "language")

#: Nodes of this stage that no stage before it knows.
OWN = ("enhance", "task", "rivals", "image", "text", "answers")


def parents(config: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the upstream stages: trainings of the dictionary and its rivals, and the extraction of the task's data."""
    from vlsae.config import target_class

    node, task = config["task"], task_class(config)
    task.check(node)
    task.check_model(node, target_class(config["model"]))
    _check_model(config, task)
    needed: list[tuple[str, Mapping[str, Any]]] = []
    if task.wants_dictionary(node):
        _check_sites(task, _check_named(config) if config.get("run") else _sites_named(config, task))
        if not config.get("run"):
            needed.append(("train", training(config)))
    needed += [("train", rival(config, name)) for name in task.wants_rivals(node) if name in config["rivals"]]
    if _sites(config):
        needed.append(("extract", extraction(config)))
    return needed


def run_name(config: Mapping[str, Any]) -> str:
    """Return the default name of the run."""
    from vlsae.config import part_name

    return "-".join(part_name(node) for node in (config["model"], data_node(config), config["task"]))


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides the numbers that come out, besides weights and data."""
    names = ("task", "enhance", "image", "text", "answers", "seed", "limit", "run")
    return {name: config[name] for name in names}


def digests(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the content digest of the model, and of data that no upstream run reads; the rest are upstream's."""
    from vlsae.config import build

    found = {}
    if task_class(config).wants_model(config["task"]):
        found["model"] = build(config["model"]).digest()
        if _has_data(config) and not _sites(config):
            found["data"] = build(data_node(config)).digest()
    return found


def serves(step: Step, manifest: Mapping[str, Any], root: Path) -> bool:
    """Tell whether another run than the one with the step's fingerprint will do: no."""
    return False


def estimate(config: Mapping[str, Any]) -> Estimate:
    """Return the items that a task answers, where that is known beforehand; else nothing."""
    from vlsae.config import build

    data = build(data_node(config)) if _has_data(config) and not _sites(config) else None
    return Estimate(rows=task_class(config).cost(config["task"], data, config["limit"]))


def run(config: Mapping[str, Any], run: Run) -> None:
    """Evaluate the task without and with the dictionary, and write both with their difference."""
    from vlsae.config import build
    from vlsae.dictionaries.names_file import has_names
    from vlsae.enhancement.comparison import compare
    from vlsae.stages.dictionary_run import fitted
    from vlsae.stages.outcome import write_result

    device = use_hardware(config, run)
    model = build(config["model"])
    task: Task = build({**config["task"], **({"data": data_node(config)} if _has_data(config) else {})})
    work, dictionary = _work(config, run, task), None
    if task.wants_dictionary(config["task"]):
        trained = require("train", training(config), run)
        found = fitted(trained, model, run.root)
        found.lend(work, config["enhance"]["names"] or (trained.path if has_names(trained.path) else None))
        dictionary = found.dictionary
    task.work = work
    if task.wants_model(config["task"]):
        load_model(model, config, device)
    found_by = {}
    if task.compares or dictionary is None:
        found_by["before"] = _timed(task, model, None)
    if dictionary is not None:
        found_by["after"] = _timed(task, model, dictionary)
    results = list(found_by.values())
    result = results[0] if len(results) == 1 else compare(*results, seed=work.seed, resamples=work.resamples)
    write_result(run, result)


def task_class(config: Mapping[str, Any]) -> type[Task]:
    """Return the task's class; ``UserError`` for a class that is no task."""
    from vlsae.config import target_class
    from vlsae.enhancement.task import Task

    found = target_class(config["task"])
    if not issubclass(found, Task):
        raise UserError(f"task names {found.__qualname__}, which is no task.", "A task derives from vlsae's Task.")
    return found


def training(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of the training that the dictionary comes from.

    Where the user names no sites, those that the task asks for, on means over all of a stream's tokens, as the task
    reads them.
    """
    from vlsae.config import build

    found = {**_without_own(config), "stage": "train", "name": None}
    if config.get("run") or config["train"]["sites"] != "embedding":
        return found
    sites = task_class(config).training_sites(config["task"], build(config["model"]))
    if sites is None:
        return found
    extract = {**config["extract"], "tokens": {"pooling": "mean", "include": "all"}}
    return {**found, "extract": extract, "train": {**config["train"], "sites": list(sites)}}


def rival(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the configuration of a rival's training: as the dictionary's, with another objective of equal size."""
    base = {**training(config), **_trained_by(config), "run": None}
    sizes = {key: base["objective"][key] for key in ("n_concepts", "k", "expansion") if key in base["objective"]}
    return {**base, "objective": {**config["rivals"][name], **sizes}}


def extraction(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of the extraction of the task's data at the sites that the task needs."""
    own = config["task"].get("data") is not None
    source = config if own else _trained_by(config)
    kept = {name: value for name, value in _without_own(config).items() if name not in ("train", "objective")}
    return {
        **kept,
        "stage": "extract",
        "name": None,
        "run": None,
        "dataset": data_node(config),
        "extract": {**source["extract"], "sites": list(_sites(config))},
        "split": config["enhance"]["split"] if own else source["split"],
    }


def data_node(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the node of the task's data: its own, else what the dictionary was trained on."""
    return config["task"].get("data") or _trained_by(config)["dataset"]


def _sites(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the sites at which the task reads its data, none where it has none or reads it otherwise."""
    from vlsae.config import target_class

    if not _has_data(config):
        return ()
    return task_class(config).wants_sites(config["task"], target_class(config["model"]))


def _has_data(config: Mapping[str, Any]) -> bool:
    """Tell whether the task is done on data: its own, or without any the dictionary's."""
    from vlsae.signatures import parameters_of

    return "data" in parameters_of(task_class(config))


def _work(config: Mapping[str, Any], run: Run, task: Task) -> Work:
    from vlsae.dictionaries import from_pretrained
    from vlsae.enhancement.items import SAMPLES, Items
    from vlsae.enhancement.task import Work
    from vlsae.representations import Store

    work = Work(
        items=Items(run.path / SAMPLES),
        folder=run.path,
        seed=config["seed"],
        resamples=config["enhance"]["resamples"],
        limit=config["limit"],
        split=config["split"],
    )
    if _sites(config):
        store = Store.open(require("extract", extraction(config), run).path / "representations")
        work.store = store if config["limit"] is None else store.limit(config["limit"])
    rivals = [name for name in task.wants_rivals(config["task"]) if name in config["rivals"]]
    work.rivals = {
        name: from_pretrained(require("train", rival(config, name), run).path / "dictionary") for name in rivals
    }
    return work


def _timed(task: Task, model: Model, dictionary: Any) -> Result:
    """Return an evaluation with the time that it took among its numbers."""
    from vlsae.result import Measure

    start = time.perf_counter()
    result = task.evaluate(model, dictionary)
    seconds = Measure(time.perf_counter() - start, "seconds of the whole evaluation")
    return replace(result, metrics={**result.metrics, "evaluation_time": seconds})


def _without_own(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in OWN}


def _check_model(config: Mapping[str, Any], task: type[Task]) -> None:
    """Refuse a model without the space of images and texts that the task works in, before anything is made."""
    from vlsae.config import build, part_name

    needed = dict.fromkeys((*_sites(config), *task.reads))
    if not needed:
        return
    model = build(config["model"])
    if model.joint or not set(needed) <= set(model.sites()):
        raise UserError(
            f"task={part_name(config['task'])} works on {' and '.join(needed)}, where images and texts share a space; "
            f"model={part_name(config['model'])} has none.",
            "Use a contrastive model: model=clip",
        )


def _check_named(config: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the sites of a named run's dictionary; one of another model is refused, before anything is made."""
    from vlsae.config import build
    from vlsae.runs import input_run, runs_root
    from vlsae.stages.dictionary_run import check_model

    root = runs_root(config["runs_dir"])
    facts = check_model(input_run(config["run"], root, "train"), build(config["model"]), root)
    sites: Mapping[str, str] = facts["sites"]
    return sites


def _sites_named(config: Mapping[str, Any], task: type[Task]) -> dict[str, str]:
    """Return the sites by stream that the configuration names; one without its stream stands for the task's."""
    named = config["train"]["sites"]
    names = [str(one) for one in (named if isinstance(named, list) else [named])]
    found: dict[str, str] = {}
    for name in names:
        whole = name.split(".")[0] in STREAMS
        found |= (
            {name.split(".")[0]: name}
            if whole
            else {site.split(".")[0]: f"{site.split('.')[0]}.{name}" for site in task.reads}
        )
    return found


def _check_sites(task: type[Task], sites: Mapping[str, str]) -> None:
    from vlsae.enhancement.rows import check_sites

    check_sites(sites, task.reads)


def _trained_by(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides the dictionary's training: of the run that the user named, else of this configuration."""
    names = ("model", "dataset", "extract", "objective", "train", "split", "seed", "limit")
    if not config.get("run"):
        return {name: config[name] for name in names}
    from vlsae.config import load, resolved
    from vlsae.runs import input_run, runs_root

    found = resolved(load(input_run(config["run"], runs_root(config["runs_dir"]), "train").path))
    return {name: found[name] for name in names}
