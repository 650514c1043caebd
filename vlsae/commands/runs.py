"""``vlsae runs``: list, show, compare, resume and remove runs. With ``--json`` nothing else goes to stdout."""

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from vlsae.errors import MissingFile, UserError, unknown
from vlsae.runs import effective_status, entries_of, read_manifest, resolve, runs_root, unfinished_run
from vlsae.runs.difference import differences, read_config
from vlsae.runs.files import dump_json
from vlsae.runs.manifest import DAMAGED, RUNNING, STATUSES
from vlsae.runs.metrics import read_summary
from vlsae.runs.removal import clear_unfinished, remove_all
from vlsae.worker import LOG

app = typer.Typer(
    help="List, show, compare, resume and remove runs.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

FOLLOW_SECONDS = 0.3

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A path, a run id, stage/name, or …/latest.")]
RunsDir = Annotated[
    Path | None,
    typer.Option("--runs-dir", metavar="FOLDER", show_default=False, help="The folder of runs (VLSAE_RUNS, or runs)."),
]
Json = Annotated[bool, typer.Option("--json", help="Write strict JSON and nothing else.", show_default=False)]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.", show_default=False)]
Form = Annotated[str, typer.Option("--format", help="vlsae, or saelens for cfg.json and sae_weights.")]
Stream = Annotated[
    str | None, typer.Option("--stream", help="For saelens: the stream whose weights.", show_default=False)
]


@app.command("list")
def list_runs(
    stage: Annotated[str | None, typer.Option("--stage", help="Of this stage.", show_default=False)] = None,
    name: Annotated[str | None, typer.Option("--name", help="Of this name.", show_default=False)] = None,
    status: Annotated[str | None, typer.Option("--status", help="With this status.", show_default=False)] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="At most this many.", metavar="N", show_default=False)
    ] = None,
    as_json: Json = False,
    runs_dir: RunsDir = None,
    debug: Debug = False,
) -> None:
    """List runs, newest first; damaged ones are named too."""
    if status is not None and status not in (*STATUSES, DAMAGED):
        raise unknown("status", status, (*STATUSES, DAMAGED))
    root = runs_root(runs_dir)
    entries = [entry for entry in entries_of(root, stage, name) if status is None or entry.status == status][:limit]
    if as_json:
        _write_json([_line(entry) for entry in entries])
        return
    from vlsae.commands.tables import console, runs_table

    if entries:
        console().print(runs_table(entries))
    else:
        typer.echo(f"No runs in {root}.")


@app.command()
def show(run: RunArgument, as_json: Json = False, runs_dir: RunsDir = None, debug: Debug = False) -> None:
    """Show what a run is, what it was made from and what came out."""
    root = runs_root(runs_dir)
    path = resolve(run, root)
    manifest = read_manifest(path)
    manifest["status"] = effective_status(path, manifest)
    config, summary = read_config(path), read_summary(path)
    if as_json:
        _write_json({"path": str(path), "manifest": manifest, "config": config, "summary": summary})
        return
    import yaml

    from vlsae.commands.tables import console, facts_table, metrics_table

    shown = console()
    shown.print(facts_table(path, manifest, root))
    if summary is not None:
        shown.print(metrics_table(summary))
    shown.print(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), markup=False)


@app.command()
def diff(
    first: Annotated[str, typer.Argument(metavar="RUN", help="A run.")],
    second: Annotated[str, typer.Argument(metavar="RUN", help="Another run.")],
    as_json: Json = False,
    runs_dir: RunsDir = None,
    debug: Debug = False,
) -> None:
    """Show in what two runs differ: configuration, facts, packages and final numbers."""
    root = runs_root(runs_dir)
    paths = resolve(first, root), resolve(second, root)
    ids = (str(read_manifest(paths[0])["run_id"]), str(read_manifest(paths[1])["run_id"]))
    parts = differences(*paths)
    if as_json:
        _write_json({"runs": ids, **parts})
        return
    from vlsae.commands.tables import console, difference_table

    found = {title: pairs for title, pairs in parts.items() if pairs}
    for title, pairs in found.items():
        console().print(difference_table(title, pairs, ids))
    if not found:
        typer.echo(f"{ids[0]} and {ids[1]} do not differ.")


@app.command()
def path(run: RunArgument, runs_dir: RunsDir = None, debug: Debug = False) -> None:
    """Print the path of a run and nothing else."""
    typer.echo(str(resolve(run, runs_root(runs_dir))))


@app.command()
def logs(
    run: RunArgument,
    lines: Annotated[
        int | None, typer.Option("--lines", "-n", min=1, metavar="N", help="Only the last N.", show_default=False)
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the run ends.", show_default=False)
    ] = False,
    runs_dir: RunsDir = None,
    debug: Debug = False,
) -> None:
    """Print a run's log."""
    place = resolve(run, runs_root(runs_dir))
    file = place / LOG
    if not file.is_file() and not follow:
        raise MissingFile(f"There is no {file}: the run has logged nothing.")
    # The last line of a killed run may lack its end; of one at work the rest is still to come.
    text, position = _read_lines(file, 0, rest=not follow)
    typer.echo("".join(text if lines is None else text[-lines:]), nl=False)
    while follow:
        ended = effective_status(place, read_manifest(place)) != RUNNING
        text, position = _read_lines(file, position, rest=ended)
        typer.echo("".join(text), nl=False)
        if ended:
            break
        time.sleep(FOLLOW_SECONDS)


@app.command()
def resume(
    run: Annotated[str, typer.Argument(metavar="RUN|SWEEP", help="A run, or a sweep: sweeps/NAME/vNNNN or its path.")],
    plugin: Annotated[
        list[str] | None,
        typer.Option("--plugin", help="A module or file with classes of your own.", show_default=False),
    ] = None,
    config_dir: Annotated[
        Path | None,
        typer.Option("--config-dir", metavar="FOLDER", help="For jobs of a sweep not begun yet.", show_default=False),
    ] = None,
    runs_dir: RunsDir = None,
    debug: Debug = False,
) -> int:
    """Continue a run in its own directory, or the unfinished runs of a sweep.

    A name without a version, and …/latest, mean its only unfinished version.
    """
    from vlsae import plugins
    from vlsae.commands.resume import find_sweep, resume_run, resume_sweep
    from vlsae.commands.stage import set_up_logging

    root = runs_root(runs_dir)
    sweep = find_sweep(run, root)
    place = unfinished_run(run, root) if sweep is None else sweep
    set_up_logging(debug)
    plugins.load_installed()
    plugins.load(plugin or [])
    return resume_run(place) if sweep is None else resume_sweep(place, config_dir)


@app.command("export")
def export_dictionary(
    dictionary: Annotated[str, typer.Argument(metavar="DICTIONARY", help="A training, a folder, or hub:ORG/NAME.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder.")],
    form: Form = "vlsae",
    stream: Stream = None,
    runs_dir: RunsDir = None,
    debug: Debug = False,
) -> None:
    """Write a dictionary with its model card into a folder, for others."""
    from vlsae.dictionaries.sharing import export

    typer.echo(str(export(dictionary, folder, form=form, stream=stream, root=runs_root(runs_dir))))


@app.command("push")
def push_dictionary(
    dictionary: Annotated[str, typer.Argument(metavar="DICTIONARY", help="A training or a folder.")],
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME", help="A model repository on the Hub.")],
    form: Form = "vlsae",
    stream: Stream = None,
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public.", show_default=False)] = False,
    runs_dir: RunsDir = None,
    debug: Debug = False,
) -> None:
    """Upload a dictionary with its model card to the Hub."""
    import tempfile

    from vlsae.dictionaries.sharing import push_to_hub

    with tempfile.TemporaryDirectory(prefix="vlsae-push-") as scratch:
        typer.echo(
            push_to_hub(
                dictionary,
                repository,
                Path(scratch),
                form=form,
                stream=stream,
                private=not public,
                root=runs_root(runs_dir),
            )
        )


@app.command("rm")
def rm(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Runs: paths, run ids, or …/latest.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.", show_default=False)] = False,
    runs_dir: RunsDir = None,
    debug: Debug = False,
) -> None:
    """Remove runs; refused outside the folder of runs, for a run at work, and for one that others were made from."""
    root = runs_root(runs_dir)
    clear_unfinished(root)
    places = list(dict.fromkeys(resolve(run, root) for run in runs))
    if not yes and _on_terminal():
        typer.echo("\n".join(map(str, places)), err=True)
        if not typer.confirm(f"Remove {'this run' if len(places) == 1 else f'these {len(places)} runs'}?", err=True):
            raise UserError("Nothing was removed.")
    for removed in remove_all(places, root):
        typer.echo(f"removed {removed.run_id} ({removed.bytes:,} bytes)")


def _line(entry: Any) -> dict[str, Any]:
    manifest = entry.manifest or {}
    line = {
        "run_id": str(entry.id),
        "stage": entry.id.stage,
        "name": entry.id.name,
        "version": entry.id.version,
        "status": entry.status,
        "start": manifest.get("start"),
        "end": manifest.get("end"),
        "path": str(entry.path),
        "choices": manifest.get("choices", {}),
    }
    return line if entry.fault is None else {**line, "fault": entry.fault}


def _write_json(value: Any) -> None:
    typer.echo(dump_json(value))


def _read_lines(file: Path, position: int, rest: bool) -> tuple[list[str], int]:
    """Return the lines from a position on, a last one without its end only with ``rest``, and the position after."""
    if not file.is_file():
        return [], position
    with file.open("rb") as stream:
        stream.seek(position)
        content = stream.read()
    whole = content if rest else content[: content.rfind(b"\n") + 1]
    return whole.decode("utf-8", errors="replace").splitlines(keepends=True), position + len(whole)


def _on_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()
