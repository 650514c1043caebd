"""Find, name, measure and use the concepts inside vision-language and language models."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlsae.runs import open_run

__version__ = "0.1.0"

__all__ = ["__version__", "open_run"]


def __getattr__(name: str) -> Any:
    if name == "open_run":
        return importlib.import_module("vlsae.runs").open_run
    raise AttributeError(f"module 'vlsae' has no attribute {name!r}")
