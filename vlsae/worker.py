"""Run the stage of a claimed run: the one entry for a first start, a resume, a requeue and every rank."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from vlsae.errors import UserError
from vlsae.runs import Run

logger = logging.getLogger(__name__)

LOG = "log.txt"


class Interrupted(KeyboardInterrupt):
    """The process was asked to end; the run can be resumed."""


def run_stage(run: Run | str | Path) -> Run:
    """Run a claimed or unfinished run's stage to its end and return the finished run.

    Takes a run whose lock is held, or a run's directory. The run ends done, failed or interrupted; whatever the stage
    raises is raised again.
    """
    from vlsae.config import load, resolved
    from vlsae.stages.launch import stage_module

    if not isinstance(run, Run):
        run = Run.open(Path(run))
    with _log_file(run.path / LOG), _sigterm_interrupts():
        try:
            config = resolved(load(run.path))
            logger.info("%s starts", run.id)
            stage_module(run.stage).run(config, run)
            run.finish()
            logger.info("%s is done", run.id)
        except KeyboardInterrupt:
            logger.warning("%s was interrupted; `vlsae runs resume %s` goes on", run.id, run.id)
            run.interrupt()
            raise
        except BaseException as error:
            logger.error("%s failed", run.id, exc_info=not isinstance(error, UserError))
            run.fail(error)
            raise
    return run


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """Append what the package logs to the run's ``log.txt``."""
    package = logging.getLogger("vlsae")
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    level = package.level
    package.addHandler(handler)
    package.setLevel(min(level, logging.INFO) if level else logging.INFO)
    try:
        yield
    finally:
        package.setLevel(level)
        package.removeHandler(handler)
        handler.close()


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Turn SIGTERM into an interruption; only the main thread may set handlers, elsewhere nothing changes."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted(f"signal {number}")

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(arguments: list[str]) -> int:
    """Run or resume the run in the one directory given; return the exit code of every command."""
    from rich.console import Console

    console = Console(stderr=True)
    if len(arguments) != 1:
        console.print("usage: python -m vlsae.worker RUN_DIR")
        return 2
    try:
        run_stage(arguments[0])
    except KeyboardInterrupt:
        return 130
    except UserError as error:
        console.print(f"[bold red]Error[/]: {error}", highlight=False)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
