"""Work that worker processes do ahead of the model, in order: the same values as without them, and no endless wait."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from vlsae.errors import UserError
from vlsae.representations.reading_threads import TIMEOUT, ReadingThreads, in_time

Item = TypeVar("Item")
Value = TypeVar("Value")


def in_threads(
    function: Callable[[Item], Value], items: Sequence[Item], workers: int, timeout: float = TIMEOUT
) -> Generator[Value, None, None]:
    """Yield a function's values in the order of the items, up to ``workers`` of them computed ahead in threads.

    Raises ``UserError`` for one that takes more than ``timeout`` seconds.
    """
    workers = min(workers, max(1, len(items)))
    with closing(ReadingThreads(workers, "reader")) as threads:
        waiting: deque[Future[Value]] = deque()
        for ahead in range(len(items) + workers):
            if ahead < len(items):
                waiting.append(threads.submit(function, items[ahead]))
            if ahead >= workers and waiting:
                yield in_time(waiting.popleft(), timeout)


def in_processes(
    function: Callable[[Item], Value], items: Sequence[Item], workers: int, timeout: float = TIMEOUT
) -> Generator[Value, None, None]:
    """Yield a function's values in the order of the items, computed ahead in ``workers`` processes.

    Raises what the function raises. A process that ends or hangs raises in the reader of these values, wherever that
    is at work: read them within :func:`explained`.
    """
    import torch
    from torch.utils.data import DataLoader

    loader: DataLoader[bytes] = DataLoader(
        _Work(function, items),  # type: ignore[arg-type]  # whatever has a length and items will do
        batch_size=None,
        num_workers=min(workers, max(1, len(items))),
        collate_fn=_as_it_is,  # type: ignore[arg-type]  # without batches it gets an item
        worker_init_fn=_begin,
        prefetch_factor=1,
        timeout=timeout,
        generator=torch.Generator(),  # its own: workers must not change what is drawn elsewhere
    )
    for answer in loader:
        value = pickle.loads(answer)
        if isinstance(value, _Refusal):
            raise value.error
        yield value


def may_have_children() -> bool:
    """Tell whether this process may start others; the workers of some launchers may not."""
    return not multiprocessing.current_process().daemon


@contextmanager
def explained() -> Iterator[None]:
    """Turn the end or the silence of a worker process into an error that says so."""
    try:
        yield
    except RuntimeError as error:
        words = str(error).strip().splitlines()[0] if str(error).strip() else ""
        if words.startswith("DataLoader timed out"):
            raise UserError(
                f"A worker process did not answer in time while it read images ({words}).",
                "Look at the disk or the network that holds them; hardware.workers=0 reads in this process.",
            ) from error
        if words.startswith("DataLoader worker (pid"):
            raise UserError(
                f"A worker process ended while it read images ({words}).",
                "Where memory ran out, lower hardware.workers or extract.batch_size; hardware.workers=0 reads in this "
                "process. `vlsae runs resume` goes on after the last whole shard.",
            ) from error
        raise


@dataclass(frozen=True)
class _Refusal:
    """A user's mistake that a worker found."""

    error: UserError


@dataclass(frozen=True)
class _Work:
    function: Callable[[Any], Any]
    items: Sequence[Any]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> bytes:
        # Bytes go through a pipe. Tensors would go through shared memory, of which containers have little.
        try:
            return pickle.dumps(self.function(self.items[number]), pickle.HIGHEST_PROTOCOL)
        except UserError as error:
            return pickle.dumps(_Refusal(error))


def _as_it_is(value: bytes) -> bytes:
    return value


def _begin(number: int) -> None:
    # A tokenizer that has used threads before the fork warns at each use unless it is told not to.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent is gone: what it has in the pipe would keep it there for good."""
    parent = multiprocessing.parent_process()
    while parent is not None and os.getppid() == parent.pid:
        time.sleep(1.0)
    os._exit(1)
