"""A run's facts and what it was made from, as its report tells them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vlsae.errors import UserError
from vlsae.runs.manifest import read_manifest

#: Generations of parents that are looked up.
DEEPEST = 8


@dataclass(frozen=True)
class Ancestor:
    """A run that another was made from; ``path`` is None where its directory is not at hand."""

    run_id: str
    path: Path | None
    link: str | None
    status: str
    parents: list[Ancestor] = field(default_factory=list)


def lineage(path: Path, manifest: Mapping[str, Any], folder: Path | None = None) -> list[Ancestor]:
    """Return a run's parents with their own, links relative to the folder of the page, by default the run's own."""
    root = path.parents[2]
    return [_ancestor(run_id, root, folder or path, 1) for run_id in manifest["parents"]]


def everyone(ancestors: list[Ancestor]) -> list[Ancestor]:
    """Return the ancestors of all generations, nearest first."""
    nearest = list(ancestors)
    for ancestor in ancestors:
        nearest += everyone(ancestor.parents)
    return nearest


def configuration(path: Path) -> dict[str, Any]:
    """Return a run's ``config.yaml`` as plain values, empty where there is none to read."""
    try:
        config = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}


def is_demonstration(config: Mapping[str, Any]) -> bool:
    """Tell whether a run used a model that ships with the package."""
    model = config.get("model")
    return isinstance(model, dict) and model.get("checkpoint") == "bundled"


def facts(manifest: Mapping[str, Any], config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what the head of the page says of a run, name and text."""
    seeds = ", ".join(f"{name} {value}" for name, value in manifest["seeds"].items())
    choices = ", ".join(f"{group} {choice}" for group, choice in manifest.get("choices", {}).items())
    packages = manifest["packages"]
    shown = ("vlsae", "torch", "numpy", "open_clip_torch", "transformers")
    rows = [
        ("Command", " ".join(manifest["command"])),
        ("Choices", choices),
        ("Started", str(manifest["start"]).split(".")[0].replace("T", " ").removesuffix("+00:00") + " UTC"),
        ("Device", f"{manifest['device']}, {manifest['threads']} thread{'s' * (manifest['threads'] != 1)}"),
        ("Seeds", seeds),
        ("Limit", "" if config.get("limit") is None else f"{config['limit']} samples"),
        ("Reproducible", "yes" if manifest["reproducible"] else "no"),
        ("Sweep", "" if manifest["sweep"] is None else f"{manifest['sweep']}, job {manifest['job']}"),
        ("Git commit", str(manifest["git_commit"] or "")[:12]),
        ("Packages", ", ".join(f"{name} {packages[name]}" for name in shown if name in packages)),
        ("Fingerprint", str(manifest["fingerprint"])[:16]),
        ("Error", str(manifest["error"] or "")),
    ]
    return [(name, text) for name, text in rows if text]


def _ancestor(run_id: str, root: Path, path: Path, depth: int) -> Ancestor:
    folder = root / run_id
    try:
        manifest = read_manifest(folder)
    except UserError:
        return Ancestor(run_id, None, None, "not found")
    target = next((folder / name for name in ("report.html", "manifest.json") if (folder / name).is_file()), folder)
    link = Path(os.path.relpath(target, path)).as_posix()
    parents = []
    if depth < DEEPEST:
        parents = [_ancestor(parent, root, path, depth + 1) for parent in manifest["parents"]]
    return Ancestor(run_id, folder, link, str(manifest["status"]), parents)
