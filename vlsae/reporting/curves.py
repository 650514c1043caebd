"""Curves of a training: each logged number over the steps, those of one kind in one figure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vlsae.reporting.figures import COLORS, DASHES, Figure, canvas, legend, log_axis

#: Fields of a log line that are no numbers to draw.
NOT_DRAWN = frozenset({"step", "epoch", "time", "split"})
MOST_FIGURES = 12
MOST_POINTS = 600
#: Ratio of the largest to the smallest value from which the axis is logarithmic.
LOG_RATIO = 30.0

#: Names that are written out.
TITLES = {"lr": "learning rate"}

Line = tuple[list[int], list[float]]


def curves(lines: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Return a figure for each kind of number in the lines of ``metrics.jsonl``."""
    kinds: dict[str, dict[tuple[str, str], Line]] = {}
    for line in lines:
        for name, value in line.items():
            if name in NOT_DRAWN or not isinstance(value, (int, float)):
                continue
            steps, values = kinds.setdefault(kind_of(name), {}).setdefault((name, str(line["split"])), ([], []))
            steps.append(int(line["step"]))
            values.append(float(value))
    return [_figure(kind, series) for kind, series in list(kinds.items())[:MOST_FIGURES]]


def kind_of(name: str) -> str:
    """Return what a number is of: ``loss`` of ``loss/vision``, ``auxiliary loss`` of ``auxiliary/loss/contrastive``."""
    parts = name.split("/")
    return " ".join(parts[:2]) if parts[0] == "auxiliary" else parts[0]


def _figure(kind: str, series: Mapping[tuple[str, str], Line]) -> Figure:
    name = "curve-" + re.sub(r"[^a-z0-9]+", "-", kind.lower()).strip("-")
    title = TITLES.get(kind, kind)
    names = list(dict.fromkeys(metric for metric, _ in series))
    splits = sorted({split for _, split in series}, key=lambda split: split != "train")
    rows = [[metric, split, s, v] for (metric, split), line in series.items() for s, v in zip(*line)]
    with canvas(name) as (axes, drawn):
        for (metric, split), line in series.items():
            steps, values = _thinned(line)
            label = f"{metric}, {split}" if len(splits) > 1 else metric
            axes.plot(
                steps,
                values,
                DASHES[splits.index(split) % len(DASHES)],
                color=COLORS[names.index(metric) % len(COLORS)],
                marker="o" if len(steps) == 1 else None,
                linewidth=1.6,
                label=label,
            )
        every = [value for _, values in series.values() for value in values]
        if min(every) > 0 and max(every) / min(every) > LOG_RATIO:
            log_axis(axes, "y")
        axes.set_xlabel("step")
        axes.set_ylabel(title)
        legend(axes)
    ends = "; ".join(f"{metric} ({split}) ends at {values[-1]:.4g}" for (metric, split), (_, values) in series.items())
    return Figure(name, title.capitalize(), drawn, ("metric", "split", "step", "value"), rows, ends)


def _thinned(line: Line) -> Line:
    steps, values = line
    stride = -(-len(steps) // MOST_POINTS)
    if stride == 1:
        return line
    # The last point is the one people read.
    kept = sorted({*range(0, len(steps), stride), len(steps) - 1})
    return [steps[i] for i in kept], [values[i] for i in kept]
