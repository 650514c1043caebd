"""Dictionaries side by side: explained variance against L0, and every number among those of about the same L0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vlsae.result import Plot, Result, Series, Table
from vlsae.runs.metrics import Measure

#: How far apart in L0 dictionaries may be that are compared.
MATCHED = 0.05

#: What every table shows first.
SIZES = ("l0", "parameters", "rows_seen")


@dataclass(frozen=True)
class Compared:
    """A dictionary of a comparison: its run, its kind, its seed, and its numbers on the same rows as the others'."""

    run: str
    kind: str
    seed: int | None
    metrics: Mapping[str, Measure]

    @property
    def l0(self) -> float:
        """Active concepts a row, the mean of its streams; NaN where it was not measured."""
        found = [self.metrics[name].value for name in ("l0/vision", "l0/language") if name in self.metrics]
        own = [value for value in found if value is not None]
        return sum(own) / len(own) if own else float("nan")

    def number(self, name: str) -> float | None:
        """Return a number by its name, None where it was not measured."""
        return self.l0 if name == "l0" else self.metrics[name].value if name in self.metrics else None


def matched(compared: Sequence[Compared], tolerance: float = MATCHED) -> list[list[Compared]]:
    """Return groups of at least two dictionaries whose L0 lies within a tolerance of the group's first, largest first.

    Each dictionary is in one group at most.
    """
    left = sorted((one for one in compared if one.l0 > 0), key=lambda one: one.l0)
    groups = []
    while left:
        best = max(([other for other in left if abs(other.l0 / one.l0 - 1) <= tolerance] for one in left), key=len)
        left = [one for one in left if one not in best]
        if len(best) > 1:
            groups.append(best)
    return groups


def comparison(compared: Sequence[Compared]) -> Result:
    """Return the comparison of dictionaries that were measured on the same rows: tables and the figure.

    ``comparison`` has a row a dictionary, seeds each; ``matched_l0`` the same by groups of L0 within 5 %.
    """
    names = list(dict.fromkeys(name for one in compared for name in one.metrics if name not in SIZES))
    columns = ("run", "kind", "seed", *SIZES, *names)

    def row(one: Compared) -> tuple[object, ...]:
        return (one.run, one.kind, one.seed, *(one.number(name) for name in (*SIZES, *names)))

    groups = matched(compared)
    rows = [(f"{group[0].l0:.3g}", *row(one)) for group in groups for one in group]
    notes = [
        "Intervals are of this checkpoint: they resample the rows it was scored on, and say nothing of other seeds.",
        f"Dictionaries are compared at L0 within {MATCHED:.0%}: {len(groups)} groups of at least two.",
    ]
    return Result(
        {},
        (
            Table("comparison", "Every dictionary on the same rows", columns, [row(one) for one in compared]),
            Table("matched_l0", "The same where L0 is within 5 %", ("group_l0", *columns), rows),
        ),
        [_frontier(compared, stream) for stream in ("vision", "language") if _measured(compared, stream)],
        notes,
    )


def _measured(compared: Sequence[Compared], stream: str) -> bool:
    return any(one.number(f"explained_variance/{stream}") is not None for one in compared)


def _frontier(compared: Sequence[Compared], stream: str) -> Plot:
    series = []
    for kind in dict.fromkeys(one.kind for one in compared):
        own = sorted((one for one in compared if one.kind == kind), key=lambda one: one.l0)
        own = [one for one in own if f"explained_variance/{stream}" in one.metrics]
        measures = [one.metrics[f"explained_variance/{stream}"] for one in own]
        series.append(
            Series(
                kind,
                [one.metrics[f"l0/{stream}"].value or 0.0 for one in own],
                [measure.value for measure in measures],
                [measure.low for measure in measures],
                [measure.high for measure in measures],
            )
        )
    return Plot(
        f"explained_variance_{stream}",
        f"Explained variance against active concepts, {stream}",
        "active concepts a row (L0)",
        "explained variance",
        series,
        kind="points",
        log_x=True,
    )
