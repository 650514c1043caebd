"""Run the experiments behind docs/claims.md and tell what came out.

    python scripts/reproduce.py                                list the experiments
    python scripts/reproduce.py geometry_tasks feature_bias_cnn    run some
    python scripts/reproduce.py all                            run all whose data are there
    python scripts/reproduce.py all --data FOLDER --out claims.csv [OVERRIDE …]

An experiment is `vlsae STAGE experiment=NAME`; its headline numbers come from the run's summary. ``--data`` is a folder
of the data sets that some need; without it those are left out and named. word_class has two stages: its network is
trained first, on the words of tagged text, once a seed.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from vlsae.cli import main as command
from vlsae.probes.over_networks import measure_over_networks
from vlsae.result import Measure
from vlsae.runs import runs_root
from vlsae.runs.latest import newest_done

WINDOWS = Path(__file__).parent / "tagged_windows.py"

#: Of ``--data``: what the network of words reads beside the tagged text, and the tagged texts for it and for the probe.
NOVEL, READ, TAGGED = (
    "novels/alice_in_wonderland.txt",
    "ud_english_ewt/en_ewt-ud-test.conllu",
    "ud_english_ewt/en_ewt-ud-dev.conllu",
)


def words_network(data: Path, scratch: Path, overrides: Sequence[str]) -> list[str]:
    """Train the network of words that the probe reads; return the overrides that name it and the tagged windows."""
    texts, windows = scratch / "texts", scratch / "windows.csv"
    texts.mkdir(exist_ok=True)
    shutil.copy(data / NOVEL, texts)
    for source, target, more in (
        (READ, scratch / "unused.csv", ["--text", str(texts / "ewt.txt")]),
        (TAGGED, windows, []),
    ):
        subprocess.run([sys.executable, str(WINDOWS), str(data / source), str(target), *more], check=True)
    trained = finished("train", "word_lstm", [f"dataset.path={texts}", *overrides])
    return [f"dataset.path={windows}", f"model.checkpoint=path:{trained / 'model'}"]


@dataclass(frozen=True)
class Experiment:
    """What is run: the stage, the expected direction, and what of ``--data`` it needs by override.

    ``before`` runs an earlier stage and gives the overrides that name what it made, ``needs`` being the data it reads;
    with ``seeds`` the whole is run once for each.
    """

    stage: str
    expected: str
    data: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    before: Callable[[Path, Path, Sequence[str]], list[str]] | None = None
    seeds: tuple[int, ...] = ()


EXPERIMENTS = {
    "geometry_tasks": Experiment("probe", "tanh nearer to targets than ReLU, ReLU nearer to inputs"),
    "information_plane": Experiment("probe", "tanh loses over 1 bit (edges), ReLU under 0.3 (floor)"),
    "feature_bias_difficulty": Experiment("probe", "easy over hard; equal bits alike"),
    "feature_bias_order": Experiment("probe", "early over late"),
    "feature_bias_prevalence": Experiment("probe", "frequent over rare"),
    "feature_bias_position": Experiment("probe", "decoded first over decoded last"),
    "feature_bias_cnn": Experiment("probe", "easy over hard; equal bits alike"),
    "concept_depth": Experiment("probe", "onset of facts < feelings < inferences", ("dataset.path=concept_tasks",)),
    "word_class": Experiment(
        "probe",
        "classes of the next word lie apart, more so in the second layer than in the word vectors",
        needs=(NOVEL, READ, TAGGED),
        before=words_network,
        seeds=(0, 1, 2),
    ),
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
        needed = (*one.data, *one.needs)
        if needed and options.data is None:
            console.print(f"{name} is left out: it needs --data FOLDER with {', '.join(needed)}")
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
    """Return the headline numbers of one experiment, of one with seeds each seed's and the means over them."""
    places = [f"{key}={data / folder}" for key, folder in (word.split("=") for word in one.data) if data is not None]
    found: dict[str, Measure] = {}
    if not one.seeds:
        found = headline(finished(one.stage, name, [*places, *overrides]))
    by_number: dict[str, list[float]] = {}
    for seed in one.seeds:
        own = [*overrides, f"seed={seed}"]
        with tempfile.TemporaryDirectory() as scratch:
            if one.before is not None and data is not None:
                places = one.before(data, Path(scratch), own)
            numbers = headline(finished(one.stage, name, [*places, *own]))
        for number, value in numbers.items():
            found[f"{number}, seed {seed}"] = value
            by_number.setdefault(number, []).append(np.nan if value.value is None else value.value)
    for number, values in by_number.items():
        found[f"{number}, over seeds"] = measure_over_networks(np.array(values), "")
    return [
        [name, one.expected, number, shown(value.value), f"{shown(value.low)} to {shown(value.high)}"]
        for number, value in found.items()
    ]


def finished(stage: str, name: str, overrides: Sequence[str]) -> Path:
    """Run an experiment and return its run; the process ends where its command does not succeed."""
    code = command([stage, f"experiment={name}", "--name", f"reproduce-{name}", "--yes", *overrides])
    if code:
        sys.exit(code)
    run = newest_done(runs_root(None) / stage / f"reproduce-{name}")
    if run is None:
        sys.exit(f"{name} left no finished run")
    return run


def headline(run: Path) -> dict[str, Measure]:
    """Return the numbers that a run puts first, by name."""
    found = json.loads((run / "result.json").read_text(encoding="utf-8"))
    numbers = json.loads((run / "summary.json").read_text(encoding="utf-8"))["metrics"]
    return {one: Measure(**numbers[one]) for one in found.get("headline") or numbers}


def shown(value: float | None) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(main())
