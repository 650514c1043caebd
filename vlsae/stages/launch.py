"""From a composed configuration to a run: what it needs, what it is, and starting it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vlsae.errors import unknown

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from vlsae.runs import Run

#: Seconds above which making an upstream run asks first.
ASK_ABOVE = 600.0


@dataclass(frozen=True)
class Estimate:
    """What a stage will cost: ``rows``, ``bytes`` written, ``memory`` in bytes, ``seconds``; None where unknown."""

    rows: int | None = None
    bytes: int | None = None
    memory: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Step:
    """One stage of a plan, with the fingerprint by which its run is found again."""

    stage: str
    name: str
    identity: dict[str, Any]
    digests: dict[str, str]
    fingerprint: str
    config: dict[str, Any]
    parents: list[Step] = field(default_factory=list)


def stage_module(stage: str) -> ModuleType:
    """Return the module of a stage; a wrong name is a :class:`~vlsae.errors.UserError`."""
    from vlsae.stages import STAGES

    if stage not in STAGES:
        raise unknown("stage", stage, STAGES)
    return importlib.import_module(STAGES[stage])


def describe(stage: str, config: Mapping[str, Any]) -> Step:
    """Return the step a configuration asks for, with its upstream steps, without touching weights or pixels."""
    from vlsae.runs import fingerprint

    module = stage_module(stage)
    ranks_for(stage, config)
    parents = [describe(name, upstream) for name, upstream in module.parents(config)]
    identity, digests = module.identity(config), module.digests(config)
    digest = fingerprint(stage, module.SCHEMA, identity, [parent.fingerprint for parent in parents], digests)
    name = config["name"] or module.run_name(config)
    return Step(stage, name, identity, digests, digest, {**config, "stage": stage}, parents)


def ranks_for(stage: str, config: Mapping[str, Any]) -> int:
    """Return how many processes share a stage; 1 for one whose work is not divided, whatever its upstream takes.

    ``UserError`` for ranks that are not there and for work that ranks would do wrong.
    """
    from vlsae.stages.hardware import ranks_of

    count = ranks_of(config)
    shared = getattr(stage_module(stage), "shared_by_ranks", None)
    return count if count > 1 and shared is not None and shared(config) else 1


def plan(cfg: DictConfig) -> list[dict[str, Any]]:
    """Return the steps a command would take, upstream first: stage, action, run, and its estimate."""
    from vlsae.config import resolved
    from vlsae.runs import runs_root
    from vlsae.stages.upstream import find

    config = resolved(cfg)
    root = runs_root(config["runs_dir"])
    step = describe(config["stage"], config)
    rows = []
    for parent in _upstream_first(step):
        found = None if parent is step else find(root, parent)
        made = found is None
        estimate = stage_module(parent.stage).estimate(parent.config) if made else Estimate()
        rows.append(
            {
                "stage": parent.stage,
                "action": "make" if made else "reuse",
                "run": f"{parent.stage}/{parent.name}" if found is None else found.id,
                "estimate": estimate,
            }
        )
    return rows


def start(
    cfg: DictConfig,
    overrides: Sequence[str],
    command: Sequence[str],
    choices: Mapping[str, str],
    sweep: str | None = None,
    job: int | None = None,
) -> Run:
    """Claim a run for a composed configuration, run its stage, and return the finished run.

    Whatever the user can mend in the configuration, the weights or the data is raised before a run is claimed.
    """
    from vlsae.config import resolved, stored_yaml
    from vlsae.runs import runs_root
    from vlsae.stages.upstream import confirm

    config = resolved(cfg)
    root = runs_root(config["runs_dir"])
    step = describe(config["stage"], config)
    confirm(root, step, config)
    return execute(root, step, stored_yaml(cfg), overrides, command, choices, sweep, job)


def execute(
    root: Path,
    step: Step,
    config_text: str,
    overrides: Sequence[str],
    command: Sequence[str],
    choices: Mapping[str, str],
    sweep: str | None = None,
    job: int | None = None,
) -> Run:
    """Claim the run of a step and run it to its end."""
    from vlsae.runs import claim
    from vlsae.worker import run_stage

    config = step.config
    run = claim(
        root,
        step.stage,
        step.name,
        command=list(command),
        overrides=list(overrides),
        seeds={"seed": config["seed"], "split.seed": config["split"]["seed"], **_dataset_seed(config)},
        config=config_text,
        identity={**step.identity, "digests": step.digests},
        fingerprint=step.fingerprint,
        parents=[],
        choices=dict(choices),
        sweep=sweep,
        job=job,
    )
    run_stage(run)
    return run


def _dataset_seed(config: Mapping[str, Any]) -> dict[str, int]:
    seed = config["dataset"].get("seed")
    return {} if seed is None else {"dataset.seed": seed}


def _upstream_first(step: Step) -> list[Step]:
    return [earlier for parent in step.parents for earlier in _upstream_first(parent)] + [step]
