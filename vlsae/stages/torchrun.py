"""A run's ranks: started by torchrun's own launcher, ended together, and why they ended told to whoever waits."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address
from socket import INADDR_LOOPBACK
from typing import TYPE_CHECKING, Any

from vlsae.errors import UserError

if TYPE_CHECKING:
    from vlsae.runs import Run

#: The machine itself, on which ranks meet.
LOOPBACK = str(IPv4Address(INADDR_LOOPBACK))

#: Where torchrun tells each rank to write why it failed.
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"

#: How a rank ends: by a mistake of the user, a bug, or because another rank has gone.
MISTAKE, BUG, LEFT_ALONE = "mistake", "bug", "left alone"

_CONNECTION = ("Connection closed by peer", "Connection reset", "Connection refused", "Broken pipe", "NCCL", "loo")

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


class RankFailed(RuntimeError):
    """A rank ended by a bug, whose traceback it has shown itself."""


def run_by_ranks(run: Run, count: int, threads: int, plugins: Sequence[str] = ()) -> None:
    """Run the stage of a claimed run in ``count`` processes, each of so many threads, to their end.

    A rank that ends badly ends all of them. Raises ``UserError`` for what a user can mend, a rank that was killed among
    it, :class:`RankFailed` for a bug, and ``KeyboardInterrupt`` where this process is told to end.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint=f"{LOOPBACK}:0",
        local_addr=LOOPBACK,
        max_restarts=0,
        monitor_interval=0.2,
    )
    words = ["-m", "vlsae.worker", str(run.path), *(f"--plugin={name}" for name in plugins)]
    with _signals_kept(), _environment(OMP_NUM_THREADS=str(threads)), _quiet():
        try:
            elastic_launch(config, sys.executable)(*words)
        except SignalException as error:
            raise KeyboardInterrupt(str(error)) from error
        except ChildFailedError as error:
            failures = dict(error.failures)
        else:
            return
    raise _reason(failures, run.id)


def write_failure(error: BaseException) -> None:
    """Write why this rank failed where torchrun and, by it, :func:`run_by_ranks` look for it."""
    from vlsae.runs.run import one_line

    if ERROR_FILE not in os.environ:
        return
    kind = LEFT_ALONE if was_left_alone(error) else MISTAKE if isinstance(error, UserError) else BUG
    facts = {"kind": kind, "text": error.message if isinstance(error, UserError) else one_line(error)}
    facts["mend"] = (error.mend or "") if isinstance(error, UserError) else ""
    with open(os.environ[ERROR_FILE], "w", encoding="utf-8") as file:
        json.dump({"message": json.dumps(facts)}, file)


def was_left_alone(error: BaseException) -> bool:
    """Tell whether an error is the echo of another rank's; that one is gone is told by torch in words alone."""
    from vlsae.training.parts import FoundElsewhere

    return isinstance(error, FoundElsewhere) or _of_connection(error)


def _of_connection(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _CONNECTION)


def _reason(failures: dict[int, Any], run_id: str) -> Exception:
    """Return the error that ended the ranks: the first that is no echo of another rank's end."""
    told = {rank: _told(failure) for rank, failure in failures.items()}
    order = {MISTAKE: 0, BUG: 1, "": 2, LEFT_ALONE: 3}
    rank = min(told, key=lambda one: (order[told[one]["kind"]], failures[one].timestamp))
    facts, code = told[rank], failures[rank].exitcode
    if facts["kind"] == MISTAKE:
        return UserError(facts["text"], facts["mend"] or None)
    if facts["kind"] in (BUG, LEFT_ALONE):
        return RankFailed(f"rank {rank} of {run_id}: {facts['text']}")
    if code < 0:
        return UserError(
            f"Rank {rank} was killed by {signal.Signals(-code).name}; the others were ended.",
            f"Where memory ran out, use a smaller batch or fewer hardware.ranks; `vlsae runs resume {run_id}` goes on.",
        )
    return RankFailed(f"rank {rank} of {run_id} ended with exit code {code}")


def _told(failure: Any) -> dict[str, str]:
    try:
        facts = json.loads(failure.message)
        return {name: str(facts[name]) for name in ("kind", "text", "mend")}
    except (ValueError, TypeError, KeyError):
        return {"kind": "", "text": "", "mend": ""}


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Give back the handlers of signals, which torchrun's launcher replaces by its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Within the context set variables for the processes that are started."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the launcher from telling of a rank's end in its own way."""
    names = [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed")]
    loggers = [logging.getLogger(name) for name in names]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for one, level in zip(loggers, levels):
            one.setLevel(level)
