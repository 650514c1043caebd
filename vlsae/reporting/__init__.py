"""Reports of runs: one offline page made from the run's own files."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlsae.reporting.report import write_report

__all__ = ["write_report"]


def __getattr__(name: str) -> Any:
    if name == "write_report":
        return importlib.import_module("vlsae.reporting.report").write_report
    raise AttributeError(f"module 'vlsae.reporting' has no attribute {name!r}")
