"""The command line: options become overrides, errors become exit codes.

Nothing heavy is imported here, so that help answers at once: torch, Hydra and the models come with the work itself.
"""

import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vlsae import __version__
from vlsae.commands.help import StageCommand
from vlsae.leaving import INTERRUPTED, leave
from vlsae.threads import wait_asleep

SUMMARIES = {
    "extract": "Run a model over a dataset and store its representations.",
    "train": "Fit an objective, such as a dictionary on representations.",
    "probe": "Ask what a layer, a neuron or a concept holds.",
    "aqi": "Score how far apart safe and unsafe inputs lie by layer.",
    "enhance": "Put concepts back into the model; a task before and after.",
}

#: Where ``--layer`` goes.
LAYER_KEYS = {"extract": "extract.sites", "train": "train.sites", "enhance": "train.sites"}

#: Options that one stage alone has.
OWN_OPTIONS = {"compare": "aqi"}

#: Commands whose modules are imported when they are called: name → (module, summary).
LAZY = {"runs": ("vlsae.commands.runs", "List, show, compare, resume and remove runs.")}


class LazyGroup(TyperGroup):
    """A group that imports the groups of ``LAZY`` only when one of them is called."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command by name, importing it where needed."""
        if cmd_name in LAZY and cmd_name not in self.commands:
            module, summary = LAZY[cmd_name]
            command = typer.main.get_command(importlib.import_module(module).app)
            command.name, command.help = cmd_name, command.help or summary
            self.add_command(command, cmd_name)
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands, the stages first."""
        return [*self.commands, *(name for name in LAZY if name not in self.commands)]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help without importing the lazy commands."""
        for name, (_, summary) in LAZY.items():
            if name not in self.commands:
                self.add_command(TyperGroup(name=name, help=summary), name)
        super().format_help(ctx, formatter)


app = typer.Typer(
    name="vlsae",
    cls=LazyGroup,
    help="Find, name, measure and use the concepts inside vision-language and language models.",
    epilog="Start with: vlsae train model=clip",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""


def _shorthand(names: str, key: str, what: str, metavar: str) -> Any:
    return typer.Option(*names.split(), help=f"{what} ({key}={metavar})", metavar=metavar, show_default=False)


def _switch(names: str, key: str, what: str) -> Any:
    return typer.Option(*names.split(), help=f"{what} ({key}=true)", show_default=False)


def _plain(names: str, what: str, metavar: str | None = None) -> Any:
    return typer.Option(*names.split(), help=what, metavar=metavar, show_default=False)


DETACH = _plain("--detach", "Submit the jobs and return (-m launcher=slurm).")


def stage_command(stage: str) -> Callable[..., int]:
    """Return the function behind the command of a stage."""
    layer_key = LAYER_KEYS.get(stage, "extract.sites")

    def run(
        overrides: Annotated[
            list[str] | None,
            typer.Argument(help="Hydra's overrides: group=choice, key=value, +key=value, ~key.", show_default=False),
        ] = None,
        model: Annotated[str | None, _shorthand("--model", "model", "The model", "NAME")] = None,
        dataset: Annotated[str | None, _shorthand("--dataset", "dataset", "The dataset", "NAME")] = None,
        layer: Annotated[str | None, _shorthand("--layer", layer_key, "The sites in the model", "SITES")] = None,
        run: Annotated[str | None, _shorthand("--run", "run", "An earlier run to read from", "RUN")] = None,
        name: Annotated[str | None, _shorthand("--name", "name", "The run's own name", "NAME")] = None,
        seed: Annotated[str | None, _shorthand("--seed", "seed", "Initialisation and order", "N")] = None,
        limit: Annotated[str | None, _shorthand("--limit", "limit", "At most this many samples", "N")] = None,
        device: Annotated[str | None, _shorthand("--device", "hardware.device", "The device", "DEVICE")] = None,
        force: Annotated[bool, _switch("--force", "force", "Make upstream runs anew")] = False,
        verify: Annotated[bool, _switch("--verify", "verify", "Digest large files whole")] = False,
        yes: Annotated[bool, _switch("--yes", "assume_yes", "Do not ask before long upstream work")] = False,
        multirun: Annotated[bool, _plain("-m --multirun", "Run every combination of k=1,2,…")] = False,
        detach: Annotated[bool, DETACH] = False,
        dry_run: Annotated[bool, _plain("--dry-run", "Show configuration, plan and cost; write nothing.")] = False,
        config_dir: Annotated[
            Path | None, _plain("--config-dir", "A folder of configurations of your own, which comes first.", "FOLDER")
        ] = None,
        compare: Annotated[
            tuple[str, str] | None,
            _shorthand("--compare", "aqi.compare", "Two earlier runs, before and after a change", "RUN RUN"),
        ] = None,
        plugin: Annotated[
            list[str] | None, _plain("--plugin", "A module or file with classes of your own.", "FILE_OR_MODULE")
        ] = None,
        debug: Annotated[bool, _plain("--debug", "Show tracebacks and the log's details.")] = False,
    ) -> int:
        from vlsae.commands.stage import Request, run_stage_command

        options = {
            "model": model,
            "dataset": dataset,
            layer_key: layer,
            "run": run,
            "name": name,
            "seed": seed,
            "limit": limit,
            "hardware.device": device,
            "force": force,
            "verify": verify,
            "assume_yes": yes,
            "aqi.compare": compare,
        }
        request = Request(stage, options, overrides or [], config_dir, tuple(plugin or ()), debug, detach)
        return run_stage_command(request, multirun=multirun, dry_run=dry_run)

    signature = inspect.signature(run)
    own = [one for name, one in signature.parameters.items() if OWN_OPTIONS.get(name, stage) == stage]
    run.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]
    return run


for _stage, _summary in SUMMARIES.items():
    app.command(_stage, help=_summary, cls=StageCommand)(stage_command(_stage))


@app.command("report")
def report(
    runs: Annotated[
        list[str], typer.Argument(help="Runs or sweeps: a path, an id, or …/latest.", metavar="RUN|SWEEP...")
    ],
    full: Annotated[bool, _plain("--full", "Everything in a folder: every concept with all its items.")] = False,
    no_media: Annotated[bool, _plain("--no-media", "Leave pictures out.")] = False,
    redact: Annotated[bool, _plain("--redact", "Leave out pictures, texts, ids and paths of the data.")] = False,
    names: Annotated[str | None, _plain("--names", "Names of concepts: a CSV file or a run.", "FILE_OR_RUN")] = None,
    debug: Annotated[bool, _plain("--debug", "Show tracebacks.")] = False,
) -> int:
    """Write the report of runs or sweeps, of several runs also side by side, and print where it lies."""
    from vlsae.commands.report import write_reports

    return write_reports(runs, full=full, media=not no_media, redact=redact, names=names)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 1 a bug, 2 the user can mend it, 130 interrupted."""
    wait_asleep()
    code = _run(list(sys.argv[1:] if arguments is None else arguments) or ["--help"])
    if arguments is None and code == INTERRUPTED:
        leave(code)
    return code


def _run(words: list[str]) -> int:
    try:
        code = typer.main.get_command(app).main(args=words, prog_name="vlsae", standalone_mode=False)
    except BaseException as error:
        from vlsae.commands.failures import explain

        return explain(error, words)
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
