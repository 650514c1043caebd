"""Several runs side by side on one page: in what they differ, their numbers, their curves, their best concepts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlsae.dictionaries.names_file import has_names, read_names
from vlsae.reporting.curves import NOT_DRAWN, TITLES
from vlsae.reporting.figures import Figure
from vlsae.reporting.numbers import HEADLINE, Number, meaning, number
from vlsae.reporting.plots import draw
from vlsae.reporting.privacy import Privacy
from vlsae.reporting.rendering import render
from vlsae.reporting.report import FIGURES, REPORT, written
from vlsae.result import Plot, Series
from vlsae.runs.difference import flat, read_config
from vlsae.runs.files import write_atomic
from vlsae.runs.manifest import read_manifest
from vlsae.runs.metrics import read_metrics, read_summary
from vlsae.runs.results import read_result_file

#: The folder, under that of all runs, that comparisons are written to.
REPORTS = "reports"
MOST_PANELS = 12
MOST_POINTS = 300
BEST_CONCEPTS = 12


@dataclass(frozen=True)
class Side:
    """A run of a comparison: what its page is called, its numbers, its curves and its best names."""

    run_id: str
    label: str
    link: str
    status: str
    start: str
    metrics: Mapping[str, Mapping[str, Any]]
    lines: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]
    headline: Sequence[str]
    names: Sequence[tuple[int, str, str]]


def comparison_folder(root: Path, paths: Sequence[Path]) -> Path:
    """Return the folder of the comparison of some runs: the same runs in the same order, the same folder."""
    ids = [str(read_manifest(path)["run_id"]) for path in paths]
    digest = hashlib.sha256("\n".join(ids).encode("utf-8")).hexdigest()[:8]
    return root / REPORTS / f"{len(ids)}-runs-{digest}"


def write_comparison(paths: Sequence[Path], folder: Path, *, privacy: Privacy | None = None) -> Path:
    """Write ``report.html`` and ``figures/`` of several runs side by side into a folder; return the page's path."""
    privacy = privacy or Privacy()
    folder.mkdir(parents=True, exist_ok=True)
    sides = [_side(path, letter, folder, privacy) for path, letter in zip(paths, _letters(len(paths)), strict=True)]
    shown = list(dict.fromkeys(name for side in sides for name in side.headline))
    figures = [figure for figure in (_numbers_figure(sides, shown), _curves_figure(sides)) if figure is not None]
    for figure in figures:
        figure.write(folder / FIGURES)
    every = list(dict.fromkeys(name for side in sides for name in side.metrics))
    values = {
        "title": f"{len(sides)} runs side by side",
        "privacy": privacy.note,
        "sides": sides,
        "differences": _differences(sides, privacy),
        "headline": [_numbers(name, sides) for name in shown],
        "numbers": [_numbers(name, sides) for name in every if name not in shown],
        "figures": figures,
        "written": written(),
        "writer": "",
    }
    write_atomic(folder / REPORT, render("comparison.html.j2", values))
    return folder / REPORT


def _side(path: Path, letter: str, folder: Path, privacy: Privacy) -> Side:
    manifest = read_manifest(path)
    metrics = (read_summary(path) or {"metrics": {}})["metrics"]
    found = read_result_file(path)
    target = next((path / name for name in (REPORT, "manifest.json") if (path / name).is_file()), path)
    named = found["headline"] if found else []
    return Side(
        str(manifest["run_id"]),
        letter,
        Path(os.path.relpath(target, folder.resolve())).as_posix(),
        str(manifest["status"]),
        str(manifest["start"])[:16].replace("T", " "),
        metrics,
        read_metrics(path),
        {name: value for name, value in flat(read_config(path)).items() if name not in ("name", "assume_yes")},
        [name for name in named or HEADLINE if name in metrics] or list(metrics)[:MOST_PANELS],
        [] if privacy.redact else _best_names(path),
    )


def _best_names(path: Path) -> list[tuple[int, str, str]]:
    if not has_names(path):
        return []
    named = [one for one in read_names(path).values() if one.name is not None]
    best = sorted(named, key=lambda one: (-(one.score or 0.0), one.concept))[:BEST_CONCEPTS]
    return [(one.concept, str(one.name), "" if one.score is None else f"{one.score:.3f}") for one in best]


def _letters(n: int) -> list[str]:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return [alphabet[i] if n <= len(alphabet) else str(i + 1) for i in range(n)]


def _numbers(name: str, sides: Sequence[Side]) -> tuple[str, str, list[Number | None]]:
    return name, meaning(name), [number(name, side.metrics[name]) if name in side.metrics else None for side in sides]


def _differences(sides: Sequence[Side], privacy: Privacy) -> list[tuple[str, list[str]]]:
    """Return the settings in which the runs differ, with each run's value."""
    names = list(dict.fromkeys(name for side in sides for name in side.settings))
    rows = []
    for name in names:
        cells = ["–" if name not in side.settings else str(side.settings[name]) for side in sides]
        if len(set(cells)) > 1:
            rows.append((name, [privacy.paths(cell) for cell in cells]))
    return rows


def _numbers_figure(sides: Sequence[Side], shown: Sequence[str]) -> Figure | None:
    series = []
    for name in shown[:MOST_PANELS]:
        own = [side for side in sides if side.metrics.get(name, {}).get("value") is not None]
        y, low, high = ([side.metrics[name][part] for side in own] for part in ("value", "low", "high"))
        if own:
            known = None not in low + high
            labels = [side.label for side in own]
            series.append(Series("run", labels, y, low if known else None, high if known else None, name))
    if not series:
        return None
    title = "First numbers, with 95 % intervals"
    return draw(asdict(Plot("comparison-numbers", title, "", "", series, kind="points")))


def _curves_figure(sides: Sequence[Side]) -> Figure | None:
    """Return the runs' curves over each other, a panel a number: of validation where there is one, else of training."""
    names = [
        name
        for name in dict.fromkeys(key for side in sides for line in side.lines for key in line)
        if name not in NOT_DRAWN
    ]
    series = []
    for name in names[:MOST_PANELS]:
        for side in sides:
            points = _points(side.lines, name)
            if points:
                x, y = zip(*points)
                series.append(Series(side.label, list(x), list(y), panel=TITLES.get(name, name)))
    if not series:
        return None
    return draw(asdict(Plot("comparison-curves", "Curves", "step", "", series)))


def _points(lines: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    by_split: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        if isinstance(line.get(name), (int, float)):
            by_split.setdefault(str(line["split"]), []).append((int(line["step"]), float(line[name])))
    points = by_split.get("validation") or by_split.get("train") or []
    stride = -(-len(points) // MOST_POINTS) or 1
    return points[::stride]
