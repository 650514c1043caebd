"""The one grammar for naming a run: a path, a run id, ``stage/name/vNNNN``, ``…/latest``."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from vlsae.errors import UserError, nearest
from vlsae.runs.claims import CONFIG
from vlsae.runs.latest import newest_done
from vlsae.runs.listing import entry_of, run_folders
from vlsae.runs.manifest import DONE, FAILED, INTERRUPTED, MANIFEST, effective_status, read_manifest
from vlsae.runs.names import LATEST, SWEEPS, RunId, version_folder, version_number
from vlsae.runs.run import Run

SWEEP = "sweep.json"

#: Which version a folder of versions stands for.
Choose = Callable[[Path], Path]

_LOOSE_VERSION = re.compile(r"v?(\d+)")
_HUB_ID = re.compile(r"(hub:)?[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")


def resolve(reference: str, root: Path, stage: str | None = None) -> Path:
    """Return the run directory that a reference names.

    A reference is a path, or under ``root`` a run id ``stage/name/vNNNN``, ``stage/name/latest`` or ``stage/name``
    (its latest); with ``stage`` also ``name/vNNNN`` and ``name``. Latest is the newest version that is done. Raises
    ``UserError`` with the nearest run ids, for a run of another stage, and for a Hub id, which is no local run.
    """
    text = str(reference).strip().rstrip("/")
    path = _named(text, root, stage, _latest)
    if stage is not None:
        found = read_manifest(path)["stage"]
        if found != stage:
            raise UserError(f"{reference!r} is a run of the stage {found}, expected one of {stage}.")
    return path


def unfinished_run(reference: str, root: Path) -> Path:
    """Return the run directory that a reference names as one to go on with.

    A name without a version, and ``…/latest``, mean its only version that is interrupted or failed; ``UserError`` names
    them where there are several.
    """
    return _named(str(reference).strip().rstrip("/"), root, None, _only_unfinished)


def input_run(reference: str, root: Path, stage: str | None = None) -> Run:
    """Return the run that a reference names, for use as input; ``UserError`` unless it is done."""
    run = Run.load(resolve(reference, root, stage))
    status = effective_status(run.path, run.manifest)
    if status != DONE:
        mend = "Wait for it to end." if status == "running" else f"Finish it by: vlsae runs resume {run.id}"
        raise UserError(f"{run.id} is {status}; only a run that is done can be an input.", mend)
    return run


def run_ids(root: Path, stage: str | None = None) -> list[str]:
    """Return the ids of all runs under a root."""
    folders = run_folders(root, stage)
    return [str(RunId(p.parent.parent.name, p.parent.name, version_number(p.name) or 0)) for p in folders]


def _named(text: str, root: Path, stage: str | None, choose: Choose) -> Path:
    path = _as_path(text, choose) or _as_id(text, root, stage, choose)
    if path is None:
        raise _unknown(text, root, stage)
    return path


def _as_path(text: str, choose: Choose) -> Path | None:
    path = Path(text).expanduser()
    if path.name == MANIFEST and path.is_file():
        return path.parent.resolve()
    if path.name == LATEST and path.parent.is_dir() and _has_versions(path.parent):
        return choose(path.parent)
    if text and ((path / MANIFEST).is_file() or _lost_manifest(path)):
        return path.resolve()
    if text and path.is_dir() and _has_versions(path):
        return choose(path)
    return None


def _lost_manifest(path: Path) -> bool:
    return version_number(path.name) is not None and (path / CONFIG).is_file()


def _as_id(text: str, root: Path, stage: str | None, choose: Choose) -> Path | None:
    parts = text.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return None
    candidates = [parts]
    if stage is not None:
        candidates.append([stage, *parts])
    for words in candidates:
        path = _under(root, words, choose)
        if path is not None:
            return path
    if stage is None and len(parts) == 1:
        return _only_name(text, root, choose)
    return None


def _under(root: Path, words: list[str], choose: Choose) -> Path | None:
    if len(words) not in (2, 3) or words[0] == SWEEPS:
        return None
    folder = root / words[0] / words[1]
    if not folder.is_dir() or not _has_versions(folder):
        return None
    if len(words) == 2 or words[2] == LATEST:
        return choose(folder)
    match = _LOOSE_VERSION.fullmatch(words[2])
    path = folder / version_folder(int(match[1])) if match else None
    return path.resolve() if path is not None and path.is_dir() else None


def _only_name(name: str, root: Path, choose: Choose) -> Path | None:
    folders = sorted({path.parent for path in run_folders(root, name=name)})
    if len(folders) > 1:
        found = ", ".join(f"{folder.parent.name}/{name}" for folder in folders)
        raise UserError(f"{name!r} names runs of several stages: {found}.", "Name one of them.")
    return choose(folders[0]) if folders else None


def _latest(folder: Path) -> Path:
    path = newest_done(folder)
    if path is None:
        name = f"{folder.parent.name}/{folder.name}"
        versions = ", ".join(sorted(child.name for child in folder.iterdir() if version_number(child.name) is not None))
        raise UserError(f"No version of {name} is done, so it has no latest.", f"Name a version: {versions}.")
    return path.resolve()


def _only_unfinished(folder: Path) -> Path:
    found = [entry_of(child) for child in sorted(folder.iterdir()) if version_number(child.name) is not None]
    status = {entry.path: entry.status for entry in found if entry is not None}
    unfinished = [path for path, state in status.items() if state in (INTERRUPTED, FAILED)]
    if len(unfinished) == 1:
        return unfinished[0].resolve()
    name = f"{folder.parent.name}/{folder.name}"
    if unfinished:
        names = ", ".join(f"{path.name} ({status[path]})" for path in unfinished)
        raise UserError(f"Several versions of {name} are unfinished: {names}.", "Name one of them.")
    names = ", ".join(f"{path.name} ({state})" for path, state in status.items())
    raise UserError(f"No version of {name} is interrupted or failed: {names}.", "There is nothing to go on with.")


def _has_versions(folder: Path) -> bool:
    return any(version_number(child.name) is not None for child in folder.iterdir())


def _unknown(text: str, root: Path, stage: str | None) -> UserError:
    known = run_ids(root, stage)
    latest = sorted({f"{run_id.rsplit('/', 1)[0]}/{LATEST}" for run_id in known})
    stages = {run_id.split("/")[0] for run_id in run_ids(root)}
    close = nearest(text, [*known, *latest]) or nearest(f"{stage}/{text}", known)
    message = f"There is no run {text!r} under {root}."
    sweep = root / text if text.startswith(f"{SWEEPS}/") else Path(text)
    if (sweep / SWEEP).is_file():
        return UserError(f"{text!r} is a sweep, not a run.", f"Its runs are listed in {sweep / SWEEP}.")
    if close:
        return UserError(message, f"Did you mean {' or '.join(close)}?")
    if _HUB_ID.fullmatch(text) and text.split("/")[0] not in {*stages, root.name}:
        repository = text.removeprefix("hub:").split("@")[0]
        return UserError(
            f"{message} It reads like a Hub id, and a run on the Hub is not fetched by itself.",
            f"Download it first (hf download {repository} --local-dir FOLDER) and name the folder, "
            "or name a run of your own: vlsae runs list",
        )
    if not known:
        what = f"of the stage {stage} " if stage else ""
        return UserError(message, f"There are no runs {what}yet; VLSAE_RUNS or runs_dir names another folder of runs.")
    return UserError(message, f"Known: {', '.join(known[:10])}{' …' if len(known) > 10 else ''}")
