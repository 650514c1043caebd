"""`vlsae runs resume`: a run goes on in its own directory, a sweep with the jobs that are not done."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import Timeout

from vlsae.commands.failures import BUG, DONE, exit_code, message, worst
from vlsae.commands.stage import compose_checked
from vlsae.errors import UserError
from vlsae.leaving import INTERRUPTED
from vlsae.runs import entries_of
from vlsae.runs.locks import lock_file
from vlsae.runs.manifest import DONE as IS_DONE
from vlsae.runs.manifest import RUNNING
from vlsae.runs.names import LATEST, SWEEPS, version_number
from vlsae.sweep_record import RECORD, finish_sweep, read_sweep, record_job

if TYPE_CHECKING:
    from vlsae.runs import Entry, Run

logger = logging.getLogger(__name__)

RESUME_LOCK = ".resume.lock"


def resume_run(path: Path) -> int:
    """Continue a run in its own directory and say what came out; ``UserError`` for one that is done or at work."""
    from vlsae.commands.announce import announce
    from vlsae.worker import run_stage

    announce(run_stage(path))
    return DONE


def find_sweep(reference: str, root: Path) -> Path | None:
    """Return the sweep that a reference names by path or as ``sweeps/NAME/vNNNN``, None where it names none."""
    text = reference.rstrip("/")
    for path in (Path(text).expanduser(), root / text):
        if (path / RECORD).is_file():
            return path.resolve()
    parts = text.split("/")
    if parts[0] != SWEEPS:
        return None
    folder = root / SWEEPS / parts[1] if len(parts) > 1 else root / SWEEPS
    versions = sorted(path for path in folder.glob("v*") if version_number(path.name) is not None)
    if versions and (len(parts) == 2 or parts[2:] == [LATEST]):
        return max(versions, key=lambda path: version_number(path.name) or 0).resolve()
    known = [path.relative_to(root).parent.as_posix() for path in sorted((root / SWEEPS).glob(f"*/v*/{RECORD}"))]
    raise UserError(f"There is no sweep {text!r} under {root}.", f"Known: {', '.join(known) or 'none'}.")


def resume_sweep(folder: Path, config_dir: Path | None) -> int:
    """Finish the jobs of a sweep that are not done and return the worst exit code.

    A job that was begun goes on in its own directory; one that was not is started. ``UserError`` while one is at work.
    """
    from vlsae.commands.tables import console, sweep_table

    lock = lock_file(folder / RESUME_LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise UserError(f"Another process resumes the sweep in {folder}.", "Wait for it to end.") from error
    try:
        record = read_sweep(folder)
        runs = _runs_of(folder, record)
        working = [str(entry.id) for entry in runs.values() if entry.status == RUNNING]
        if working:
            raise UserError(f"{record['sweep_id']} is at work: {', '.join(working)} is running.", "Wait for its end.")
        code = DONE
        try:
            for job in record["jobs"]:
                code = worst((code, _finish_job(folder, record, job, runs.get(job["job"]), config_dir)))
        finally:
            record = finish_sweep(folder)
    finally:
        lock.release()
    console().print(sweep_table(record))
    return code


def finish_job(folder: Path, number: int, config_dir: Path | None) -> int:
    """Finish one job of a sweep, wherever this process runs, and return its exit code."""
    record = read_sweep(folder)
    job = next(one for one in record["jobs"] if one["job"] == number)
    return _finish_job(folder, record, job, _runs_of(folder, record).get(number), config_dir)


def _runs_of(folder: Path, record: dict[str, Any]) -> dict[int, Entry]:
    # Newest first, so that the first entry of a job is its last attempt.
    runs: dict[int, Entry] = {}
    for entry in entries_of(folder.parents[2], record["stage"]):
        if entry.manifest is not None and entry.manifest["sweep"] == record["sweep_id"]:
            runs.setdefault(entry.manifest["job"], entry)
    return runs


def _finish_job(
    folder: Path, record: dict[str, Any], job: dict[str, Any], entry: Entry | None, config_dir: Path | None
) -> int:
    number = job["job"]
    if entry is not None and entry.status == IS_DONE:
        record_job(folder, number, status="done", run_id=str(entry.id), error=None, exit_code=DONE)
        return DONE
    record_job(folder, number, status="running", run_id=None if entry is None else str(entry.id))
    try:
        run = _start(folder, record, job, config_dir) if entry is None else _go_on(entry)
    except BaseException as error:
        code = exit_code(error)
        # Launchers end a job that is to go on later by SystemExit.
        ended = code == INTERRUPTED or isinstance(error, SystemExit)
        record_job(folder, number, status="interrupted" if ended else "failed", error=message(error), exit_code=code)
        if not isinstance(error, Exception):
            raise
        logger.error("job %d: %s", number, message(error), exc_info=error if code == BUG else None)
        return code
    record_job(folder, number, status="done", run_id=run.id, error=None, exit_code=DONE)
    return DONE


def _go_on(entry: Entry) -> Run:
    from vlsae.worker import run_stage

    logger.info("resuming %s", entry.id)
    return run_stage(entry.path)


def _start(folder: Path, record: dict[str, Any], job: dict[str, Any], config_dir: Path | None) -> Run:
    from vlsae.stages import start

    # The sweep lies under the folder of runs that its jobs go to, wherever it was when the sweep was started.
    overrides = [*job["overrides"], f"runs_dir='{folder.parents[2]}'"]
    composed = compose_checked(record["stage"], overrides, config_dir)
    sweep, number = record["sweep_id"], job["job"]
    return start(composed.config, job["overrides"], record["command"], composed.choices, sweep=sweep, job=number)
