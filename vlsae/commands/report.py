"""`vlsae report`: write the report page of runs again."""

from __future__ import annotations

from collections.abc import Sequence


def write_reports(references: Sequence[str]) -> int:
    """Write the page of each run and print its path; all references are resolved before the first page is written."""
    import typer

    from vlsae.reporting import write_report
    from vlsae.runs import resolve, runs_root
    from vlsae.runs.inventory import relist

    root = runs_root()
    for path in [resolve(reference, root) for reference in references]:
        page = write_report(path)
        relist(path, _is_written)
        typer.echo(str(page))
    return 0


def _is_written(name: str) -> bool:
    from vlsae.reporting.report import FIGURES, REPORT

    return name == REPORT or name.startswith(f"{FIGURES}/")
