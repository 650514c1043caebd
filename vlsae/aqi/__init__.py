"""The alignment quality index: how far safe and unsafe inputs lie apart inside a model, with its uncertainty."""

from __future__ import annotations

import importlib
from types import ModuleType

_MODULES = ("accumulators", "composites", "effect", "indices", "pooling")

__all__ = ["accumulators", "composites", "effect", "indices", "pooling"]


def __getattr__(name: str) -> ModuleType:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")
