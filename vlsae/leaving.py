"""The end of an interrupted process."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
import time
from typing import NoReturn

INTERRUPTED = 130


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
