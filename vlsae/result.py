"""What a probe, an index or a task gives back: numbers with intervals, tables, and the data of its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlsae.errors import UserError
from vlsae.runs import Measure

__all__ = ["HeatMap", "Measure", "Plot", "Result", "Series", "Table", "merge"]

KINDS = ("lines", "points", "bars", "scatter")


@dataclass(frozen=True)
class Table:
    """A table: its name in files, its title, columns and rows; one that is ``shown`` is printed in the terminal too.

    ``pictures``: small pictures, PNG or JPEG, that stand before the rows on the page, None for a row without.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    description: str = ""
    shown: bool = False
    pictures: Sequence[bytes | None] = ()

    def __post_init__(self) -> None:
        if self.pictures and len(self.pictures) != len(self.rows):
            raise ValueError(f"Table {self.name}: {len(self.pictures)} pictures for {len(self.rows)} rows.")
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"Table {self.name}: row {number} has {len(row)} cells for {len(self.columns)} columns."
                )


@dataclass(frozen=True)
class Series:
    """One line, row of points or group of bars of a plot; ``low`` and ``high`` bound its interval at each ``x``.

    ``panel`` names the small picture that it belongs to, where a plot has several side by side.
    """

    label: str
    x: Sequence[float | str]
    y: Sequence[float | None]
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None
    panel: str = ""

    def __post_init__(self) -> None:
        lengths = {len(part) for part in (self.x, self.y, self.low, self.high) if part is not None}
        if len(lengths) > 1:
            raise ValueError(f"Series {self.label}: x, y, low and high have {sorted(lengths)} values; they must agree.")


@dataclass(frozen=True)
class Plot:
    """The data of a figure: ``lines`` and ``points`` with intervals, ``bars`` by name, ``scatter`` without order.

    ``reference`` maps the name of a horizontal line, such as chance, to its height.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    kind: str = "lines"
    description: str = ""
    reference: Mapping[str, float] = field(default_factory=dict)
    log_x: bool = False
    log_y: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"Plot {self.name}: kind is {self.kind!r}.", f"Use one of {', '.join(KINDS)}.")


@dataclass(frozen=True)
class HeatMap:
    """The data of a picture of numbers ``values (r, c)``, with a name a row and a column."""

    name: str
    title: str
    x_label: str
    y_label: str
    columns: Sequence[str]
    rows: Sequence[str]
    values: Sequence[Sequence[float | None]]
    description: str = ""


@dataclass(frozen=True)
class Result:
    """Numbers by name, tables, figures' data, and ``notes``: sentences that a reader must see with the numbers.

    ``headline`` names the numbers shown first, in that order; without one all are.
    """

    metrics: Mapping[str, Measure]
    tables: Sequence[Table] = ()
    plots: Sequence[Plot | HeatMap] = ()
    notes: Sequence[str] = ()
    headline: Sequence[str] = ()


def merge(*results: Result) -> Result:
    """Return several results as one, in order; a later number replaces an earlier one of the same name."""
    metrics = {name: measure for result in results for name, measure in result.metrics.items()}
    return Result(
        metrics,
        tuple(table for result in results for table in result.tables),
        tuple(plot for result in results for plot in result.plots),
        tuple(dict.fromkeys(note for result in results for note in result.notes)),
        tuple(dict.fromkeys(name for result in results for name in result.headline)),
    )
