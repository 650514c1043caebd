"""`--dry-run`: what a command would do and cost, without writing anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def show(config: DictConfig) -> None:
    """Print the composed configuration and the runs it would reuse or make, with rows, bytes, memory and time."""
    import typer

    from vlsae.config import stored_yaml

    typer.echo(stored_yaml(config))
    show_plan(config)


def show_plan(config: DictConfig) -> None:
    """Print the steps of a configuration, upstream first, with their cost."""
    from rich.console import Console
    from rich.table import Table

    from vlsae.stages import plan

    table = Table(title="Plan (nothing is written)", title_justify="left")
    for heading in ("action", "run"):
        table.add_column(heading, overflow="fold")
    for heading in ("rows", "stored", "memory", "time"):
        table.add_column(heading, justify="right")
    for step in plan(config):
        cost = step["estimate"]
        rows = "" if cost.rows is None else f"{cost.rows:,}"
        table.add_row(step["action"], step["run"], rows, size(cost.bytes), size(cost.memory), duration(cost.seconds))
    Console().print(table)


def size(count: int | None) -> str:
    """Return a number of bytes in words; nothing where unknown."""
    if count is None:
        return ""
    value, unit = float(count), 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.0f} {_UNITS[unit]}" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def duration(seconds: float | None) -> str:
    """Return a time in words; nothing where unknown."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
