"""Operating-system locks: one per run while it works, one per fingerprint while it is made.

The operating system frees a lock when its holder ends, however it ends, so a lock never outlives a killed process.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

RUN_LOCK = "run.lock"
CLAIM_LOCK = ".claim.lock"
# Asking whether a lock is held takes it for a moment; whoever opens a run waits this long before it calls it held.
PATIENCE_SECONDS = 1.0


def lock_file(path: Path) -> FileLock:
    """Return a lock that any thread of the process may release."""
    return FileLock(path, thread_local=False)


def is_held(path: Path) -> bool:
    """Say whether another holder has the lock at a path; a missing lock file is free."""
    if not path.exists():
        return False
    lock = lock_file(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    except OSError:
        # A folder that may only be read: nobody can be asked, and a run in it cannot be continued from here.
        return False
    lock.release()
    return False


@contextmanager
def claim_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of all versions of one run name; for moments only."""
    with lock_file(folder / CLAIM_LOCK):
        yield


@contextmanager
def fingerprint_lock(root: Path, fingerprint: str) -> Iterator[None]:
    """Hold the lock of one fingerprint: the first process makes the run, others wait here and then look again."""
    folder = root / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = lock_file(folder / f"{fingerprint}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        logger.info("Another process makes the same run (fingerprint %s); waiting for it.", fingerprint[:12])
        lock.acquire(poll_interval=0.1)
    try:
        yield
    finally:
        lock.release()
