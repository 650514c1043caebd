"""The last lines of a command: what came out and where it lies."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlsae.runs import Run

#: Metrics shown, in this order; a run that has none of them shows all it has.
FIRST = (
    "explained_variance/vision",
    "explained_variance/language",
    "l0/vision",
    "dead/vision",
    "dead/language",
    "consistency",
    "consistency/shuffled",
    "intra_sim",
    "inter_sim",
    "recovery/auroc",
    "recovery_random/auroc",
    "recovery_units/auroc",
    "recovery_pca/auroc",
    "recovery_ceiling/auroc",
)


def announce(run: Run) -> None:
    """Print the run's main numbers and its folder."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    summary = run.path / "summary.json"
    metrics = json.loads(summary.read_text())["metrics"] if summary.exists() else {}
    names = [name for name in FIRST if name in metrics] or list(metrics)
    title = run.id + (" (partial: --limit)" if run.manifest["identity"].get("limit") else "")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("metric", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("95 % interval", justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    for name in names:
        table.add_row(name, *_cells(metrics[name]))
    console.print(table)
    if len(names) < len(metrics):
        console.print(f"{len(metrics) - len(names)} more metrics in summary.json")
    report = run.path / "report.html"
    console.print(f"run    {run.path}", soft_wrap=True)
    if report.exists():
        console.print(f"report {report}", soft_wrap=True)


def _cells(metric: dict) -> tuple[str, str, str]:
    low, high = metric["low"], metric["high"]
    interval = "" if low is None or high is None else f"{low:.3g} to {high:.3g}"
    return _number(metric["value"]), interval, metric["unit"]


def _number(value: float | None) -> str:
    if value is None:
        return "undefined"
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 1 else f"{value:.4g}"
