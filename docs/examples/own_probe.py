"""A probe of your own: how many held-out rows lie nearest to the mean of their own class.

    vlsae probe --plugin own_probe.py probe=nearest_mean 'probe.targets=["color=red"]' --layer 6

Without targets and layer it asks every layer for every label.
"""

from __future__ import annotations

import numpy as np

from vlsae.errors import UserError
from vlsae.plugins import register
from vlsae.probes.base import Probe, Representations, SiteRows
from vlsae.probes.targets import Target, Targets
from vlsae.result import Measure, Plot, Result, Series, Table
from vlsae.statistics import bootstrap


@register("probe", "nearest_mean")
class NearestMean(Probe):
    """The share of held-out rows whose nearest class mean, taken from the training rows, is their own class's."""

    def __init__(self, *, targets: list[str] | None = None) -> None:
        self.targets = targets

    def check(self, targets: Targets) -> None:
        """Refuse what cannot be measured, before a model is run for it."""
        self._chosen(targets)

    def measure(self, representations: Representations, targets: Targets) -> Result:
        """Return a share with its interval for each target and site, as numbers, a table and a figure."""
        metrics, series = {}, []
        for target in self._chosen(targets):
            found = {site: _share(rows, target, representations.seed) for site, rows in representations}
            metrics.update({f"share/{target.name}/{site}": one for site, one in found.items()})
            bounds = [one.low for one in found.values()], [one.high for one in found.values()]
            series.append(Series(target.name, list(found), [one.value for one in found.values()], *bounds))
        rows = [(name, one.value, one.low, one.high) for name, one in metrics.items()]
        table = Table("nearest_mean", "Nearest mean", ("number", "share", "low", "high"), rows, shown=True)
        plot = Plot("nearest_mean", "Rows nearest to their own class's mean", "site", "share", series, kind="points")
        return Result(metrics, [table], [plot])

    def _chosen(self, targets: Targets) -> list[Target]:
        chosen = [target for target in targets.select(self.targets) if target.kind != "number"]
        if not chosen:
            raise UserError("No target has classes.", "Name one with classes: probe.targets=[NAME]")
        return chosen


def _share(rows: SiteRows, target: Target, seed: int) -> Measure:
    values, labels = rows.read().numpy(), target.values[rows.sample]
    held_out = np.array([split != "train" for split in rows.table.column("split").to_pylist()])
    known = np.isfinite(labels)
    train, test = known & ~held_out, known & held_out
    classes = np.unique(labels[train])
    if len(classes) < 2 or not test.any():
        return Measure(None, "share of rows")
    means = np.stack([values[train & (labels == one)].mean(axis=0) for one in classes])
    distances = ((values[test][:, None] - means) ** 2).sum(axis=2)
    right = classes[distances.argmin(axis=1)] == labels[test]
    interval = bootstrap(lambda drawn: right[drawn].mean(), len(right), resamples=200, seed=seed)
    return Measure(float(interval.estimate), "share of rows", float(interval.low), float(interval.high))
