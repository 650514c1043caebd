"""``sweep.json``: what a sweep was asked for and which runs came of it, kept true while jobs run side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlsae.errors import MissingFile, UserError

RECORD = "sweep.json"
SCHEMA = 1


def claim_sweep(
    root: Path,
    name: str,
    *,
    stage: str,
    command: Sequence[str],
    overrides: Sequence[str],
    jobs: Sequence[Sequence[str]],
    launcher: str,
) -> Path:
    """Make the directory ``sweeps/<name>/vNNNN`` of a new sweep, by exclusive mkdir, and return it."""
    from vlsae.runs.environment import mask_arguments, now
    from vlsae.runs.files import write_json
    from vlsae.runs.names import SWEEPS, check_name, version_folder, version_number

    folder = root / SWEEPS / check_name(name, "sweep name")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        version = max((version_number(child.name) or 0 for child in folder.iterdir()), default=0) + 1
        while True:
            path = folder / version_folder(version)
            try:
                path.mkdir()
                break
            except FileExistsError:
                version += 1
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        mend = "Set VLSAE_RUNS or runs_dir to a folder that you may write to."
        raise UserError(f"No sweep can be made in {folder}: {error.strerror or error}.", mend) from error
    record = {
        "schema": SCHEMA,
        "sweep_id": f"{SWEEPS}/{name}/{path.name}",
        "stage": stage,
        "name": name,
        "version": version,
        "status": "running",
        "launcher": launcher,
        "command": mask_arguments(command),
        "overrides": mask_arguments(overrides),
        "start": now(),
        "end": None,
        "jobs": [_job(number, mask_arguments(job)) for number, job in enumerate(jobs)],
    }
    write_json(path / RECORD, record)
    return path


def read_sweep(folder: Path) -> dict[str, Any]:
    """Return the record of a sweep; ``MissingFile`` where there is none, ``UserError`` where it is damaged."""
    from vlsae.runs.files import load_json

    path = folder / RECORD
    if not path.is_file():
        raise MissingFile(f"There is no sweep in {folder}.")
    try:
        record = load_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("jobs"), list):
        raise UserError(f"{path} is damaged: it lists no jobs.")
    return record


def record_job(folder: Path, number: int, **facts: Any) -> None:
    """Note facts of one job, from whatever process it runs in."""
    from vlsae.runs.environment import mask_arguments
    from vlsae.runs.files import write_json
    from vlsae.runs.locks import lock_file

    if "overrides" in facts:
        facts["overrides"] = mask_arguments(facts["overrides"])
    with lock_file(folder / ".sweep.lock"):
        record = read_sweep(folder)
        jobs = {one["job"]: one for one in record["jobs"]}
        jobs[number] = {**jobs.get(number, _job(number, [])), **facts}
        record["jobs"] = [jobs[key] for key in sorted(jobs)]
        write_json(folder / RECORD, record)


def finish_sweep(folder: Path, interrupted: bool = False) -> dict[str, Any]:
    """Close the record of a sweep: the runs of failed jobs are looked up, and its status follows from the jobs'."""
    from vlsae.runs import entries_of
    from vlsae.runs.environment import now
    from vlsae.runs.files import write_json
    from vlsae.runs.locks import lock_file

    with lock_file(folder / ".sweep.lock"):
        record = read_sweep(folder)
        found = {
            entry.manifest["job"]: str(entry.id)
            for entry in entries_of(folder.parents[2], record["stage"])
            if entry.manifest is not None and entry.manifest["sweep"] == record["sweep_id"]
        }
        for job in record["jobs"]:
            job["run_id"] = job["run_id"] or found.get(job["job"])
            if job["status"] == "running":
                job["status"] = "interrupted"
        statuses = {job["status"] for job in record["jobs"]}
        unfinished = interrupted or statuses & {"interrupted", "waiting"}
        record["status"] = "interrupted" if unfinished else "failed" if "failed" in statuses else "done"
        record["end"] = now()
        write_json(folder / RECORD, record)
    return record


def _job(number: int, overrides: Sequence[str]) -> dict[str, Any]:
    return {
        "job": number,
        "overrides": list(overrides),
        "run_id": None,
        "status": "waiting",
        "error": None,
        "exit_code": 130,
    }
