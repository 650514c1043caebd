"""What a manifest says about the software that made a run, and how secrets stay out of it."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

import vlsae

PACKAGES = (
    "torch",
    "torchvision",
    "open_clip_torch",
    "transformers",
    "datasets",
    "hydra-core",
    "omegaconf",
    "safetensors",
    "pyarrow",
    "numpy",
    "scipy",
    "scikit-learn",
    "pillow",
    "filelock",
    "accelerate",
    "wandb",
)
MASK = "***"

_SECRET = re.compile(
    r"(^|_|api|access|auth|private)(token|key|secrets?|passwords?|passwd|credentials?)$", re.IGNORECASE
)
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
# An interpolation names where the secret is kept; a default in it would be the secret itself.
_INTERPOLATION = re.compile(r"\$\{[^{},]*(,\s*(null)?\s*)?\}")
_NESTED = re.compile(r"([\w.-]+)(\s*:\s*)(\"[^\"]*\"|'[^']*'|(?:\$\{[^}]*\}|[^,{}\[\]\s])+|\[[^\]]*\])")


def now() -> str:
    """Return the time as ISO 8601 in UTC, to the microsecond so that runs sort by it."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


def package_versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of its main dependencies, those installed."""
    return dict(_package_versions())


@cache
def _package_versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "vlsae": vlsae.__version__}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def git_commit(folder: Path | None = None) -> str | None:
    """Return the commit that a folder's git project stands at, None without git or project."""
    command = ["git", "rev-parse", "--verify", "HEAD"]
    try:
        answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def default_threads() -> int:
    """Return the number of threads that numeric libraries start with here."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def mask_arguments(arguments: Iterable[str]) -> list[str]:
    """Return command-line words with the values of secrets hidden: ``logger.token=abc`` → ``logger.token=***``."""
    masked: list[str] = []
    hide_next = False
    for argument in arguments:
        word = str(argument)
        if hide_next:
            hide_next = False
            masked.append(MASK if not word.startswith("-") else word)
            continue
        key, equals, value = word.partition("=")
        secret = _is_secret(key.lstrip("-+~"))
        hidden = MASK if secret and _is_literal(value) else _NESTED.sub(_mask_nested, value) if "{" in value else value
        masked.append(f"{key}{equals}{hidden}" if equals else word)
        hide_next = secret and not equals and word.startswith("--")
    return masked


def mask_config(text: str) -> str:
    """Return a config's YAML with the values of secrets hidden; text without secrets comes back unchanged."""
    content = yaml.safe_load(text)
    masked = mask_values(content)
    return text if masked == content else yaml.safe_dump(masked, sort_keys=False, allow_unicode=True)


def mask_values(node: Any, secret: bool = False) -> Any:
    """Return nested settings with the values of secrets hidden, all of them below a key that names one."""
    if isinstance(node, Mapping):
        return {key: mask_values(item, secret or _is_secret(str(key))) for key, item in node.items()}
    if isinstance(node, (list, tuple)):
        return [mask_values(item, secret) for item in node]
    if not secret or node is None or isinstance(node, bool):
        return node
    return MASK if _is_literal(str(node)) else node


def _mask_nested(found: re.Match[str]) -> str:
    key, colon, value = found.groups()
    return f"{key}{colon}{MASK if _is_secret(key) and _is_literal(value) else value}"


def _is_secret(key: str) -> bool:
    last = key.rsplit(".", 1)[-1].replace("-", "_")
    return _SECRET.search(_HUMP.sub("_", last)) is not None


def _is_literal(value: str) -> bool:
    before = None
    while before != value:
        before, value = value, _INTERPOLATION.sub("", value)
    return value not in ("", "null")
