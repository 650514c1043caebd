"""The alignment quality index: how far safe and unsafe inputs lie apart inside a model, with its uncertainty."""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["accumulators", "compare", "composites", "effect", "indices", "layers", "learned", "pooling", "tokens"]


def __getattr__(name: str) -> ModuleType:
    # Imported when first used: learned, pooling and tokens need torch, which the others do not.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")
