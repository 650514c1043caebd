"""The end of an interrupted process."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
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
