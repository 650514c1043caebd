"""Datasets: a table of everything but the pixels, and the pixels on demand."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlsae.datasets.base import Dataset, Skipped, split_of
    from vlsae.datasets.captions import Captions
    from vlsae.datasets.shapes import Shapes

__all__ = ["Captions", "Dataset", "Shapes", "Skipped", "split_of"]

_HOMES = {"Captions": "captions", "Dataset": "base", "Shapes": "shapes", "Skipped": "base", "split_of": "base"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"vlsae.datasets.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'vlsae.datasets' has no attribute {name!r}")
