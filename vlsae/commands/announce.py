"""The last lines of a command: what came out and where it lies."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlsae.runs import Run


def announce(run: Run) -> None:
    """Print the run's main numbers and its folder."""
    from vlsae.commands.tables import console, metrics_table, rows_table
    from vlsae.reporting.numbers import HEADLINE
    from vlsae.runs.manifest import is_partial
    from vlsae.runs.metrics import read_summary
    from vlsae.runs.results import TABLES, read_result_file, read_table

    shown = console()
    metrics = (read_summary(run.path) or {"metrics": {}})["metrics"]
    found = read_result_file(run.path) or {"notes": [], "headline": [], "tables": []}
    names = [name for name in found["headline"] or HEADLINE if name in metrics] or list(metrics)
    title = run.id + (" (partial: --limit)" if is_partial(run.manifest) else "")
    shown.print(metrics_table({"metrics": {name: metrics[name] for name in names}}, title))
    if len(names) < len(metrics):
        shown.print(f"{len(metrics) - len(names)} more metrics in summary.json")
    for table in found["tables"]:
        if table["shown"]:
            shown.print(rows_table(table["title"], *read_table(run.path / TABLES, table["name"])))
    for note in found["notes"]:
        shown.print(f"note   {note}", markup=False)
    shown.print(f"run    {run.path}", soft_wrap=True)
    report = run.path / "report.html"
    if report.exists():
        shown.print(f"report {report}", soft_wrap=True)
