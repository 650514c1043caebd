"""The relative link ``latest`` beside the versions of a run name: the newest version that is done.

A run of some samples alone (``--limit``) is a trial: it is the latest only while there is no whole one.
"""

from __future__ import annotations

import os
from pathlib import Path

from vlsae.errors import UserError
from vlsae.runs.locks import claim_lock
from vlsae.runs.manifest import DONE, is_partial, read_manifest
from vlsae.runs.names import LATEST, version_number


def newest_done(folder: Path) -> Path | None:
    """Return the directory of the highest version that is done, whole before partial; None without one."""
    numbers = {child: version_number(child.name) for child in folder.iterdir() if not child.is_symlink()}
    versions = sorted((number, child) for child, number in numbers.items() if number is not None)
    partial = None
    for _, child in reversed(versions):
        try:
            manifest = read_manifest(child)
        except UserError:
            continue
        if manifest["status"] != DONE:
            continue
        if not is_partial(manifest):
            return child
        partial = partial or child
    return partial


def check_latest(folder: Path) -> None:
    """Raise ``UserError`` where the place of the link in a folder of versions is taken by a directory."""
    link = folder / LATEST
    if link.is_dir() and not link.is_symlink():
        raise UserError(
            f"{link} is a directory, and vlsae keeps its link to the newest run there.", "Move it elsewhere."
        )


def move_latest(path: Path) -> None:
    """Point ``latest`` beside a run directory at the newest done version, atomically; no version, no link."""
    folder = path.parent
    with claim_lock(folder):
        target = newest_done(folder)
        link = folder / LATEST
        if target is None:
            link.unlink(missing_ok=True)
            return
        temporary = folder / f".{LATEST}.{os.getpid()}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target.name, target_is_directory=True)
        os.replace(temporary, link)
