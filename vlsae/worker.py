"""Run the stage of a claimed run: the one entry for a first start, a resume, a requeue and every rank."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from vlsae.errors import UserError
from vlsae.leaving import end_with_parent, interruptions_kept
from vlsae.runs import Run
from vlsae.runs.run import one_line

logger = logging.getLogger(__name__)

LOG = "log.txt"

#: How long a rank that has lost another one waits to be ended.
LEFT_ALONE_SECONDS = 60.0


class Interrupted(KeyboardInterrupt):
    """The process was asked to end; the run can be resumed."""


def run_stage(run: Run | str | Path) -> Run:
    """Run a claimed or unfinished run's stage to its end and return the finished run.

    Takes a run whose lock is held, or a run's directory. The run ends done, failed or interrupted; whatever the stage
    raises is raised again.
    """
    if not isinstance(run, Run):
        run = Run.open(Path(run))
    with _sigterm_interrupts():
        try:
            # The log is closed before the files are hashed: nothing is written into a run that is done.
            with _log_file(run.path / LOG) as log:
                _work(run, log)
            run.finish()
        except BaseException as error:
            if run.held:
                _end(run, error)
            raise
    return run


def _work(run: Run, log: logging.Handler) -> None:
    from vlsae.config import load, resolved
    from vlsae.loggers import started
    from vlsae.memory import shortage_told
    from vlsae.stages.launch import ranks_for, stage_module

    logger.info("%s starts", run.id)
    try:
        module, config = stage_module(run.stage), resolved(load(run.path))
        # A training hands its logger to the loop; of other stages what came out is logged.
        logs = "logger" in config and not getattr(module, "LOGS_ITSELF", False)
        with shortage_told(run.not_reproducible), started(config, run) if logs else nullcontext():
            count = ranks_for(run.stage, config)
            if count == 1:
                module.run(config, run)
            else:
                _by_ranks(module, config, run, count)
    except KeyboardInterrupt:
        logger.warning("%s was interrupted; `vlsae runs resume %s` goes on", run.id, run.id)
        raise
    except BaseException as error:
        # Into the file alone: whoever called shows the error, in a user's case without a traceback.
        trace = None if isinstance(error, UserError) else (type(error), error, error.__traceback__)
        text = f"{run.id} failed: {one_line(error)}"
        log.handle(logging.LogRecord(logger.name, logging.ERROR, __file__, 0, text, None, trace))
        raise
    logger.info("%s has finished its work", run.id)


def _by_ranks(module: ModuleType, config: Mapping[str, Any], run: Run, count: int) -> None:
    """Make what the stage reads from, then run it in several processes while this one holds the run."""
    from vlsae import plugins
    from vlsae.stages.hardware import threads_of_a_rank
    from vlsae.stages.torchrun import run_by_ranks
    from vlsae.stages.upstream import require

    for stage, upstream in module.parents(config):
        require(stage, upstream, run)
    logger.info("%s works in %d processes", run.id, count)
    run_by_ranks(run, count, threads_of_a_rank(config, count), plugins.references())
    run.refresh()
    know = getattr(module, "know_files", None)
    if know is not None:
        know(run)


def run_rank(path: Path) -> None:
    """Run this rank's share of a stage in a run that the process which started the ranks holds; rank 0 alone writes."""
    from vlsae import ranks
    from vlsae.config import load, resolved
    from vlsae.memory import shortage_told
    from vlsae.stages.hardware import device_of
    from vlsae.stages.launch import stage_module
    from vlsae.stages.torchrun import was_left_alone, write_failure

    # Whatever a rank has written is whole or will be written again: it may end at once.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    end_with_parent()
    try:
        config = resolved(load(path))
        with ranks.joined(cuda=device_of(config).startswith("cuda")):
            run = Run.lent(path, writes=ranks.is_first())
            logs = _log_file(path / LOG) if ranks.is_first() else _shortage_alone(path / LOG)
            with logs, shortage_told(run.not_reproducible):
                stage_module(run.stage).run(config, run)
    except Exception as error:
        write_failure(error)
        if was_left_alone(error):
            # Whoever started the ranks ends this one as soon as it sees which of them is gone.
            time.sleep(LEFT_ALONE_SECONDS)
        raise


@contextmanager
def _shortage_alone(path: Path) -> Iterator[None]:
    """Leave it to rank 0 to tell of the work, but for errors and for memory that ran out on this rank alone."""
    logging.getLogger("vlsae").setLevel(logging.ERROR)
    with _log_file(path, "vlsae.memory"):
        yield


def _end(run: Run, error: BaseException) -> None:
    with _undisturbed():
        # A launcher that will go on with the run later ends this process by SystemExit.
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            run.interrupt()
        else:
            run.fail(error)


class _RunLog(logging.FileHandler):
    """A run's log, which stays silent where it cannot be written: the work itself says that the disk is full."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing."""

    def close(self) -> None:
        """Close the file, also where its last lines cannot be written."""
        with suppress(OSError):
            super().close()


@contextmanager
def _log_file(path: Path, name: str = "vlsae") -> Iterator[logging.Handler]:
    """Append what the package, or a module of it, logs to the run's ``log.txt``, with the time in UTC."""
    package = logging.getLogger(name)
    handler = _RunLog(path, encoding="utf-8")
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    level = package.level
    package.addHandler(handler)
    package.setLevel(min(level, logging.INFO) if level else logging.INFO)
    try:
        yield handler
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
        with interruptions_kept(signal.SIGTERM):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep a second Ctrl-C from cutting off the record of how the run ended, which takes a moment."""
    try:
        before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run or resume the run in a directory; return the exit code of every command."""
    parser = argparse.ArgumentParser(prog="python -m vlsae.worker", description="Run or resume the run in a directory.")
    parser.add_argument("run_dir", metavar="RUN_DIR")
    parser.add_argument("--plugin", action="append", default=[], help="A module or file with classes of your own.")
    parser.add_argument("--debug", action="store_true", help="Show tracebacks and the log's details.")
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(words)

    from vlsae import plugins, ranks
    from vlsae.commands.failures import MENDABLE, explain
    from vlsae.commands.stage import set_up_logging

    set_up_logging(options.debug)
    try:
        plugins.load_installed()
        plugins.load(options.plugin)
        if ranks.started_by_torchrun():
            run_rank(Path(options.run_dir))
        else:
            run_stage(options.run_dir)
    except BaseException as error:
        if ranks.started_by_torchrun() and isinstance(error, UserError):
            return MENDABLE
        return explain(error, words)
    return 0


if __name__ == "__main__":
    sys.exit(main())
