"""launcher=slurm and launcher=ray: each job of a sweep on another machine, going on in its own run where it is lost.

A job is told its sweep's folder and its number; what it is to do, and which run it has begun, the record says.
So a job that is requeued, or started again elsewhere, does what `vlsae runs resume` does.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlsae.commands.stage import Request, compose_checked, set_up_logging
from vlsae.errors import UserError

logger = logging.getLogger(__name__)

#: Launchers that start jobs on other machines.
CLUSTERS = ("slurm", "ray")

#: Seconds between two looks at the jobs of a cluster.
LOOK_EVERY = 2.0

#: Seconds before its end at which a job of Slurm is told, to leave time for a checkpoint.
TOLD_BEFORE = 120


@dataclass(frozen=True)
class RemoteJob:
    """One job of a sweep, wherever it runs: begun, or gone on with."""

    folder: str
    number: int
    plugins: tuple[str, ...] = ()
    config_dir: str | None = None
    debug: bool = False

    def __call__(self) -> int:
        """Do the job, close the sweep's record after the last one, and return the exit code."""
        from vlsae import plugins
        from vlsae.commands.resume import finish_job
        from vlsae.reporting.sweep_report import write_sweep_report
        from vlsae.sweep_record import finish_sweep, read_sweep

        set_up_logging(self.debug)
        plugins.load_installed()
        plugins.load(self.plugins)
        folder = Path(self.folder)
        code = finish_job(folder, self.number, None if self.config_dir is None else Path(self.config_dir))
        if all(job["status"] in ("done", "failed") for job in read_sweep(folder)["jobs"]):
            finish_sweep(folder)
            write_sweep_report(folder)
        return code

    def checkpoint(self) -> Any:
        """Return what submitit submits when Slurm ends the job before it is done: the same job, which goes on."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def check(request: Request, launcher: str, settings: Mapping[str, Any], jobs: Sequence[Sequence[str]]) -> None:
    """Refuse, before anything is claimed, what a cluster cannot do."""
    if any(word.startswith("hydra/sweeper=") for word in request.overrides):
        raise UserError(
            f"launcher={launcher} runs jobs that are known from the start, and a sweeper draws them one by one.",
            "Leave out hydra/sweeper, or use launcher=local.",
        )
    if request.detach and launcher != "slurm":
        raise UserError(f"--detach leaves jobs to Slurm, and the launcher is {launcher}.", "Use launcher=slurm.")
    _package(launcher)
    gpus = float(settings["gpus"])
    if launcher == "slurm" and not gpus.is_integer():
        raise UserError(f"launcher.gpus={gpus}: a job of Slurm has whole GPUs.", "Use a whole number.")
    if launcher == "slurm" and settings["cluster"] == "slurm" and shutil.which("sbatch") is None:
        raise UserError(
            "launcher=slurm: there is no sbatch here.",
            "Submit from a machine of the cluster, or try the same with launcher.cluster=local.",
        )
    from vlsae.runs.environment import MASK, mask_arguments

    for words in jobs:
        if any(MASK in masked and MASK not in word for word, masked in zip(words, mask_arguments(words))):
            raise UserError(
                f"launcher={launcher} writes a job's overrides to disk, and one of them is a secret.",
                "Set an environment variable, and name it: logger.KEY='${oc.env:NAME}'.",
            )


def resolve(request: Request, jobs: Sequence[Sequence[str]]) -> None:
    """Fetch and digest the weights and data of every job here: the machines of a cluster are often offline."""
    from vlsae.config import resolved
    from vlsae.runs import runs_root
    from vlsae.stages.launch import describe
    from vlsae.stages.upstream import confirm

    seen: list[Any] = []
    for words in jobs:
        config = resolved(compose_checked(request.stage, words, request.config_dir).config)
        read = (config["model"], config["dataset"])
        if read not in seen:
            seen.append(read)
            confirm(runs_root(config["runs_dir"]), describe(request.stage, config), config)


def run_on_cluster(
    launcher: str, works: Sequence[RemoteJob], settings: Mapping[str, Any], *, detach: bool = False
) -> None:
    """Run jobs on a cluster to their ends; with ``detach`` leave them there.

    Interrupted, it cancels them. How each job ended stands in the sweep's record.
    """
    with _offline():
        if launcher == "slurm":
            _by_slurm(works, settings, detach)
        else:
            _by_ray(works, settings)


def _by_slurm(works: Sequence[RemoteJob], settings: Mapping[str, Any], detach: bool) -> None:
    executor = _executor(Path(works[0].folder) / "jobs", settings)
    if settings["cluster"] == "local" and not detach:
        _in_turns(executor.submit, works, settings["jobs"])
        return
    submitted: list[Any] = []
    for first in range(0, len(works), settings["array"]):
        # Jobs submitted within one batch become one array of Slurm's.
        with executor.batch():
            submitted += [executor.submit(work) for work in works[first : first + settings["array"]]]
    for work, job in zip(works, submitted):
        _note(work, job)
    if not detach:
        _wait(submitted)


def _executor(folder: Path, settings: Mapping[str, Any]) -> Any:
    import submitit

    cluster = settings["cluster"]
    executor = submitit.AutoExecutor(folder, cluster=cluster, **{f"{cluster}_max_num_timeout": settings["requeues"]})
    slurm = {f"slurm_{name}": settings[name] for name in ("partition", "account", "qos") if settings[name] is not None}
    executor.update_parameters(
        name="vlsae",
        timeout_min=settings["time"],
        cpus_per_task=max(1, round(settings["cpus"])),
        mem_gb=settings["memory_gb"],
        gpus_per_node=int(settings["gpus"]),
        slurm_array_parallelism=settings["jobs"],
        slurm_signal_delay_s=TOLD_BEFORE,
        **slurm,
    )
    return executor


def _in_turns(submit: Callable[[RemoteJob], Any], works: Sequence[RemoteJob], most: int) -> None:
    """Submit jobs and wait for them, at most so many at a time."""
    at_work: list[Any] = []
    try:
        for work in works:
            while sum(not job.done() for job in at_work) >= most:
                time.sleep(LOOK_EVERY / 10)
            at_work.append(submit(work))
            _note(work, at_work[-1])
    except KeyboardInterrupt:
        _cancel(at_work)
        raise
    _wait(at_work)


def _wait(submitted: Sequence[Any]) -> None:
    try:
        while not all(job.done() for job in submitted):
            time.sleep(LOOK_EVERY if len(submitted) > 8 else LOOK_EVERY / 10)
    except KeyboardInterrupt:
        _cancel(submitted)
        raise


def _cancel(submitted: Sequence[Any]) -> None:
    logger.warning("cancelling %d jobs", len(submitted))
    for job in submitted:
        job.cancel(check=False)
    # A job that ends itself leaves a better record than one that is cut off.
    end = time.monotonic() + 30
    while time.monotonic() < end and not all(job.done() for job in submitted):
        time.sleep(0.2)


def _note(work: RemoteJob, job: Any) -> None:
    from vlsae.sweep_record import record_job

    record_job(Path(work.folder), work.number, cluster_job=str(job.job_id))
    logger.info("job %d is %s, its log %s", work.number, job.job_id, job.paths.stderr)


def _done(work: RemoteJob) -> int:
    return work()


def _by_ray(works: Sequence[RemoteJob], settings: Mapping[str, Any]) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    own = settings["address"] is None
    here = {"num_cpus": max(1, round(settings["jobs"] * settings["cpus"])), "include_dashboard": False} if own else {}
    ray.init(address=None if own else settings["address"], log_to_driver=True, logging_level=logging.ERROR, **here)
    try:
        task = ray.remote(num_cpus=settings["cpus"], num_gpus=settings["gpus"], max_retries=settings["requeues"])(_done)
        waiting = [task.remote(work) for work in works]
        while waiting:
            ready, waiting = ray.wait(waiting, timeout=LOOK_EVERY)
            for one in ready:
                _look(ray, one)
    finally:
        # Whatever still runs ends with it, as an interrupted run.
        ray.shutdown()


def _look(ray: Any, reference: Any) -> None:
    try:
        ray.get(reference)
    except ray.exceptions.RayError as error:
        logger.error("a job was lost: %s", str(error).splitlines()[0])


def _package(launcher: str) -> None:
    """Raise ``UserError`` where the package behind a launcher is not installed."""
    from importlib.util import find_spec

    package = {"slurm": "submitit", "ray": "ray"}[launcher]
    if find_spec(package) is None:
        raise UserError(
            f"launcher={launcher} needs {package}, which is not installed.", f"pip install 'vlsae[{launcher}]'"
        )


@contextmanager
def _offline() -> Iterator[None]:
    """Within the context jobs inherit that the Hub is not to be asked: what they need was fetched before."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before
