"""probe=neuron: what single units of a layer, or concepts of a dictionary, answer to.

Shapes: n rows, F factors.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np

from vlsae.bounds import Range
from vlsae.errors import UserError
from vlsae.probes.base import Probe, Representations, SiteRows
from vlsae.probes.folds import grouped_folds
from vlsae.probes.rules import Rule, best_rule
from vlsae.probes.scores import auroc_parts, grouped_explained, grouped_shares
from vlsae.probes.targets import Target, Targets
from vlsae.progress import progress
from vlsae.result import Measure, Plot, Result, Series, Table

#: Characters of a text in a table of inputs.
TEXT = 160

#: Bars of the tuning figure at most, and rows of its table by unit.
TUNED = 20


class Neuron(Probe):
    """Single units of every site: their strongest inputs, what they are tuned to, and the best rule for them.

    ``units`` are column numbers; by default the ``most`` of highest kurtosis at each site. Tuning is found on one half
    of the groups and measured on the other. ``top`` inputs of each unit are listed.
    """

    def __init__(
        self,
        *,
        units: list[Annotated[int, Range(0, None)]] | None = None,
        most: Annotated[int, Range(1, None)] = 10,
        top: Annotated[int, Range(1, 100)] = 10,
        targets: list[str] | None = None,
        folds: Annotated[int, Range(3, 100)] = 5,
        resamples: Annotated[int, Range(100, None)] = 500,
    ) -> None:
        self.units, self.most, self.top, self.targets = units, most, top, targets
        self.folds, self.resamples = folds, resamples

    def check(self, targets: Targets) -> None:
        """Raise ``UserError`` for targets that are not there and for fewer groups than folds."""
        targets.select(self.targets)
        grouped_folds(targets.groups, self.folds)

    def measure(self, representations: Representations, targets: Targets) -> Result:
        """Return tuning, selectivity and rule of each unit, with intervals over groups."""
        chosen = targets.select(self.targets)
        inputs: list[list[Any]] = []
        tuning: list[list[Any]] = []
        units: list[list[Any]] = []
        metrics: dict[str, Measure] = {}
        with progress("neurons", len(representations.sites), "sites") as advance:
            for site, rows in representations:
                x = rows.read().numpy().astype(np.float64)
                for unit in self._units(site, x):
                    found = self._unit(site, unit, x[:, unit], rows, chosen, targets, representations.seed)
                    inputs += found[0]
                    tuning += found[1]
                    units.append(found[2])
                    metrics |= found[3]
                advance(1, site)
        tables = [
            Table("units", "Units and the best rule for each", UNIT_COLUMNS, units, UNITS_TEXT, shown=True),
            Table("tuning", "Tuning to each factor", TUNING_COLUMNS, tuning, TUNING_TEXT),
            Table("inputs", "Strongest inputs of each unit", INPUT_COLUMNS, inputs),
        ]
        bars = sorted(units, key=lambda row: -(row[6] if row[6] is not None else -1))[:TUNED]
        series = Series("explained by the rule", [f"{row[0]} {row[1]}" for row in bars], [row[6] for row in bars])
        plot = Plot(
            "rules", "Units best explained by a rule", "unit", "share of variance", [series], "bars", UNITS_TEXT
        )
        return Result(metrics, tables, [plot], headline=[f"explained/{row[0]}/{row[1]}" for row in bars[:12]])

    def _units(self, site: str, x: np.ndarray) -> list[int]:
        if self.units is not None:
            beyond = [unit for unit in self.units if unit >= x.shape[1]]
            if beyond:
                raise UserError(
                    f"There is no unit {beyond[0]} at {site}.", f"It has units 0…{x.shape[1] - 1}: probe.units=[0]."
                )
            return list(self.units)
        centered = x - x.mean(axis=0)
        spread = (centered**2).mean(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            peaked = np.where(spread > 0, (centered**4).mean(axis=0) / spread**2, -1.0)
        order = np.argsort(-peaked, kind="stable")[: self.most]
        return sorted(int(unit) for unit in order if peaked[unit] > 0)

    def _unit(
        self,
        site: str,
        unit: int,
        activity: np.ndarray,
        rows: SiteRows,
        chosen: list[Target],
        targets: Targets,
        seed: int,
    ) -> tuple[list[list[Any]], list[list[Any]], list[Any], dict[str, Measure]]:
        owner = rows.sample
        groups = targets.groups[owner]
        inputs = [
            [site, unit, rank, float(activity[row]), targets.samples["sample_id"][int(owner[row])].as_py(), text]
            for rank, (row, text) in enumerate(_strongest(activity, rows, targets, self.top), 1)
        ]
        # One half of the groups finds the factor a unit is tuned to, the other half measures it.
        half = grouped_folds(groups, 2, seed)
        tuned: list[list[Any]] = []
        for one in (one for one in chosen if one.kind == "binary"):
            own = _tuning(activity, one, owner, half, groups, self.resamples, seed)
            if own is not None:
                tuned.append([site, unit, one.name, *own])
        best = max(tuned, key=lambda row: abs(row[4] - 0.5), default=None)
        rule, low, high = self._rule(activity, chosen, owner, groups, seed)
        shared = None if best is None else _selective(tuned, best)
        row = [
            site, unit, float((activity != 0).mean()), None if best is None else best[2],
            None if best is None else best[5], shared, rule.explained, low, high, rule.words,
        ]  # fmt: skip
        metrics = {f"explained/{site}/{unit}": Measure(rule.explained, "share", low, high)}
        if best is not None:
            metrics[f"tuning/{site}/{unit}"] = Measure(best[5], "AUROC", best[6], best[7])
        return inputs, tuned, row, metrics

    def _rule(
        self, activity: np.ndarray, chosen: list[Target], owner: np.ndarray, groups: np.ndarray, seed: int
    ) -> tuple[Rule, float, float]:
        columns, names = [], []
        for one in chosen:
            values = one.values[owner]
            if one.kind == "classes":
                columns += [(values == number).astype(float) for number in range(len(one.classes))]
                names += [f"{one.name}={word}" for word in one.classes]
            else:
                # A missing value is a value of its own to a tree, below all others.
                columns.append(np.where(np.isfinite(values), values, np.nanmin(values) - 1))
                plain = one.factor != one.name or one.classes in ((), ("0", "1"), ("False", "True"))
                names.append(one.name if plain else f"{one.name}={one.classes[1]}")
        rule = best_rule(activity, np.stack(columns, axis=1), names, grouped_folds(groups, self.folds, seed), seed)
        if not np.isfinite(rule.explained):
            return rule, float("nan"), float("nan")
        # How much of what the folds' trees tell is noise is not known.
        found = grouped_explained(rule.parts, groups, shared=1.0)
        return rule, float(found.low), float(found.high)


def _strongest(activity: np.ndarray, rows: SiteRows, targets: Targets, top: int) -> list[tuple[int, str]]:
    """Return the rows of highest activity with their texts."""
    order = np.argsort(-activity, kind="stable")[:top]
    items = rows.table["item"].to_numpy()
    found = []
    for row in order:
        texts = (
            targets.samples["texts"][int(rows.sample[row])].as_py() if "texts" in targets.samples.column_names else []
        )
        text = texts[min(int(items[row]), len(texts) - 1)] if texts else ""
        found.append((int(row), text if len(text) <= TEXT else text[: TEXT - 1] + "…"))
    return found


def _tuning(
    activity: np.ndarray,
    target: Target,
    owner: np.ndarray,
    half: np.ndarray,
    groups: np.ndarray,
    resamples: int,
    seed: int,
) -> tuple[int, float, float, float, float] | None:
    """Return the rows with the factor, the AUROC on the first half, and on the second with its interval."""
    values = target.values[owner]
    held = np.isfinite(values)
    sides = [held & (half == number) for number in range(2)]
    if any(len(np.unique(values[side])) < 2 for side in sides):
        return None
    first = auroc_parts(activity[sides[0]], values[sides[0]], np.zeros(sides[0].sum()))[0]
    second, parts = auroc_parts(activity[sides[1]], values[sides[1]], np.zeros(sides[1].sum()))
    found = grouped_shares(parts[:, None], groups[sides[1]], resamples=resamples, seed=seed)
    low, high = (float(np.atleast_1d(end)[0]) for end in (found.low, found.high))
    return int(np.nansum(values)), first, second, low, high


def _selective(tuned: list[list[Any]], best: list[Any]) -> float:
    """Return how much further the second half's AUROC of the best factor lies from 0.5 than the next best's."""
    others = [abs(row[5] - 0.5) for row in tuned if row is not best]
    return abs(best[5] - 0.5) - max(others, default=0.0)


UNIT_COLUMNS = [
    "site", "unit", "active", "tuned to", "AUROC", "selectivity", "explained", "low", "high", "rule",
]  # fmt: skip
TUNING_COLUMNS = ["site", "unit", "factor", "rows", "AUROC found", "AUROC", "low", "high"]
INPUT_COLUMNS = ["site", "unit", "rank", "activity", "sample", "text"]
UNITS_TEXT = (
    "Tuned to: the factor found on one half of the groups, its AUROC on the other. Selectivity: how much further from "
    "0.5 than the next factor's. Explained: share of the activity's variance out of fold by the best decision tree of "
    "at most three factors on a way, with its 95 % interval; the rule leads to the tree's highest leaf."
)
TUNING_TEXT = "AUROC of the unit's activity for each factor on the half of the groups that did not choose it."
