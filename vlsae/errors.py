"""Errors that a user can mend, and how their messages are worded."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake the user can mend: shown in a few lines without a traceback, exit code 2.

    ``message`` names the thing, its value and what was expected; ``mend`` says what to do about it.
    """

    def __init__(self, message: str, mend: str | None = None) -> None:
        super().__init__(message if mend is None else f"{message}\n{mend}")
        self.message = message
        self.mend = mend


class MissingFile(UserError, FileNotFoundError):
    """A file or folder that the user named does not exist."""


class VlsaeWarning(UserWarning):
    """A result that stands but needs a second look; an error in this project's tests."""


def nearest(name: str, valid: Iterable[str], limit: int = 3) -> list[str]:
    """Return the valid names most like ``name``, best first, at most ``limit``."""
    return difflib.get_close_matches(name, list(valid), n=limit, cutoff=0.5)


def unknown(kind: str, name: str, valid: Iterable[str]) -> UserError:
    """Return the error for a name that is not among the valid ones, with the nearest of them."""
    names = sorted(valid)
    close = nearest(name, names)
    mend = f"Did you mean {' or '.join(close)}?" if close else f"Known: {', '.join(names) or 'none'}."
    return UserError(f"There is no {kind} {name!r}.", mend)
