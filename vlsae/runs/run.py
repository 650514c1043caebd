"""A run: its directory, its manifest, and the lock that says a process is working in it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from filelock import Timeout

from vlsae.errors import UserError
from vlsae.runs.environment import mask_values, now, package_versions
from vlsae.runs.files import remove_temporary
from vlsae.runs.inventory import KnownDigest, inventory, know
from vlsae.runs.latest import move_latest
from vlsae.runs.locks import PATIENCE_SECONDS, RUN_LOCK, is_held, lock_file, require_locks
from vlsae.runs.manifest import DONE, FAILED, INTERRUPTED, RUNNING, read_manifest, write_manifest
from vlsae.runs.metrics import MetricsLog, write_summary

logger = logging.getLogger(__name__)


class Run:
    """A run directory; whoever writes into it holds its lock."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self._lock = lock_file(path / RUN_LOCK)
        self._metrics = MetricsLog(path)
        self._known: dict[str, KnownDigest] = {}
        self._lent = False

    @classmethod
    def load(cls, path: Path) -> Run:
        """Return a run to read from; ``MissingFile`` or ``DamagedRun`` where there is none."""
        place = path.resolve()
        return cls(place, read_manifest(place))

    @classmethod
    def open(cls, path: Path) -> Run:
        """Take the lock of a run that is not done and set it running again.

        Raises ``UserError`` when another process works in it or when it is done.
        """
        run = cls.load(path)
        require_locks(run.path.parent)
        run.lock()
        try:
            run.manifest = read_manifest(run.path)
            if run.manifest["status"] == DONE:
                raise UserError(f"{run.id} is done; nothing is left to resume.", "Start a new run for a new result.")
            run._warn_of_changed_packages()
            remove_temporary(run.path)
            run._update(status=RUNNING, end=None, error=None, files=[])
        except BaseException:
            run.release()
            raise
        return run

    @classmethod
    def lent(cls, path: Path, *, writes: bool) -> Run:
        """Return a run to work in while the process that started this one holds its lock; some only seem to write.

        Raises ``UserError`` where nobody holds it.
        """
        run = (cls if writes else _Watched).load(path)
        if not is_held(run.path / RUN_LOCK):
            raise UserError(f"No process holds {run.id}.", f"Use `vlsae runs resume {run.id}`, which starts the ranks.")
        run._lent = True
        return run

    @property
    def id(self) -> str:
        """The run id, ``stage/name/vNNNN``."""
        return str(self.manifest["run_id"])

    @property
    def root(self) -> Path:
        """The folder of all runs that this one lies in."""
        return self.path.parents[2]

    @property
    def stage(self) -> str:
        """The stage that made the run."""
        return str(self.manifest["stage"])

    @property
    def held(self) -> bool:
        """Whether this object holds the run's lock."""
        return self._lock.is_locked

    def lock(self) -> None:
        """Take the run's lock; ``UserError`` when another process holds it."""
        try:
            self._lock.acquire(timeout=PATIENCE_SECONDS)
        except Timeout as error:
            message = f"{self.id} is running: another process holds {self.path / RUN_LOCK}."
            raise UserError(message, "Wait for it to end, or stop it first.") from error

    def release(self) -> None:
        """Free the run's lock, for whoever goes on with the run."""
        self._lock.release(force=True)

    def set_device(self, device: str, threads: int) -> None:
        """Record on what the run computes; only on a CPU does the same command give the same numbers bit by bit."""
        reproducible = self.manifest["reproducible"] and str(device) == "cpu"
        self._update(device=str(device), threads=int(threads), reproducible=reproducible)

    def not_reproducible(self) -> None:
        """Record that the same command need not give the same numbers bit by bit."""
        if self.manifest["reproducible"]:
            self._update(reproducible=False)

    def set_fingerprint(self, fingerprint: str, identity: Mapping[str, Any]) -> None:
        """Record the fingerprint and the identity it was made from, once all of it is known."""
        self._update(fingerprint=fingerprint, identity=mask_values(identity))

    def add_parent(self, run_id: str) -> None:
        """Record a run that this one reads from; once is enough."""
        if run_id not in self.manifest["parents"]:
            self._update(parents=[*self.manifest["parents"], run_id])

    def log_metrics(self, step: int, epoch: float, split: str, **values: Any) -> None:
        """Append one line to ``metrics.jsonl``; numbers that are not finite become null."""
        self._must_hold()
        self._metrics.append(step, epoch, split, values)

    def truncate_metrics(self, step: int, name: str | None = None) -> None:
        """Drop the lines of ``metrics.jsonl`` after the step that training goes on from; ``name``: that hold it."""
        self._must_hold()
        self._metrics.truncate(step, name)

    def write_summary(self, metrics: Mapping[str, Any], **extra: Any) -> None:
        """Write ``summary.json``: a ``Measure`` or a plain number a name, and further fields beside ``metrics``."""
        self._must_hold()
        write_summary(self.path, self.id, metrics, extra)

    def know_digests(self, digests: Mapping[str, str]) -> None:
        """Hand over SHA-256 of files just written (relative path → hex); ``finish`` does not read them again."""
        self._known.update({name: know(self.path / name, digest) for name, digest in digests.items()})

    def finish(self) -> None:
        """Hash the files, set the status done, free the lock and move ``latest``."""
        files = inventory(self.path, self._known)
        self._update(status=DONE, end=now(), error=None, files=files)
        self.release()
        move_latest(self.path)

    def fail(self, error: BaseException | str) -> None:
        """Record the error in one line, set the status failed and free the lock."""
        self._end(FAILED, one_line(error))

    def interrupt(self) -> None:
        """Set the status interrupted and free the lock; the run can be resumed."""
        self._end(INTERRUPTED, None)

    def _end(self, status: str, error: str | None) -> None:
        self._update(status=status, end=now(), error=error, files=[])
        self.release()

    def _update(self, **fields: Any) -> None:
        self._must_hold()
        manifest = {**self.manifest, **fields}
        write_manifest(self.path, manifest)
        self.manifest = manifest

    def refresh(self) -> None:
        """Read what another process to which the run was lent has noted in its manifest."""
        self.manifest = read_manifest(self.path)

    def _must_hold(self) -> None:
        if not self.held and not self._lent:
            raise RuntimeError(f"{self.id} is written to without its lock; open it by Run.open.")

    def _warn_of_changed_packages(self) -> None:
        before, here = self.manifest["packages"], package_versions()
        changed = [f"{name} {before.get(name)} → {here.get(name)}" for name in _differing(before, here)]
        if changed:
            logger.warning("%s is resumed with other versions: %s.", self.id, ", ".join(changed))


class _Watched(Run):
    """A run that another rank writes: what this one has to say of it is left out."""

    def log_metrics(self, step: int, epoch: float, split: str, **values: Any) -> None:
        """Do nothing."""

    def truncate_metrics(self, step: int, name: str | None = None) -> None:
        """Do nothing."""

    def write_summary(self, metrics: Mapping[str, Any], **extra: Any) -> None:
        """Do nothing."""

    def _update(self, **fields: Any) -> None:
        self.manifest = {**self.manifest, **fields}


def one_line(error: BaseException | str) -> str:
    """Return an error as one line: a user's mistake by its message, anything else with its type."""
    text = " ".join(str(error).split())
    if isinstance(error, (str, UserError)):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _differing(before: Mapping[str, Any], here: Mapping[str, Any]) -> Iterable[str]:
    return sorted(name for name in {*before, *here} if before.get(name) != here.get(name))
