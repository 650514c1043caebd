"""Reports of runs: one offline page made from the run's own files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlsae import lazy

if TYPE_CHECKING:
    from vlsae.reporting.report import write_report

_HOMES = {"write_report": "report"}

__all__ = ["write_report"]

__getattr__ = lazy.exports(__name__, _HOMES)
