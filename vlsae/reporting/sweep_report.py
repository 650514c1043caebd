"""The report of a sweep: its runs in groups that differ by more than a seed, each seed a point, what failed listed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from vlsae.errors import UserError
from vlsae.reporting.numbers import HEADLINE, text_of
from vlsae.reporting.plots import draw
from vlsae.reporting.privacy import Privacy
from vlsae.reporting.rendering import render
from vlsae.reporting.report import FIGURES, REPORT, written
from vlsae.result import Plot, Series
from vlsae.runs.files import write_atomic
from vlsae.runs.metrics import read_summary
from vlsae.runs.results import TABLES, read_result_file, write_table
from vlsae.sweep_record import read_sweep

#: Metrics that are drawn; all of them are in the table's file.
MOST_DRAWN = 12
#: Overrides that only set a seed.
_SEED = re.compile(r"\+{0,2}([\w.]*\.)?seed=")

COLUMNS = ("group", "metric", "mean", "lowest", "highest", "runs", "unit")


@dataclass(frozen=True)
class Child:
    """A job of a sweep; ``metrics`` are its run's numbers, none where it is not done."""

    job: int
    overrides: str
    group: str
    status: str
    run_id: str
    link: str | None
    error: str
    metrics: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Spread:
    """A metric in a group of runs that differ by their seeds alone."""

    group: str
    metric: str
    unit: str
    values: list[float]

    def row(self) -> list[Any]:
        """Return the row of the table: mean, smallest, largest, how many runs."""
        numbers = [fmean(self.values), min(self.values), max(self.values), len(self.values)]
        return [self.group, self.metric, *numbers, self.unit]


def write_sweep_report(folder: Path, *, privacy: Privacy | None = None) -> Path:
    """Write ``report.html``, ``figures/`` and ``tables/sweep.csv`` into a sweep's folder and return the page's path."""
    folder, privacy = folder.resolve(), privacy or Privacy()
    record = read_sweep(folder)
    children = _children(folder, record)
    spreads = _spreads(children)
    write_table(folder / TABLES, "sweep", COLUMNS, [spread.row() for spread in spreads])
    shown = _headline(folder, children, spreads)
    plot = _plot(spreads, shown[:MOST_DRAWN])
    figure = None if plot is None else draw(asdict(plot))
    if figure is not None:
        figure.write(folder / FIGURES)
    values = {
        "title": record["sweep_id"],
        "record": record,
        "command": privacy.paths(" ".join(map(str, record["command"]))),
        "children": [_redacted(child, privacy) for child in children],
        "failed": [_redacted(child, privacy) for child in children if child.status != "done"],
        "groups": list(dict.fromkeys(child.group for child in children)),
        "rows": [[text_of(cell) for cell in spread.row()] for spread in spreads if spread.metric in shown],
        "figure": figure,
        "written": written(),
        "writer": "",
    }
    write_atomic(folder / REPORT, render("sweep.html.j2", values))
    return folder / REPORT


def group_of(overrides: Sequence[str], common: set[str]) -> str:
    """Return what sets a job apart from the others of its sweep, seeds aside."""
    own = [word for word in overrides if not _SEED.match(word) and word not in common]
    return " ".join(own) or "all"


def _children(folder: Path, record: Mapping[str, Any]) -> list[Child]:
    root = folder.parents[2]
    jobs = record["jobs"]
    common = set.intersection(*(set(job["overrides"]) for job in jobs)) if jobs else set()
    return [_child(job, common, root, folder) for job in jobs]


def _child(job: Mapping[str, Any], common: set[str], root: Path, folder: Path) -> Child:
    run_id = str(job["run_id"] or "")
    path = root / run_id if run_id else None
    summary = read_summary(path) if path is not None and job["status"] == "done" else None
    link = None
    if path is not None and path.is_dir():
        target = next((path / name for name in (REPORT, "manifest.json") if (path / name).is_file()), path)
        link = Path(os.path.relpath(target, folder)).as_posix()
    return Child(
        int(job["job"]),
        " ".join(job["overrides"]),
        group_of(job["overrides"], common),
        str(job["status"]),
        run_id,
        link,
        str(job["error"] or ""),
        (summary or {"metrics": {}})["metrics"],
    )


def _spreads(children: Sequence[Child]) -> list[Spread]:
    found: dict[tuple[str, str], Spread] = {}
    for child in children:
        for metric, measure in child.metrics.items():
            if measure["value"] is not None:
                spread = Spread(child.group, metric, str(measure["unit"]), [])
                found.setdefault((metric, child.group), spread).values.append(float(measure["value"]))
    order = list(dict.fromkeys(child.group for child in children))
    metrics = list(dict.fromkeys(metric for metric, _ in found))
    return [found[metric, group] for metric in metrics for group in order if (metric, group) in found]


def _headline(folder: Path, children: Sequence[Child], spreads: Sequence[Spread]) -> list[str]:
    """Return the metrics shown on the page: those that the runs' stage named, else the known ones, else all."""
    known = list(dict.fromkeys(spread.metric for spread in spreads))
    named: list[str] = []
    for child in children:
        try:
            found = read_result_file(folder.parents[2] / child.run_id) if child.metrics else None
        except UserError:
            continue
        named += found["headline"] if found else []
    return [name for name in dict.fromkeys(named or HEADLINE) if name in known] or known


def _plot(spreads: Sequence[Spread], metrics: Sequence[str]) -> Plot | None:
    series = []
    for metric in metrics:
        own = [spread for spread in spreads if spread.metric == metric]
        names = [spread.group for spread in own]
        points = [(spread.group, value) for spread in own for value in spread.values]
        means = [fmean(spread.values) for spread in own]
        low, high = ([edge(spread.values) for spread in own] for edge in (min, max))
        series.append(Series("each run", [name for name, _ in points], [value for _, value in points], panel=metric))
        series.append(Series("mean and range", names, means, low, high, panel=metric))
    if not series:
        return None
    title = "Each run a point; runs of one group differ by their seed"
    return Plot("sweep", title, "", "", series, kind="points")


def _redacted(child: Child, privacy: Privacy) -> Child:
    overrides, group, error = (privacy.paths(text) for text in (child.overrides, child.group, child.error))
    return replace(child, overrides=overrides, group=group, error=error)
