"""The end of an interrupted process."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

INTERRUPTED = 130

#: Seconds after which an interruption that Python dropped comes again.
AGAIN_SECONDS = 0.05


@contextmanager
def interruptions_kept(number: int) -> Iterator[None]:
    """Send the process signal ``number`` again where Python drops the interruption that it raised.

    Whatever is raised while a finalizer or a callback runs goes to ``sys.unraisablehook`` and no further, so that a
    process in the midst of one would work on.
    """
    before = sys.unraisablehook

    def again(dropped: Any) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            before(dropped)
            return
        later = threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), number))
        later.daemon = True
        later.start()

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = before


def leave(code: int) -> NoReturn:
    """End an interrupted process with its exit code, its output written and its clean-up done.

    CPython ends a process as killed by SIGINT, whatever code it returns, where the signal came while a string of code
    was executed, as happens within imports; and another Ctrl-C would show a traceback of the clean-up.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    atexit._run_exitfuncs()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def end_with_parent(every: float = 1.0) -> None:
    """End this process, from a thread beside its work, soon after the process that started it is gone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(every)
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
