"""Measure what concepts bring on the embedded world, task by task and seed by seed, as rows for docs/claims.md.

    python scripts/enhance_claims.py [--seeds 0,1,2] [--tasks zero_shot,steering] [OVERRIDE …]

Runs `vlsae enhance task=… seed=…` (the trainings are made once a seed and reused) and prints each number's mean over
seeds with the values of all seeds. Overrides go to every command, such as model.checkpoint=path:FOLDER.
Which gains of task=hallucination are beyond the spread of pictures and seeds, the page of each run says.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from vlsae.cli import main as command
from vlsae.runs import runs_root
from vlsae.runs.latest import newest_done

QUERIES = "task.queries=['+color=red -shape=circle','+shape=star','+background=black -color=blue']"

#: The bundled vision-language model, its dictionary trained as the experiment says. The command's own seeds (three, and
#: three more a seed of the dictionary) are means of each number.
HALLUCINATION = ["experiment=vl_sae_llava", "task.controls=full"]

#: What is run and which numbers of it are shown: (name, overrides, prefixes of metrics).
TASKS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "zero_shot": ([], ("before/accuracy", "after/accuracy", "difference/accuracy", "accuracy/", "alpha")),
    "steering": ([], ("wanted_at_budget/", "gain_at_equal_damage/", "concept_auroc")),
    "retrieval": ([QUERIES], ("before/", "after/", "difference/", "text_of_image/r1/", "image_of_text/r1/", "search/")),
    "debias": ([], ("before/", "after/", "difference/", "worst_group/", "removed")),
    "hallucination": (HALLUCINATION, ("f1/mean/", "chair_i/", "gain/", "after/chair", "after/caption", "after/f1")),
}
LEFT_OUT = ("time", "r5", "r10")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0", help="numbers with commas between them")
    parser.add_argument("--tasks", default=",".join(TASKS), help="names with commas between them")
    parser.add_argument("overrides", nargs="*", help="of every command, such as hardware.threads=1")
    options = parser.parse_args()
    seeds, overrides = [int(seed) for seed in options.seeds.split(",")], options.overrides
    console = Console()
    for task in options.tasks.split(","):
        found: dict[str, list[float | None]] = {}
        for seed in seeds:
            for name, value in measured(task, seed, overrides).items():
                found.setdefault(name, []).append(value)
        table = Table("number", "mean", *(f"seed {seed}" for seed in seeds), title=f"task={task}")
        for name, values in found.items():
            known = [value for value in values if value is not None]
            mean = f"{sum(known) / len(known):.4f}" if known else "–"
            table.add_row(name, mean, *("–" if value is None else f"{value:.4f}" for value in values))
        console.print(table)
    return 0


def measured(task: str, seed: int, overrides: Sequence[str]) -> dict[str, float | None]:
    """Return the shown numbers of one task and seed; the process ends where the command does not succeed."""
    more, prefixes = TASKS[task]
    name = f"claims-{task}-{seed}"
    code = command(["enhance", f"task={task}", f"seed={seed}", "--name", name, *more, *overrides])
    if code:
        sys.exit(code)
    run = newest_done(runs_root(None) / "enhance" / name)
    metrics = json.loads((run / "summary.json").read_text(encoding="utf-8"))["metrics"] if run else {}
    shown = [one for one in metrics if one.startswith(prefixes) and not any(part in one for part in LEFT_OUT)]
    return {one: metrics[one]["value"] for one in shown}


if __name__ == "__main__":
    sys.exit(main())
