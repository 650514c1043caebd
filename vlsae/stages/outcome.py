"""Writing what a stage found into its run: numbers, tables, figures, page."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlsae.result import HeatMap, Plot, Result
    from vlsae.runs import Run


def write_result(run: Run, result: Result, **extra: Any) -> None:
    """Write ``summary.json``, ``result.json``, tables, their pictures and the report of a run.

    ``extra`` goes into the summary.
    """
    from vlsae.reporting import write_report
    from vlsae.runs.results import TABLES, write_pictures, write_result_file, write_table

    for table in result.tables:
        write_table(run.path / TABLES, table.name, table.columns, table.rows)
    content = {
        "notes": list(result.notes),
        "headline": list(result.headline),
        "tables": [
            {
                "name": table.name,
                "title": table.title,
                "description": table.description,
                "shown": table.shown,
                "pictures": write_pictures(run.path, table.name, table.pictures),
            }
            for table in result.tables
        ],
        "plots": [_plot(plot) for plot in result.plots],
    }
    write_result_file(run.path, content)
    run.write_summary(result.metrics, **extra)
    write_report(run.path)


def _plot(plot: Plot | HeatMap) -> dict[str, Any]:
    from vlsae.result import HeatMap

    return {"kind": "heat_map", **asdict(plot)} if isinstance(plot, HeatMap) else asdict(plot)
