"""Operating-system locks: one per run while it works, one per fingerprint while it is made.

The operating system frees a lock when its holder ends, however it ends, so a lock never outlives a killed process.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from vlsae.errors import UserError

logger = logging.getLogger(__name__)

RUN_LOCK = "run.lock"
CLAIM_LOCK = ".claim.lock"
# Asking whether a lock is held shares it for a moment; whoever opens a run waits this long before it calls it held.
PATIENCE_SECONDS = 1.0


def require_locks(folder: Path) -> None:
    """Raise ``UserError`` where locks in a folder do not keep others out: two runs would write into each other.

    Whether another machine is kept out cannot be seen from one.
    """
    reason = _fault_of_locks(folder / CLAIM_LOCK)
    if reason is not None:
        raise UserError(
            f"{folder} lies on a file system whose locks do not work ({reason}).",
            "Set VLSAE_RUNS or runs_dir to a local disk, or to one mounted with locks (NFS without nolock, Lustre with "
            "flock).",
        )


def _fault_of_locks(path: Path) -> str | None:
    """Lock a file twice, which must fail the second time, and return what is wrong, None where nothing is."""
    descriptors = [os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666) for _ in range(2)]
    try:
        for descriptor in descriptors:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except OSError as error:
        return error.strerror or str(error)
    else:
        return "two holders have the same lock"
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def lock_file(path: Path) -> FileLock:
    """Return a lock that any thread of the process may release."""
    return FileLock(path, thread_local=False)


def is_held(path: Path) -> bool:
    """Say whether another holder has the lock at a path; a missing lock file is free."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # Shared, so that two who ask at the same moment do not take each other for a holder.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        # Unlocked by name: a child forked meanwhile has the descriptor too, and closing ours would leave it locked.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:
        return _is_held_exclusively(path)
    finally:
        os.close(descriptor)
    return False


def _is_held_exclusively(path: Path) -> bool:
    # A file system without such locks, where filelock has a way of its own.
    lock = lock_file(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    except OSError:
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
