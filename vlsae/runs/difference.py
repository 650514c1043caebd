"""In what two runs differ: configuration, packages and final numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from vlsae.errors import UserError
from vlsae.runs.claims import CONFIG
from vlsae.runs.manifest import read_manifest
from vlsae.runs.metrics import read_summary

Pair = tuple[Any, Any]


def read_config(path: Path) -> dict[str, Any]:
    """Return a run directory's ``config.yaml`` as it stands, interpolations unresolved; empty without one."""
    file = path / CONFIG
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is damaged: {str(error).splitlines()[0]}") from error
    return config if isinstance(config, dict) else {}


def differences(first: Path, second: Path) -> dict[str, dict[str, Pair]]:
    """Return what differs in ``config``, ``facts``, ``packages``, ``metrics``: name → (first, second), None absent."""
    manifests = read_manifest(first), read_manifest(second)
    facts = ("git_commit", "device", "threads", "parents")
    return {
        "config": _differing(flat(read_config(first)), flat(read_config(second))),
        "facts": _differing(*({name: manifest[name] for name in facts} for manifest in manifests)),
        "packages": _differing(*(manifest["packages"] for manifest in manifests)),
        "metrics": _differing(_numbers(first), _numbers(second)),
    }


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return a nested configuration as ``{"objective.k": 32, …}``."""
    if not isinstance(config, Mapping) or not config:
        return {prefix: config} if prefix else {}
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        leaves.update(flat(value, f"{prefix}.{key}" if prefix else str(key)))
    return leaves


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Pair]:
    names = [*first, *(name for name in second if name not in first)]
    pairs = {name: (first.get(name), second.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if not _equal(*pair) or (name in first) != (name in second)}


def _equal(first: Any, second: Any) -> bool:
    undefined = first != first and second != second
    return undefined or first == second


def _numbers(path: Path) -> dict[str, Any]:
    summary = read_summary(path) or {"metrics": {}}
    return {name: measure["value"] for name, measure in summary["metrics"].items()}
