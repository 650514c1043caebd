"""Concept recovery on the page: methods in a figure, factors in a table."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlsae.reporting.figures import COLORS, Figure, canvas
from vlsae.reporting.numbers import METHODS, text_of

COLUMNS = ("recovery", "recovery_dense", "recovery_random_dense", "recovery_units", "recovery_ceiling")


@dataclass(frozen=True)
class FactorRow:
    """A factor's AUROC by method, and the concept that stands for it."""

    factor: str
    group: str
    positives: str
    concept: str
    streams: str
    f1: str
    auroc: list[str]


def factor_rows(path: Path) -> list[FactorRow]:
    """Return a row for each factor of a run's ``tables/recovery.csv``, none where there is no such file."""
    file = path / "tables" / "recovery.csv"
    if not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as stream:
        by_factor: dict[str, dict[str, dict[str, str]]] = {}
        for row in csv.DictReader(stream):
            by_factor.setdefault(row["factor"], {})[row["method"]] = row
    return [_factor_row(methods) for methods in by_factor.values() if "recovery" in methods]


def recovery_figure(metrics: Mapping[str, Mapping[str, Any]]) -> Figure | None:
    """Return the mean AUROC of each method with its interval, None where recovery was not measured."""
    rows: list[list[Any]] = [
        [title, *(metrics[f"{method}/auroc"].get(part) for part in ("value", "low", "high"))]
        for method, title in METHODS
        if metrics.get(f"{method}/auroc", {}).get("value") is not None
    ]
    if not rows:
        return None
    with canvas("recovery", width=6.0, height=0.8 + 0.35 * len(rows)) as (axes, drawn):
        for place, (_, value, low, high) in enumerate(reversed(rows)):
            color = COLORS[0] if place >= len(rows) - 2 else COLORS[1]
            if low is not None and high is not None:
                axes.plot([low, high], [place, place], color=color, linewidth=2.5, solid_capstyle="round")
            axes.plot([value], [place], "o", color=color, markersize=7)
        axes.set_yticks(range(len(rows)), [row[0] for row in reversed(rows)])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlim(min(0.5, *(row[1] for row in rows)) - 0.02, 1.01)
        axes.set_xlabel("joint AUROC, mean over factors")
    words = "; ".join(f"{title}: {value:.3f}" for title, value, *_ in rows)
    return Figure("recovery", "Concept recovery", drawn, ("method", "auroc", "low", "high"), rows, words)


def _factor_row(methods: Mapping[str, Mapping[str, str]]) -> FactorRow:
    own = methods["recovery"]
    areas = [_number(methods.get(method, {}).get("auroc")) for method in COLUMNS]
    concept = own["concept"]
    return FactorRow(
        own["factor"], own["group"], own["positives"], concept, own["streams"], _number(own.get("f1")), areas
    )


def _number(text: str | None) -> str:
    return text_of(float(text) if text else None)
