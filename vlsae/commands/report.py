"""`vlsae report`: the page of a run or a sweep, of several runs side by side, or everything in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlsae.reporting.privacy import Privacy


def write_reports(
    references: Sequence[str], *, full: bool = False, media: bool = True, redact: bool = False, names: str | None = None
) -> int:
    """Write the page that was asked for and print its path; every reference is resolved before anything is written.

    One run: its own page, or with ``full`` its folder. A sweep: its page. Several runs: their pages and one of all side
    by side, whose path is printed last.
    """
    import typer

    from vlsae.commands.resume import find_sweep
    from vlsae.errors import UserError
    from vlsae.reporting.comparison import comparison_folder, write_comparison
    from vlsae.reporting.privacy import Privacy
    from vlsae.reporting.sweep_report import write_sweep_report
    from vlsae.runs import resolve, runs_root

    root = runs_root()
    privacy = Privacy(media, redact)
    if names is not None and len(references) > 1:
        raise UserError("--names goes with one run.", "Name one run, or leave out --names.")
    source = None if names is None else _names_source(names, root)
    sweeps = [find_sweep(reference, root) for reference in references]
    found = [(sweep, sweep or resolve(reference, root)) for reference, sweep in zip(references, sweeps, strict=True)]
    for sweep, path in found:
        typer.echo(str(write_sweep_report(path, privacy=privacy) if sweep else _page(path, full, privacy, source)))
    runs = [path for sweep, path in found if sweep is None]
    if len(runs) > 1:
        typer.echo(str(write_comparison(runs, comparison_folder(root, runs), privacy=privacy)))
    return 0


def _page(path: Path, full: bool, privacy: Privacy, names: Path | None) -> Path:
    from vlsae.reporting import write_report
    from vlsae.reporting.full import write_full
    from vlsae.runs.inventory import relist

    page = (write_full if full else write_report)(path, privacy=privacy, names=names)
    relist(path, _is_written)
    return page


def _names_source(reference: str, root: Path) -> Path:
    """Return what ``--names`` means: a CSV file, or a run that holds names."""
    from vlsae.runs import resolve

    file = Path(reference).expanduser()
    return file if file.is_file() else resolve(reference, root)


def _is_written(name: str) -> bool:
    from vlsae.reporting.full import is_full
    from vlsae.reporting.report import FIGURES, REPORT

    return name == REPORT or name.startswith(f"{FIGURES}/") or is_full(name)
