"""The help of a stage: its options, the config groups with their choices, and examples."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from vlsae import groups

EXAMPLES = {
    "extract": (
        "vlsae extract model=clip dataset=shapes",
        "vlsae extract dataset=captions dataset.path=photos extract.sites=all",
        "vlsae extract --layer last --limit 1000 --dry-run",
    ),
    "train": (
        "vlsae train model=clip",
        "vlsae train --layer 6 objective.k=32 train.epochs=10",
        "vlsae train -m objective=vl_sae,top_k seed=0,1,2 launcher=joblib",
    ),
    "probe": (
        "vlsae probe --layer 12",
        "vlsae probe model=clip dataset=shapes",
        "vlsae probe --run extract/NAME/latest",
    ),
    "aqi": (
        "vlsae aqi --dataset litmus model.checkpoint=path:MY_MODEL",
        "vlsae aqi dataset=litmus dataset.path=prompts.csv aqi.source=live",
        "vlsae aqi --compare aqi/BEFORE/latest aqi/AFTER/latest",
    ),
    "enhance": (
        "vlsae enhance --run train/NAME/latest",
        "vlsae enhance task=steering model=clip objective.k=32",
        "vlsae enhance task=explain image=cat.jpg text='a cat on a mat'",
    ),
}

_DEFAULT = re.compile(r"^\s*-\s*(?:override\s+)?/?([\w/]+)\s*(?::\s*(\S+))?\s*(?:#.*)?$")


class StageCommand(TyperCommand):
    """A command whose help also lists config groups and examples."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the config groups with their choices, the default marked, and three examples."""
        stage = str(self.name)
        taken = default_choices(stage)
        rows = [(name, _shown(choices, taken[name])) for name, choices in groups.groups().items() if name in taken]
        with formatter.section("Config groups (the default is in brackets)"):
            formatter.write_dl(rows)
        with formatter.section("Examples"):
            for example in EXAMPLES[stage]:
                formatter.write_text(example)


def default_choices(stage: str) -> dict[str, str]:
    """Return group → default choice of a stage ("" for none), read from the defaults lists of its files alone."""
    path = groups.config_dir() / f"{stage}.yaml"
    chosen: dict[str, str] = {}
    for name, choice in _defaults(path):
        if choice == "null":
            chosen[name] = ""
        elif choice is not None:
            chosen[name] = choice
        elif name != "_self_":
            chosen = {**default_choices(name), **chosen}
    return chosen


def _defaults(path: Path) -> list[tuple[str, str | None]]:
    found, inside = [], False
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("defaults:"):
            inside = True
        elif inside and line.strip() and not line.startswith((" ", "-", "#")):
            break
        elif inside and (match := _DEFAULT.match(line)):
            found.append((match[1], match[2]))
    return found


def _shown(choices: list[str], default: str) -> str:
    return "  ".join(f"[{name}]" if name == default else name for name in choices)
