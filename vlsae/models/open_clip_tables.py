"""open_clip's own lists of architectures and of trained weights, read without importing open_clip.

``import open_clip`` costs about six CPU seconds, and a run is fingerprinted (so its weights are found) before anyone
knows whether the model is needed at all.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vlsae.errors import unknown

_ALIAS = "_vlsae_open_clip"


@cache
def _home() -> Path:
    spec = find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("open_clip_torch is not installed")
    return Path(next(iter(spec.submodule_search_locations)))


@cache
def pretrained_module() -> Any:
    """Return ``open_clip.pretrained``, loaded under a package name of our own so that ``open_clip`` is not run."""
    if "open_clip.pretrained" in sys.modules:
        return sys.modules["open_clip.pretrained"]
    package = types.ModuleType(_ALIAS)
    package.__path__ = [str(_home())]
    sys.modules[_ALIAS] = package
    return importlib.import_module(f"{_ALIAS}.pretrained")


@cache
def architectures() -> tuple[str, ...]:
    """Return the names of the architectures that open_clip describes."""
    return tuple(sorted(path.stem for path in (_home() / "model_configs").glob("*.json")))


def architecture_config(name: str) -> dict[str, Any]:
    """Return the model configuration of an architecture.

    Raises:
        UserError: open_clip describes no such architecture; the nearest names are given.
    """
    if name not in architectures():
        raise unknown("open_clip architecture", name, architectures())
    return json.loads((_home() / "model_configs" / f"{name}.json").read_text(encoding="utf-8"))


def tags(architecture: str) -> list[str]:
    """Return the tags of the weights that open_clip lists for an architecture."""
    return list(pretrained_module().list_pretrained_tags_by_model(architecture))


def is_listed(architecture: str, tag: str) -> bool:
    """Tell whether open_clip lists weights under this pair."""
    return architecture in architectures() and bool(pretrained_module().is_pretrained_cfg(architecture, tag))


def tag_config(architecture: str, tag: str) -> dict[str, Any]:
    """Return where the weights of a listed pair lie and how their images were preprocessed.

    Raises:
        UserError: open_clip lists no such architecture or tag; the nearest names are given.
    """
    architecture_config(architecture)
    if not is_listed(architecture, tag):
        raise unknown(f"open_clip tag of {architecture}", tag, tags(architecture))
    return dict(pretrained_module().get_pretrained_cfg(architecture, tag))
