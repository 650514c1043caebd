"""Drawing the figures' data that a stage left in ``result.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlsae.reporting.figures import COLORS, DASHES, Figure, canvas, grid_of, legend, log_axis

#: Names on an axis above which they are written aslant.
MOST_LEVEL_NAMES = 8

#: Panels of a plot that stands beside another one; more of them need the page's width to be read.
MOST_BESIDE = 4


def draw(plot: Mapping[str, Any]) -> Figure:
    """Return the figure of a plot's data (see :class:`vlsae.result.Plot` and ``HeatMap``)."""
    return _heat_map(plot) if plot["kind"] == "heat_map" else _plot(plot)


def _plot(plot: Mapping[str, Any]) -> Figure:
    panels = list(dict.fromkeys(series["panel"] for series in plot["series"])) or [""]
    labels = list(dict.fromkeys(series["label"] for series in plot["series"]))
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    size = (5.2, 3.0) if len(panels) == 1 else (2.6 * columns, 2.2 * rows)
    with canvas(plot["name"], *size, panels=(rows, columns)) as (made, drawn):
        every = grid_of(made)
        for axes, panel in zip(every, panels, strict=False):
            own = [series for series in plot["series"] if series["panel"] == panel]
            _panel(axes, plot, own, labels)
            if panel:
                axes.set_title(panel, fontsize=9)
        for axes in every[len(panels) :]:
            axes.set_visible(False)
        if _same_labels(plot["series"], panels):
            legend(every[0])
        else:
            for axes in every[: len(panels)]:
                axes.legend(fontsize=5, ncols=2, handlelength=1.2, labelspacing=0.2)
    data = [
        [
            series["panel"],
            series["label"],
            x,
            y,
            *(part[i] if part else None for part in (series["low"], series["high"])),
        ]
        for series in plot["series"]
        for i, (x, y) in enumerate(zip(series["x"], series["y"], strict=True))
    ]
    columns_of_data = ("panel", "series", "x", "y", "low", "high")
    wide = len(panels) > MOST_BESIDE
    return Figure(plot["name"], plot["title"], drawn, columns_of_data, data, plot["description"], wide)


def _panel(axes: Any, plot: Mapping[str, Any], own: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> None:
    names = _names(own)
    for place, series in enumerate(own):
        number = labels.index(series["label"])
        x = [names.index(value) for value in series["x"]] if names else list(series["x"])
        shift = 0.0
        if plot["kind"] == "bars":
            shift = 0.8 * ((place + 0.5) / len(own) - 0.5)
        _series(axes, plot["kind"], series, [value + shift for value in x], number, len(own))
    if plot["kind"] not in ("lines", "bars"):
        # A point at the edge of a small panel would be cut.
        axes.margins(0.12)
    for number, (name, height) in enumerate(plot["reference"].items()):
        axes.axhline(height, linestyle=DASHES[1 + number % 3], color=COLORS[-1], linewidth=1.2, label=name)
    if names:
        aslant = {"rotation": 35, "ha": "right"} if len(names) > MOST_LEVEL_NAMES or max(map(len, names)) > 12 else {}
        stride = -(-len(names) // MOST_LEVEL_NAMES) if plot["kind"] == "lines" else 1
        axes.set_xticks(range(0, len(names), stride), names[::stride], **aslant)
    for which in ("x", "y"):
        if plot[f"log_{which}"]:
            log_axis(axes, which)
    axes.set_xlabel(plot["x_label"])
    axes.set_ylabel(plot["y_label"])


def _series(axes: Any, kind: str, series: Mapping[str, Any], x: list[float], number: int, groups: int) -> None:
    color, dash = COLORS[number % len(COLORS)], DASHES[number // len(COLORS) % len(DASHES)]
    y = [float("nan") if value is None else value for value in series["y"]]
    low, high = (
        None if part is None else [float("nan") if value is None else value for value in part]
        for part in (series["low"], series["high"])
    )
    if kind == "lines":
        axes.plot(x, y, dash, color=color, marker="o", markersize=3, linewidth=1.6, label=series["label"])
        if low is not None and high is not None:
            axes.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
        return
    if kind == "bars":
        axes.bar(x, y, 0.75 / groups, color=color, label=series["label"])
    else:
        small = kind == "scatter" and len(x) > 200
        axes.plot(
            x, y, "o", color=color, markersize=2.5 if small else 5, alpha=0.6 if small else 1, label=series["label"]
        )
    if low is not None and high is not None:
        axes.vlines(x, low, high, color=color if kind != "bars" else COLORS[1], linewidth=1.6)


def _heat_map(plot: Mapping[str, Any]) -> Figure:
    import numpy as np

    values = np.array([[np.nan if cell is None else cell for cell in row] for row in plot["values"]], dtype=float)
    size = (2.2 + 0.42 * min(24, len(plot["columns"])), 1.4 + 0.3 * min(30, len(plot["rows"])))
    with canvas(plot["name"], *size) as (axes, drawn):
        axes.grid(False)
        picture = axes.imshow(values, aspect="auto", cmap="viridis")
        axes.figure.colorbar(picture, ax=axes)
        for which, names in (("x", plot["columns"]), ("y", plot["rows"])):
            stride = -(-len(names) // 30)
            turn = {"rotation": 60, "ha": "right"} if which == "x" and max(map(len, names), default=0) > 3 else {}
            getattr(axes, f"set_{which}ticks")(range(0, len(names), stride), names[::stride], **turn)
        axes.set_xlabel(plot["x_label"])
        axes.set_ylabel(plot["y_label"])
    rows = [
        [row, column, cell]
        for row, cells in zip(plot["rows"], plot["values"], strict=True)
        for column, cell in zip(plot["columns"], cells, strict=True)
    ]
    return Figure(plot["name"], plot["title"], drawn, ("row", "column", "value"), rows, plot["description"])


def _same_labels(every: Sequence[Mapping[str, Any]], panels: Sequence[str]) -> bool:
    """Tell whether all panels show series of the same names, which one legend then explains."""
    own = [tuple(series["label"] for series in every if series["panel"] == panel) for panel in panels]
    return all(labels == own[0] for labels in own)


def _names(own: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names on the x axis in order, none where x is a number."""
    values = [value for series in own for value in series["x"]]
    return list(dict.fromkeys(values)) if any(isinstance(value, str) for value in values) else []
