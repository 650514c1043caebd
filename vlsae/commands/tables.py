"""How runs are shown on a terminal: rich tables that never read a user's text as markup."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vlsae.runs import Entry, effective_status, entries_of
from vlsae.runs.manifest import is_partial

STYLES = {"done": "green", "running": "cyan", "failed": "red", "interrupted": "yellow", "damaged": "bold red"}
# Piped output is not cut to the width of a terminal that is not there.
PIPED_WIDTH = 200
#: Rows of a stage's table that the terminal shows.
MOST_ROWS = 40

# Signs that a terminal would obey: shown as they are written in Python.
_CONTROLS = {number: f"\\x{number:02x}" for number in (*range(9), *range(11, 32), *range(127, 160))}


def console() -> Console:
    """Return a console on stdout."""
    shown = Console(highlight=False)
    return shown if shown.is_terminal else Console(highlight=False, width=PIPED_WIDTH)


def runs_table(entries: Iterable[Entry]) -> Table:
    """Return the table of ``vlsae runs list``; the fault of a damaged run stands in its last column."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("run", overflow="fold")
    table.add_column("status", no_wrap=True)
    table.add_column("start (UTC)", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("typed, or what is wrong", overflow="fold")
    for entry in entries:
        manifest = entry.manifest or {}
        note = entry.fault or manifest.get("error") or " ".join(map(str, manifest.get("overrides", ())))
        time = duration(entry.start, manifest.get("end"), entry.status == "running") if manifest else ""
        shown = status(entry.status, is_partial(manifest))
        table.add_row(_text(str(entry.id)), shown, _text(entry.start[:19]), time, _text(str(note)))
    return table


def facts_table(path: Path, manifest: Mapping[str, Any], root: Path) -> Table:
    """Return what ``vlsae runs show`` says of a run before its numbers."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("run", _text(manifest["run_id"]))
    table.add_row("path", _text(str(path)))
    table.add_row("status", status(manifest["status"], is_partial(manifest)))
    if manifest["error"]:
        table.add_row("error", _text(manifest["error"], style="red"))
    time = duration(manifest["start"], manifest["end"], manifest["status"] == "running")
    table.add_row("start (UTC)", _text(f"{manifest['start'][:19]}, {time}"))
    table.add_row("command", _text(" ".join(map(str, manifest["command"]))))
    table.add_row("parents", _text(_parents(manifest["parents"], root)))
    if manifest["sweep"]:
        table.add_row("sweep", _text(f"{manifest['sweep']}, job {manifest['job']}"))
    table.add_row("seeds", _text(", ".join(f"{name} {value}" for name, value in manifest["seeds"].items())))
    table.add_row("device", _text(f"{manifest['device']}, {manifest['threads']} threads"))
    table.add_row("commit", _text(manifest["git_commit"] or "none"))
    table.add_row("fingerprint", _text(manifest["fingerprint"]))
    size = sum(entry["bytes"] for entry in manifest["files"])
    table.add_row("files", _text(f"{len(manifest['files'])} with {size:,} bytes"))
    return table


def metrics_table(summary: Mapping[str, Any], title: str | None = None) -> Table:
    """Return the final numbers of a run with their intervals."""
    table = Table(box=box.SIMPLE_HEAD, title=None if title is None else _text(title), title_justify="left")
    table.add_column("metric", overflow="fold")
    for heading in ("value", "95 % interval"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("unit", overflow="fold")
    for name, measure in summary["metrics"].items():
        low, high = measure["low"], measure["high"]
        interval = "" if low is None or high is None else f"{number(low)} to {number(high)}"
        table.add_row(_text(name), number(measure["value"]), interval, _text(measure["unit"]))
    return table


def rows_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """Return a table that a stage found, its first rows where there are many."""
    table = Table(box=box.SIMPLE_HEAD, title=_text(title), title_justify="left")
    for place, heading in enumerate(columns):
        numeric = all(row[place] is None or isinstance(row[place], (int, float)) for row in rows)
        table.add_column(_text(heading), justify="right" if numeric else "left", overflow="fold")
    for row in rows[:MOST_ROWS]:
        table.add_row(*(_text(number(cell) if isinstance(cell, float) else _value(cell)) for cell in row))
    if len(rows) > MOST_ROWS:
        table.caption = f"{len(rows) - MOST_ROWS} more rows in the file"
    return table


def difference_table(title: str, pairs: Mapping[str, tuple[Any, Any]], names: tuple[str, str]) -> Table:
    """Return one part of ``vlsae runs diff``."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for heading in (title, *names):
        table.add_column(_text(heading), overflow="fold")
    for name, (first, second) in pairs.items():
        table.add_row(_text(name), _text(_value(first)), _text(_value(second)))
    return table


def sweep_table(record: Mapping[str, Any]) -> Table:
    """Return the jobs of a sweep's record: what each was asked, and its run or what went wrong."""
    table = Table(box=box.SIMPLE_HEAD, title=_text(record["sweep_id"]), title_justify="left")
    for heading in ("job", "overrides", "status", "run"):
        table.add_column(heading, overflow="fold")
    for job in record["jobs"]:
        outcome = job["run_id"] if job["status"] == "done" else job["error"] or job["run_id"] or ""
        first = outcome.split("\n")[0]
        table.add_row(str(job["job"]), _text(" ".join(job["overrides"])), status(job["status"]), _text(first))
    return table


def status(name: str, partial: bool = False) -> Text:
    """Return a status in its colour."""
    return Text(f"{name} (partial)" if partial else name, style=STYLES.get(name, ""))


def number(value: float | None) -> str:
    """Return a number in a few digits, a whole one in all of them; ``undefined`` where it is null."""
    if value is None:
        return "undefined"
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 1 else f"{value:.4g}"


def duration(start: str, end: str | None, running: bool) -> str:
    """Return how long a run took, or has been at work; nothing where a killed run left no end."""
    if end is None and not running:
        return ""
    last = datetime.fromisoformat(end) if end is not None else datetime.now(timezone.utc)
    seconds = max(0, round((last - datetime.fromisoformat(start)).total_seconds()))
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def _parents(parents: Iterable[str], root: Path) -> str:
    known = {str(entry.id): entry for entry in entries_of(root)} if parents else {}
    words = []
    for parent in parents:
        entry = known.get(parent)
        state = "missing" if entry is None else entry.status
        if entry is not None and entry.manifest is not None:
            state = effective_status(entry.path, entry.manifest)
        words.append(f"{parent} ({state})")
    return ", ".join(words) or "none"


def _value(value: Any) -> str:
    return number(value) if isinstance(value, float) else "—" if value is None else str(value)


def _text(words: str, style: str = "") -> Text:
    """Return a user's words as they stand: neither markup nor a sequence that steers the terminal."""
    return Text(str(words).translate(_CONTROLS), style=style)
