"""Sweeps: many runs of one stage from one command, through Hydra's own sweepers and launchers.

``runs/sweeps/<name>/vNNNN/sweep.json`` says what was asked and which runs came of it; the runs themselves are ordinary.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlsae import plugins
from vlsae.commands import cluster
from vlsae.commands.failures import BUG, DONE, exit_code, message, worst
from vlsae.commands.stage import Request, check_parts, command_line, compose_checked, set_up_logging
from vlsae.errors import UserError
from vlsae.leaving import INTERRUPTED
from vlsae.sweep_record import RECORD, claim_sweep, finish_sweep, read_sweep, record_job

if TYPE_CHECKING:
    from omegaconf import DictConfig

logger = logging.getLogger(__name__)

#: Jobs whose configurations are composed before the first one starts; those of larger sweeps are checked as they start.
CHECKED_AHEAD = 64

#: Where Hydra's own classes lie; its node may name no others.
_HYDRA_PACKAGES = ("hydra._internal.core_plugins.", "hydra_plugins.", "optuna.samplers.")


@dataclass(frozen=True)
class Job:
    """What the jobs of a sweep need to know of it, in whatever process they run."""

    sweep: str
    record: str
    command: tuple[str, ...]
    plugins: tuple[str, ...]
    debug: bool


def run_sweep(request: Request, *, dry_run: bool) -> int:
    """Run every job of a sweep and return the worst exit code; errors before the first job are raised."""
    from vlsae.commands.tables import console, sweep_table
    from vlsae.config import resolved
    from vlsae.reporting.sweep_report import write_sweep_report
    from vlsae.runs import runs_root
    from vlsae.stages.launch import stage_module

    jobs = expand(request.overrides)
    first = compose_checked(request.stage, [*jobs[0], *_sweep_options("unused")], request.config_dir)
    check_hydra(first.hydra)
    check_sweeper(request.overrides)
    for words in jobs[1:CHECKED_AHEAD]:
        compose_checked(request.stage, words, request.config_dir)
    if dry_run:
        return _show(request, jobs)
    config, launcher = resolved(first.config), first.choices.get("launcher", "local")
    if launcher in cluster.CLUSTERS:
        cluster.check(request, launcher, config["launcher"], jobs)
        cluster.resolve(request, jobs)
    elif request.detach:
        raise UserError(f"--detach leaves jobs to Slurm, and the launcher is {launcher}.", "Use launcher=slurm.")
    name = config["name"] or stage_module(request.stage).run_name(config)
    folder = claim_sweep(
        runs_root(config["runs_dir"]),
        f"{request.stage}-{name}",
        stage=request.stage,
        command=command_line(),
        overrides=request.overrides,
        jobs=jobs,
        launcher=launcher,
    )
    record = _run_jobs(request, folder, jobs, launcher, config["launcher"])
    if record is None:
        console().print(f"sweep  {folder / RECORD} ({len(jobs)} jobs submitted)", soft_wrap=True)
        return DONE
    page = write_sweep_report(folder)
    shown = console()
    shown.print(sweep_table(record))
    shown.print(f"sweep  {folder / RECORD}", soft_wrap=True)
    shown.print(f"report {page}", soft_wrap=True)
    return worst(int(one["exit_code"]) for one in record["jobs"])


def _run_jobs(
    request: Request, folder: Path, jobs: list[list[str]], launcher: str, options: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Launch the jobs and return the sweep's record when all have ended; None where they were only submitted."""
    job = Job(read_sweep(folder)["sweep_id"], str(folder), tuple(command_line()), request.plugins, request.debug)
    code = BUG
    try:
        if launcher in cluster.CLUSTERS:
            _launch_on_cluster(request, folder, len(jobs), launcher, options)
        elif launcher == "together":
            _launch_together(request, job, jobs, int(options["jobs"]))
        else:
            with tempfile.TemporaryDirectory(prefix="vlsae-sweep-") as scratch:
                _launch(request, job, scratch)
        code = DONE
    except KeyboardInterrupt:
        code = INTERRUPTED
        raise
    finally:
        submitted = request.detach and code == DONE
        record = None if submitted else finish_sweep(folder, interrupted=code == INTERRUPTED)
    return record


def expand(overrides: Sequence[str]) -> list[list[str]]:
    """Return the overrides of each job in the order in which Hydra's basic sweeper runs them.

    Of sweeps over ranges that another sweeper draws from, only the overrides without a sweep are given.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    from vlsae.composition import parse

    parsed = parse(overrides, sweeps=True)
    plain = [one for one in parsed if not one.is_sweep_override() or one.is_discrete_sweep()]
    if len(plain) < len(parsed) and not any(one.key_or_group == "hydra/sweeper" for one in parsed):
        text = next(one.input_line for one in parsed if one not in plain)
        raise UserError(f"{text} is a range to draw from.", "Name the values, or choose a sweeper: hydra/sweeper=…")
    return BasicSweeper.split_arguments(plain, None)[0]


def check_hydra(node: DictConfig) -> None:
    """Raise ``UserError`` where Hydra's own node, which configurations may add to, would reach a foreign callable."""
    from omegaconf import OmegaConf

    content: Any = OmegaConf.to_container(node, resolve=False)
    for path, key, value in _entries(content, "hydra"):
        if key == "_target_" and not str(value).startswith(_HYDRA_PACKAGES):
            raise UserError(f"{path} is {value!r}, which is no launcher or sweeper of Hydra's.", "Remove it.")
        # The standard library's logging configuration calls whatever these name.
        if key in ("()", "class", "factory", "ext"):
            raise UserError(f"{path} is {value!r}, which a configuration may not set.", "Remove it.")
    if content.get("job", {}).get("env_set"):
        raise UserError("hydra.job.env_set may not be set.", "Set environment variables before the command.")


def check_sweeper(overrides: Sequence[str]) -> None:
    """Raise ``UserError`` where a sweeper is asked for whose package is not installed."""
    from importlib.util import find_spec

    if "hydra/sweeper=optuna" in overrides:
        try:
            found = find_spec("hydra_plugins.hydra_optuna_sweeper")
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise UserError(
                "hydra/sweeper=optuna needs a package that is not installed.", "pip install 'vlsae[optuna]'"
            )


def run_job(config: DictConfig, job: Job) -> float | None:
    """Run one job in the process that the launcher made for it; what went wrong is recorded, never raised.

    Returns the number that a sweeper improves (``train.tune``), None where the run has none.
    """
    from hydra.core.hydra_config import HydraConfig

    from vlsae.composition import split_choices

    hydra: Any = HydraConfig.get()
    return _run(config, job, int(hydra.job.num), list(hydra.overrides.task), split_choices(hydra))


def _run(config: DictConfig, job: Job, number: int, overrides: list[str], choices: Mapping[str, str]) -> float | None:
    from vlsae.config import check_composed
    from vlsae.stages import start

    folder = Path(job.record)
    set_up_logging(job.debug)
    plugins.load_installed()
    plugins.load(job.plugins)
    logger.info("job %d: %s", number, " ".join(overrides))
    record_job(folder, number, overrides=overrides, status="running")
    try:
        check_composed(config)
        check_parts(config)
        run = start(config, overrides, job.command, choices, sweep=job.sweep, job=number)
    except BaseException as error:
        _record_failure(folder, number, error, job.debug)
        if not isinstance(error, Exception):
            raise
        return None
    record_job(folder, number, status="done", run_id=run.id, exit_code=DONE)
    return _tuned(run.path, config)


def _tuned(path: Path, config: DictConfig) -> float | None:
    from vlsae.runs.metrics import read_summary

    found = (read_summary(path) or {}).get("metrics", {}).get(config.get("train", {}).get("tune"))
    return None if found is None else found["value"]


def _record_failure(folder: Path, number: int, error: BaseException, debug: bool) -> None:
    code = exit_code(error)
    if debug or code == BUG:
        logger.error("job %d failed", number, exc_info=error)
    else:
        logger.error("job %d: %s", number, message(error))
    status = "interrupted" if code == INTERRUPTED else "failed"
    record_job(folder, number, status=status, error=message(error), exit_code=code)


def _launch(request: Request, job: Job, scratch: str) -> None:
    """Let Hydra run the jobs; it reads its command from ``sys.argv``."""
    import hydra

    from vlsae.composition import VERSION_BASE, sources
    from vlsae.config import config_dir
    from vlsae.groups import own_dir

    def task(config: DictConfig) -> float | None:
        return run_job(config, job)

    words = [request.stage, "--multirun", *request.overrides, *_sweep_options(scratch)]
    with sources(own_dir(request.config_dir)), _arguments(words), _full_errors():
        hydra.main(version_base=VERSION_BASE, config_path=str(config_dir()), config_name=request.stage)(task)()


def _launch_on_cluster(request: Request, folder: Path, jobs: int, launcher: str, settings: Mapping[str, Any]) -> None:
    own = str(request.config_dir.resolve()) if request.config_dir else None
    named = tuple(plugins.references())
    works = [cluster.RemoteJob(str(folder), number, named, own, request.debug) for number in range(jobs)]
    cluster.run_on_cluster(launcher, works, settings, detach=request.detach)


def _launch_together(request: Request, job: Job, jobs: Sequence[Sequence[str]], most: int) -> None:
    """Run the jobs in this process, those that can share a reader in turns."""
    from vlsae.commands.together import run_together

    def run(number: int, words: list[str]) -> None:
        composed = compose_checked(request.stage, words, request.config_dir)
        _run(composed.config, job, number, words, composed.choices)

    run_together(jobs, most, run, request.overrides)


def _sweep_options(scratch: str) -> list[str]:
    """Return the overrides that keep Hydra from writing, logging and changing folders."""
    return [
        f"hydra.sweep.dir='{scratch}'",
        "hydra.sweep.subdir=.",
        "hydra.output_subdir=null",
        "hydra.job.chdir=false",
        "hydra/job_logging=none",
        "hydra/hydra_logging=none",
    ]


@contextmanager
def _arguments(words: Sequence[str]) -> Iterator[None]:
    before, sys.argv = sys.argv, list(words)
    try:
        yield
    finally:
        sys.argv = before


@contextmanager
def _full_errors() -> Iterator[None]:
    """Let Hydra raise what goes wrong instead of printing it and leaving the process."""
    name = "HYDRA_FULL_ERROR"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _entries(node: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield f"{path}.{key}", str(key), value
            yield from _entries(value, f"{path}.{key}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _entries(value, f"{path}[{number}]")


def _show(request: Request, jobs: Sequence[Sequence[str]]) -> int:
    import typer

    from vlsae.commands.dry_run import show, show_plan

    for number, words in enumerate(jobs):
        config = compose_checked(request.stage, words, request.config_dir).config
        typer.echo(f"job {number}: {' '.join(words)}")
        if number == 0:
            show(config)
        else:
            show_plan(config)
    return DONE
