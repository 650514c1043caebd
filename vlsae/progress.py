"""Progress of long work: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

logger = logging.getLogger(__name__)

#: Seconds between two lines where there is no terminal.
LINE_EVERY = 10.0


class Advance(Protocol):
    """Report ``amount`` more units done, with a short note such as the loss."""

    def __call__(self, amount: int, note: str = "") -> None: ...


@contextmanager
def progress(label: str, total: int, unit: str, done: int = 0) -> Iterator[Advance]:
    """Show progress of ``total`` units of work, of which ``done`` were done before (a resumed run)."""
    from rich.console import Console

    console = Console(stderr=True)
    # A terminal has room for one bar: what runs in a thread beside others writes lines.
    if console.is_terminal and threading.current_thread() is threading.main_thread():
        with _bar(console, label, total, unit, done) as advance:
            yield advance
    else:
        yield _lines(label, total, unit, done)


@contextmanager
def _bar(console, label: str, total: int, unit: str, done: int) -> Iterator[Advance]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn(f"{unit} " + "{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(label, total=total, completed=done, rate="", note="")
        start, finished = time.monotonic(), 0

        def advance(amount: int, note: str = "") -> None:
            nonlocal finished
            finished += amount
            rate = finished / max(time.monotonic() - start, 1e-9)
            bar.update(task, advance=amount, rate=f"{rate:,.0f}/s", note=note)

        yield advance


def _lines(label: str, total: int, unit: str, done: int) -> Advance:
    start = last = time.monotonic()
    finished = 0

    def advance(amount: int, note: str = "") -> None:
        nonlocal finished, last
        finished += amount
        now = time.monotonic()
        if now - last < LINE_EVERY:
            return
        last = now
        rate = finished / (now - start)
        remaining = (total - done - finished) / max(rate, 1e-9)
        logger.info(
            "%s: %d of %d %s, %.0f/s, %.0f s left %s", label, done + finished, total, unit, rate, remaining, note
        )

    return advance
