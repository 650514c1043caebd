"""Threads that read ahead, and that neither hold up the end of the process nor wait for one that hangs."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from vlsae.errors import UserError

Value = TypeVar("Value")

#: Seconds in which a batch must have been prepared.
TIMEOUT = 300.0

Task = tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]


class ReadingThreads:
    """Threads to which functions are given; they end with this object, each after what it is at."""

    def __init__(self, count: int, name: str) -> None:
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        for number in range(count):
            # A thread that hangs must not keep the process from its end, as those of an executor do.
            threading.Thread(target=_work, args=(self._tasks,), name=f"{name}-{number}", daemon=True).start()
        self.close = weakref.finalize(self, _end, self._tasks, count)

    def submit(self, function: Callable[..., Value], *arguments: Any) -> Future[Value]:
        """Have a function called in one of the threads."""
        future: Future[Value] = Future()
        self._tasks.put((future, function, arguments))
        return future


def in_time(future: Future[Value], timeout: float = TIMEOUT) -> Value:
    """Return a future's value; ``UserError`` where it is not there after ``timeout`` seconds."""
    try:
        return future.result(timeout)
    except FutureTimeout as error:
        if future.done():
            raise
        raise UserError(
            f"The thread that reads the samples did not answer in time: no batch after {timeout:g} seconds.",
            "Look at the disk or the network that holds them, or at the dataset's own code.",
        ) from error


def _work(tasks: SimpleQueue[Task | None]) -> None:
    while (task := tasks.get()) is not None:
        future, function, arguments = task
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(function(*arguments))
            except BaseException as error:
                future.set_exception(error)
        del task, future, function, arguments


def _end(tasks: SimpleQueue[Task | None], count: int) -> None:
    with suppress(Empty):
        while (task := tasks.get_nowait()) is not None:
            task[0].cancel()
    for _ in range(count):
        tasks.put(None)
