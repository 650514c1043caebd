"""What the command of a stage does: options become overrides, then one run, a plan, or a sweep."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlsae.errors import UserError, nearest

if TYPE_CHECKING:
    from vlsae.config import Composed

#: Keys whose values are a user's own words, whatever signs they hold.
OWN_WORDS = ("image", "text", "answers")

# What Hydra's grammar reads as one plain value, list or sweep; anything else is quoted.
_PLAIN = re.compile(r"[\w./\-+@%:,\[\]*${}]*", re.ASCII)


@dataclass(frozen=True)
class Request:
    """What a user asked of a stage; ``options`` map override keys to values, None or False where not given."""

    stage: str
    options: Mapping[str, str | bool | Sequence[str] | None]
    words: Sequence[str]
    config_dir: Path | None = None
    plugins: tuple[str, ...] = ()
    debug: bool = False
    detach: bool = False

    @property
    def overrides(self) -> list[str]:
        """The overrides that the options stand for, then those typed as such."""
        given = {key: value for key, value in self.options.items() if value is not None and value is not False}
        return [f"{key}={_value(value)}" for key, value in given.items()] + [_quoted(word) for word in self.words]


def _quoted(word: str) -> str:
    """Return an override, its value in Hydra's quotes where it is the user's own words and stands in none."""
    key, equals, value = word.partition("=")
    if key not in OWN_WORDS or not equals or value[:1] in ("'", '"') or value == "null":
        return word
    return f"{key}={_in_quotes(value)}"


def run_stage_command(request: Request, *, multirun: bool, dry_run: bool) -> int:
    """Carry out the command of a stage and return its exit code; errors are raised."""
    from vlsae import plugins

    refuse_options(request.words)
    set_up_logging(request.debug)
    plugins.load_installed()
    plugins.load(request.plugins)
    if multirun:
        from vlsae.commands.sweeps import run_sweep

        return run_sweep(request, dry_run=dry_run)
    composed = compose_checked(request.stage, request.overrides, request.config_dir)
    launcher = composed.choices.get("launcher")
    if request.detach or launcher in ("slurm", "ray"):
        asked = "--detach" if request.detach else f"launcher={launcher}"
        raise UserError(f"{asked} is for the jobs of a sweep, and this is one run.", "Add -m; one job is a sweep too.")
    if dry_run:
        from vlsae.commands.dry_run import show

        show(composed.config)
        return 0
    from vlsae.commands.announce import announce
    from vlsae.stages import start

    announce(start(composed.config, request.overrides, command_line(), composed.choices))
    return 0


def compose_checked(stage: str, overrides: Sequence[str], config_dir: Path | None) -> Composed:
    """Return the configuration of a stage with every value checked against the classes it names."""
    from vlsae.config import compose_with_choices

    composed = compose_with_choices(stage, overrides, config_dir)
    check_parts(composed.config)
    return composed


def check_parts(config: Any) -> None:
    """Check each node's values against its class."""
    from vlsae.config import check_values, resolved
    from vlsae.settings import check_whole

    content = resolved(config)
    check_whole(content)
    check_values(content)


def command_line() -> list[str]:
    """Return the command as it was typed."""
    return ["vlsae", *sys.argv[1:]]


def refuse_options(words: Sequence[str]) -> None:
    """Raise ``UserError`` for a word that reads like an option: none of Hydra's overrides starts with a dash."""
    from vlsae.cli import app  # the options are those of the command line itself

    for word in words:
        if word.startswith("-"):
            import typer

            command: Any = typer.main.get_command(app)
            known = {name for one in command.commands["train"].params for name in one.opts if name.startswith("-")}
            close = nearest(word.partition("=")[0], known, limit=1)
            mend = f"Did you mean {close[0]}?" if close else "An override is key=value."
            raise UserError(f"There is no option {word!r}.", mend)


def set_up_logging(debug: bool) -> None:
    """Log vlsae's own messages to stderr, details with ``debug``."""
    from rich.console import Console
    from rich.logging import RichHandler

    logger = logging.getLogger("vlsae")
    # Some libraries give the root logger a handler of its own, which would show each line twice.
    logger.propagate = False
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    if not any(isinstance(handler, RichHandler) for handler in logger.handlers):
        console = Console(stderr=True)
        logger.addHandler(RichHandler(console=console, show_path=debug, show_time=False, markup=False))


def _value(value: str | bool | Sequence[str]) -> str:
    if isinstance(value, bool):
        return "true"
    if not isinstance(value, str):
        return f"[{','.join(map(_value, value))}]"
    if _PLAIN.fullmatch(value) and value != "":
        return value
    return _in_quotes(value)


def _in_quotes(value: str) -> str:
    # In Hydra's quotes a backslash is itself, except before a quote.
    doubled = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value)
    return f"'{doubled}'"
