"""How runs are named: ``stage/name/vNNNN``."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from vlsae.errors import UserError

SWEEPS = "sweeps"
LATEST = "latest"
LONGEST = 200

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_VERSION = re.compile(r"v(\d{4,})")


class RunId(NamedTuple):
    """The three parts of a run id."""

    stage: str
    name: str
    version: int

    def __str__(self) -> str:
        return f"{self.stage}/{self.name}/{version_folder(self.version)}"


def runs_root(value: str | os.PathLike[str] | None = None) -> Path:
    """Return the absolute folder of all runs: the value, else ``VLSAE_RUNS``, else ``runs`` here.

    Raises ``UserError`` for a path that is no text, which libraries that write files cannot take.
    """
    path = Path(os.path.abspath(Path(value or os.environ.get("VLSAE_RUNS") or "runs").expanduser()))
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"The folder of runs {os.fsencode(path)!r} has a name that is no text in UTF-8.",
            "Set VLSAE_RUNS or runs_dir to another folder.",
        ) from error
    return path


def check_name(name: str, what: str = "run name") -> str:
    """Return a name that is safe as a folder; ``UserError`` for any other."""
    reason = None
    if not _NAME.fullmatch(name):
        reason = "Use letters, digits, '-', '_' and '.', the first a letter, a digit or '_'."
    elif len(name) > LONGEST:
        reason = f"Use at most {LONGEST} characters; it has {len(name)}."
    elif name == LATEST or _VERSION.fullmatch(name):
        reason = f"'{LATEST}' and versions such as 'v0001' are names that every run has already."
    if reason is not None:
        raise UserError(f"{name!r} is no valid {what}.", reason)
    return name


def check_stage(stage: str) -> str:
    """Return a stage's name if it can be a folder of runs; ``UserError`` otherwise."""
    if stage == SWEEPS:
        raise UserError(f"{stage!r} is no valid stage.", f"The folder '{SWEEPS}' holds sweeps, not runs.")
    return check_name(stage, "stage")


def version_folder(version: int) -> str:
    """Return a version's folder name: ``v0001``."""
    return f"v{version:04d}"


def version_number(folder: str) -> int | None:
    """Return the number in a version's folder name, None for any other name."""
    match = _VERSION.fullmatch(folder)
    return int(match[1]) if match else None
