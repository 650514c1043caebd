"""Finding, or making, the runs that a stage reads from."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlsae import ranks
from vlsae.errors import UserError
from vlsae.stages.launch import ASK_ABOVE, Step, describe, execute, stage_module

if TYPE_CHECKING:
    from vlsae.runs import Run

logger = logging.getLogger(__name__)


def find(root: Path, step: Step) -> Run | None:
    """Return the newest finished run of a step, else the newest that holds what it asks for and more.

    The step's own run comes first, so that a command that is gone on with reads from the run it began with.
    """
    from vlsae.runs import find_done

    module = stage_module(step.stage)

    own = find_done(root, step.stage, lambda manifest: manifest["fingerprint"] == step.fingerprint)
    return own or find_done(root, step.stage, lambda manifest: module.serves(step, manifest, root))


def require(stage: str, config: Mapping[str, Any], run: Run) -> Run:
    """Return the upstream run of ``stage`` that ``run`` reads from, made first where it is missing.

    Processes that need the same one wait for the first. Raises :class:`~vlsae.errors.UserError` where
    ``upstream=require`` forbids making it.
    """
    from vlsae.runs import fingerprint_lock, input_run

    if ranks.size() > 1 and not config.get("run"):
        return _recorded(stage, run)
    if config.get("run"):
        named = input_run(config["run"], run.root, stage)
        run.add_parent(named.id)
        return named
    step = describe(stage, config)
    with fingerprint_lock(run.root, step.fingerprint):
        found = None if config["force"] else find(run.root, step)
        if found is None:
            if config["upstream"] == "require":
                raise UserError(
                    f"upstream=require, and no finished {stage} run fits this configuration.",
                    f"Run `vlsae {stage}` with the same settings first, or leave upstream=auto.",
                )
            found = _make(run, step)
        else:
            logger.info("reusing %s", found.id)
    run.add_parent(found.id)
    return found


def _recorded(stage: str, run: Run) -> Run:
    """Return the upstream run that the process which started the ranks has found or made."""
    own = next(one for one in run.manifest["parents"] if one.startswith(f"{stage}/"))
    return type(run).load(run.root / own)


def confirm(root: Path, step: Step, config: Mapping[str, Any]) -> None:
    """Ask before upstream work of more than ten minutes; without a terminal ``--yes`` is needed."""
    if config["assume_yes"] or config["upstream"] == "require" or config.get("run"):
        return
    missing = [parent for parent in step.parents if config["force"] or find(root, parent) is None]
    seconds = {parent.stage: stage_module(parent.stage).estimate(parent.config).seconds or 0.0 for parent in missing}
    if sum(seconds.values()) <= ASK_ABOVE:
        return
    words = ", ".join(f"{stage} (about {value / 60:.0f} minutes)" for stage, value in seconds.items())
    mend = "Go ahead with --yes, look with --dry-run, or make it smaller with --limit N."
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UserError(f"This needs upstream work first: {words}.", mend)
    from rich.prompt import Confirm

    if not Confirm.ask(f"This needs upstream work first: {words}. Go ahead?", default=False):
        raise UserError("Nothing was started.", mend)


def _make(run: Run, step: Step) -> Run:
    from vlsae.config import stored_yaml
    from vlsae.worker import run_stage

    interrupted = _interrupted(run.root, step)
    if interrupted is not None:
        logger.info("resuming %s", interrupted)
        return run_stage(interrupted)
    logger.info("making %s/%s", step.stage, step.name)
    return execute(
        run.root,
        step,
        stored_yaml(step.config),
        run.manifest["overrides"],
        run.manifest["command"],
        run.manifest["choices"],
    )


def _interrupted(root: Path, step: Step) -> Path | None:
    """Return the newest interrupted run of exactly this step, whose finished shards need not be made again."""
    from vlsae.runs import entries_of

    for entry in entries_of(root, step.stage):
        manifest = entry.manifest or {}
        if entry.status == "interrupted" and manifest.get("fingerprint") == step.fingerprint:
            return entry.path
    return None
