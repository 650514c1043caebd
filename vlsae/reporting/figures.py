"""Figures as SVG that takes the page's text colour and as PNG, each with its data beside it as CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlsae.environment import figures_are_drawn
from vlsae.runs.files import write_atomic

#: Colours that read on white and on black and are told apart by most colour-blind readers.
COLORS = ("#2a80c0", "#d55e00", "#009e73", "#c05fa0", "#b8860b", "#7a6ff0")
DASHES = ("-", "--", ":", "-.")
PNG_DPI = 144

#: What text and axes are drawn in, to be replaced by the page's own colour.
_INK = "#010203"

_SETTINGS: Any = {
    # Names of numbers are no formulas, whatever signs they hold.
    "text.parse_math": False,
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10.0,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _INK,
    "grid.alpha": 0.15,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
}


@dataclass
class Drawing:
    """What a canvas gives once its block has ended: ``svg`` for the page and ``png`` on white, for slides.

    Both are empty where figures are not drawn.
    """

    svg: str = ""
    png: bytes = b""


@dataclass(frozen=True)
class Figure:
    """A drawn figure: its name in files, its title, the drawing, the rows it was drawn from, a description in words.

    One that is ``wide`` takes the page's whole width.
    """

    name: str
    title: str
    drawing: Drawing
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    description: str = ""
    wide: bool = False

    @property
    def svg(self) -> str:
        """The bare ``<svg>`` element."""
        return self.drawing.svg

    def write(self, folder: Path) -> None:
        """Write ``<name>.csv`` into a folder and, of a figure that is drawn, ``<name>.svg`` and ``<name>.png``."""
        folder.mkdir(parents=True, exist_ok=True)
        for ending, content in (("svg", self.svg), ("png", self.drawing.png)):
            if content:
                write_atomic(folder / f"{self.name}.{ending}", content)
            else:
                # A drawing of an earlier time would not show the rows that are written now.
                (folder / f"{self.name}.{ending}").unlink(missing_ok=True)
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        write_atomic(folder / f"{self.name}.csv", buffer.getvalue())


@contextmanager
def canvas(
    name: str, width: float = 5.2, height: float = 3.0, panels: tuple[int, int] = (1, 1)
) -> Iterator[tuple[Any, Drawing]]:
    """Give axes to draw on, an array of them for several panels, and the drawing, filled once the block ends."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Sheet

    drawn = Drawing()
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": name}):
        sheet = Sheet(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(sheet)
        yield sheet.subplots(*panels), drawn
        if not figures_are_drawn():
            return
        text, pixels = io.StringIO(), io.BytesIO()
        sheet.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
        # The layout is found by then, which costs as much as the drawing.
        sheet.set_layout_engine("none")
        sheet.savefig(pixels, format="png", dpi=PNG_DPI, facecolor="white", metadata={"Software": None})
        drawn.svg, drawn.png = _for_the_page(text.getvalue(), name), pixels.getvalue()


def grid_of(axes: Any) -> list[Any]:
    """Return one axes, or an array of them, as a list, row by row."""
    return list(axes.flat) if hasattr(axes, "flat") else [axes]


def log_axis(axes: Any, which: str) -> None:
    """Make the x or y axis logarithmic, its ticks labelled with plain numbers."""
    from matplotlib.ticker import LogFormatter

    getattr(axes, f"set_{which}scale")("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(LogFormatter())
    axis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(1, 0.4)))


def legend(axes: Any) -> None:
    """Put the legend above the axes, where it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        axes.figure.legend(handles, labels, loc="outside upper left", ncols=min(2, len(labels)), fontsize=9)


def _for_the_page(svg: str, name: str) -> str:
    """Return the bare ``<svg>`` element, scaling, in the page's colour, its ids unique on the page."""
    svg = svg[svg.index("<svg") :]
    svg = svg.replace(_INK, "currentColor")
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'^<svg ([^>]*?)width="[^"]*" height="[^"]*"', r"<svg \1", svg)
    return re.sub(r'^<svg ([^>]*?)height="[^"]*"([^>]*?)width="[^"]*"', r"<svg \1\2", svg)
