"""How a new run gets its directory: an exclusive mkdir of a version never used before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from vlsae.errors import UserError
from vlsae.runs.environment import (
    default_threads,
    git_commit,
    mask_arguments,
    mask_config,
    mask_values,
    now,
    package_versions,
)
from vlsae.runs.files import write_atomic
from vlsae.runs.latest import check_latest
from vlsae.runs.locks import claim_lock, require_locks
from vlsae.runs.manifest import RUNNING, SCHEMA, write_manifest
from vlsae.runs.names import LATEST, RunId, check_name, check_stage, version_folder, version_number
from vlsae.runs.run import Run

CONFIG = "config.yaml"
OVERRIDES = "overrides.yaml"
# The highest version ever claimed, so that a removed version's number is not given out again.
COUNTER = ".last_version"


def claim(
    root: Path,
    stage: str,
    name: str,
    *,
    command: Iterable[str],
    overrides: Iterable[str],
    seeds: Mapping[str, int],
    config: str,
    identity: Mapping[str, Any],
    fingerprint: str,
    parents: Iterable[str],
    choices: Mapping[str, str | None],
    sweep: str | None = None,
    job: int | None = None,
    reproducible: bool = True,
) -> Run:
    """Make the directory of a new run and return the run, its lock held and its status running.

    ``config`` is the composed configuration as YAML; values of secrets in it, in ``identity``, ``command`` and
    ``overrides`` are masked. Raises ``UserError`` for a name that is no folder name and for a root that cannot be
    written or has no working locks.
    """
    check_stage(stage)
    check_name(name)
    folder = Path(root) / stage / name
    typed = mask_arguments(overrides)
    facts = {
        "device": "cpu",
        "threads": default_threads(),
        "fingerprint": fingerprint,
        "identity": mask_values(identity),
        "seeds": {key: int(value) for key, value in seeds.items()},
        "sweep": sweep,
        "job": job,
        "command": mask_arguments(command),
        "overrides": typed,
        "choices": {group: choice for group, choice in choices.items() if choice is not None},
        "parents": list(dict.fromkeys(parents)),
        "git_commit": git_commit(),
        "packages": package_versions(),
        "reproducible": bool(reproducible),
        "files": [],
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_latest(folder)
        require_locks(folder)
        with claim_lock(folder):
            version, path = _new_version(folder)
            path = path.resolve()
            run_id = str(RunId(stage, name, version))
            head = {"schema": SCHEMA, "run_id": run_id, "stage": stage, "name": name, "version": version}
            times = {"status": RUNNING, "start": now(), "end": None, "error": None}
            run = Run(path, {**head, **times, **facts})
            run.lock()
            write_atomic(path / CONFIG, mask_config(config))
            write_atomic(path / OVERRIDES, yaml.safe_dump(typed, allow_unicode=True))
            write_manifest(path, run.manifest)
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        message = f"No run can be made in {folder}: {error.strerror or error}."
        raise UserError(message, "Set VLSAE_RUNS or runs_dir to a folder that you may write to.") from error
    return run


def _new_version(folder: Path) -> tuple[int, Path]:
    version = last_version(folder) + 1
    while True:
        path = folder / version_folder(version)
        try:
            path.mkdir()
        except FileExistsError:
            # Locks do not reach across every network file system; mkdir does.
            version += 1
            continue
        write_atomic(folder / COUNTER, f"{version}\n")
        return version, path


def last_version(folder: Path) -> int:
    """Return the highest version that was ever claimed in a folder of versions, 0 for none."""
    counter = folder / COUNTER
    try:
        recorded = int(counter.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        recorded = 0
    present = (version_number(child.name) for child in folder.iterdir() if child.name != LATEST)
    return max([recorded, *(number for number in present if number is not None)])
