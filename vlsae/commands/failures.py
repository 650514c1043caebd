"""Errors become a few lines and an exit code: 2 for what the user can mend, 1 for a bug, 130 for an interruption."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from typing import Any

import typer

from vlsae.errors import UserError, nearest
from vlsae.leaving import INTERRUPTED
from vlsae.memory import is_out_of_memory

DONE, BUG, MENDABLE = 0, 1, 2

_OF_THE_SYSTEM = {
    errno.ENOSPC: "Free some space, or set VLSAE_RUNS or runs_dir to a folder on another disk.",
    errno.EDQUOT: "Free some space, or set VLSAE_RUNS or runs_dir to a folder on another disk.",
    errno.EACCES: "Change the permissions, or name another place.",
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f), or name a disk that takes larger ones.",
    errno.EIO: "The disk or its connection failed; look at the system's log, or name a place on another disk.",
    errno.EMFILE: "Raise the number of files that a process may open (ulimit -n).",
    errno.EISDIR: "Name a file.",
    errno.ENOTDIR: "Name a folder, or a path through folders alone.",
    errno.ELOOP: "A link leads back to itself; mend it or name another place.",
    errno.ENAMETOOLONG: "Use a shorter name.",
    errno.EROFS: "Name a place that may be written to.",
    errno.ENOENT: "Check the path.",
}


def explain(error: BaseException, words: Sequence[str] = ()) -> int:
    """Write what went wrong to stderr and return the exit code; ``words`` are the command's own."""
    code = exit_code(error)
    if isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError):
        return _closed_pipe()
    if "--debug" in words or code == BUG:
        traceback.print_exception(error)
    if isinstance(error, SystemExit):
        return code
    _write(*_lines(error, words))
    return code


def _closed_pipe() -> int:
    """Leave quietly where the reader of the output went away, as ``| head`` does."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BUG


def exit_code(error: BaseException) -> int:
    """Return the exit code that an error means."""
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Abort":
        return INTERRUPTED
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else DONE if error.code is None else BUG
    return MENDABLE if _is_mendable(error) else BUG


def worst(codes: Iterable[int]) -> int:
    """Return the gravest of exit codes: an interruption, then a bug, then what the user can mend."""
    order = (DONE, MENDABLE, BUG, INTERRUPTED)
    return max(codes, key=lambda code: order.index(code) if code in order else order.index(BUG), default=DONE)


def message(error: BaseException) -> str:
    """Return an error's own words, with its type where it is a bug."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def _is_mendable(error: BaseException) -> bool:
    of_system = isinstance(error, OSError) and error.errno in _OF_THE_SYSTEM
    return isinstance(error, UserError) or of_system or _is_usage(error) or is_out_of_memory(error)


def _lines(error: BaseException, words: Sequence[str]) -> list[str]:
    if exit_code(error) == INTERRUPTED:
        return ["Interrupted."]
    if not _stands_somewhere():
        return ["The folder that the command was started in is gone.", "Change to one that is there, and start again."]
    if isinstance(error, UserError):
        return str(error).splitlines()
    if _is_usage(error):
        return _usage(error, words)
    if is_out_of_memory(error):
        first = (str(error).splitlines() or ["Out of memory."])[0]
        return [first, "Use a smaller extract.batch_size, train.batch_size or objective, or hardware=cpu."]
    if isinstance(error, OSError) and error.errno in _OF_THE_SYSTEM:
        place = f": {error.filename}" if error.filename else "."
        return [f"{error.strerror}{place}", _OF_THE_SYSTEM[error.errno]]
    return ["This is a bug in vlsae. Please report it with the traceback above and the command."]


def _stands_somewhere() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _usage(error: Any, words: Sequence[str]) -> list[str]:
    option = getattr(error, "option_name", None)
    context = getattr(error, "ctx", None)
    if option is None or not getattr(error, "message", "").startswith("No such option"):
        help_line = f"See `{context.command_path} --help`." if context is not None else "See `vlsae --help`."
        return [error.format_message(), help_line]
    known = [name for one in context.command.params for name in one.opts] if context is not None else []
    typed = _typed(option, words)
    close = nearest(f"--{typed.lstrip('-')}", [*known, "--help"], limit=1)
    mend = f"Did you mean {close[0]}?" if close else f"Options: {', '.join(known)}."
    return [f"There is no option {typed!r}.", mend]


def _typed(option: str, words: Sequence[str]) -> str:
    """Return the whole word behind an option that was read letter by letter, as in ``-seed``."""
    if option.startswith("--"):
        return option
    whole = (word for word in words if word.startswith("-") and not word.startswith("--") and option[1:] in word)
    return next(whole, option)


def _is_usage(error: BaseException) -> bool:
    return hasattr(error, "format_message") and getattr(error, "exit_code", None) == MENDABLE


def _write(*lines: str) -> None:
    for number, line in enumerate(lines):
        typer.echo(line if number else f"vlsae: {line}", err=True)
