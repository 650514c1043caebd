"""Run the experiments behind docs/claims.md and tell what came out.

    python scripts/reproduce.py                                list the experiments
    python scripts/reproduce.py geometry_tasks feature_bias_cnn    run some
    python scripts/reproduce.py all                            run all whose data are there
    python scripts/reproduce.py all --data FOLDER --out claims.csv [OVERRIDE …]

An experiment is `vlsae STAGE experiment=NAME`; its headline numbers come from the run's summary. ``--data`` is a folder
of the data sets that some need; without it those are left out and named.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vlsae.cli import main as command
from vlsae.runs import runs_root
from vlsae.runs.latest import newest_done


@dataclass(frozen=True)
class Experiment:
    """What is run: the stage, what of ``--data`` it needs by override, and the expected direction."""

    stage: str
    expected: str
    data: tuple[str, ...] = ()


EXPERIMENTS = {
    "geometry_tasks": Experiment("probe", "tanh nearer to targets than ReLU, ReLU nearer to inputs"),
    "information_plane": Experiment("probe", "tanh loses over 1 bit (edges), ReLU under 0.3 (floor)"),
    "feature_bias_difficulty": Experiment("probe", "easy over hard; equal bits alike"),
    "feature_bias_order": Experiment("probe", "early over late"),
    "feature_bias_prevalence": Experiment("probe", "frequent over rare"),
    "feature_bias_position": Experiment("probe", "decoded first over decoded last"),
    "feature_bias_cnn": Experiment("probe", "easy over hard; equal bits alike"),
    "concept_depth": Experiment("probe", "onset of facts < feelings < inferences", ("dataset.path=concept_tasks",)),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="experiments, or all; then overrides of every command")
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--out", type=Path, help="a CSV for the rows")
    options = parser.parse_intermixed_args()
    names = [one for one in options.names if "=" not in one]
    overrides = [one for one in options.names if "=" in one]
    unknown = [one for one in names if one not in (*EXPERIMENTS, "all")]
    if unknown:
        parser.error(f"there is no experiment {unknown[0]!r}; there are {', '.join(EXPERIMENTS)}")
    console = Console()
    if not names:
        console.print(listed())
        return 0
    rows: list[list[str]] = []
    for name in EXPERIMENTS if "all" in names else names:
        one = EXPERIMENTS[name]
        if one.data and options.data is None:
            console.print(f"{name} is left out: it needs --data FOLDER with {', '.join(one.data)}")
            continue
        rows += measured(name, one, options.data, overrides)
    table = Table("experiment", "expected", "number", "value", "95 % interval", title="What came out")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    if options.out:
        with options.out.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["experiment", "expected", "number", "value", "interval"], *rows])
    return 0


def listed() -> Table:
    """Return the experiments with what is expected of each."""
    table = Table("experiment", "command", "expected")
    for name, one in EXPERIMENTS.items():
        table.add_row(name, f"vlsae {one.stage} experiment={name}", one.expected)
    return table


def measured(name: str, one: Experiment, data: Path | None, overrides: Sequence[str]) -> list[list[str]]:
    """Return the headline numbers of one experiment; the process ends where its command does not succeed."""
    places = [f"{key}={data / folder}" for key, folder in (word.split("=") for word in one.data) if data is not None]
    code = command([one.stage, f"experiment={name}", "--name", f"reproduce-{name}", "--yes", *places, *overrides])
    if code:
        sys.exit(code)
    run = newest_done(runs_root(None) / one.stage / f"reproduce-{name}")
    if run is None:
        sys.exit(f"{name} left no finished run")
    found = json.loads((run / "result.json").read_text(encoding="utf-8"))
    numbers = json.loads((run / "summary.json").read_text(encoding="utf-8"))["metrics"]
    return [
        [name, one.expected, metric, shown(numbers[metric]["value"]),
         f"{shown(numbers[metric]['low'])} to {shown(numbers[metric]['high'])}"]
        for metric in found.get("headline") or numbers
    ]  # fmt: skip


def shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(main())
