"""probe=linear: what a linear read-out finds in each layer (Alain and Bengio, 2016, arXiv 1610.01644)."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from vlsae.bounds import Range
from vlsae.probes.base import Measured, Probe, Representations
from vlsae.probes.folds import grouped_folds
from vlsae.probes.logistic import fit_logistic
from vlsae.probes.targets import Targets
from vlsae.result import Measure
from vlsae.statistics import bootstrap_sums


class Linear(Probe):
    """Logistic regression of each target on each site, out of fold."""

    def __init__(
        self,
        *,
        targets: list[str] | None = None,
        types: dict[str, str] | None = None,
        folds: Annotated[int, Range(2, None)] = 5,
        C: Annotated[float, Range(1e-12, None)] = 1.0,
    ) -> None:
        self.targets, self.types, self.folds, self.C = targets, types or {}, folds, C

    def check(self, targets: Targets) -> None:
        """Raise ``UserError`` for targets that are not there and for fewer groups than folds."""
        targets.select(self.targets, self.types)
        grouped_folds(targets.groups, self.folds)

    def measure(self, representations: Representations, targets: Targets) -> Measured:
        """Return the out-of-fold accuracy of each binary target at each site."""
        chosen = [one for one in targets.select(self.targets, self.types) if one.kind == "binary"]
        metrics = {}
        for site, rows in representations:
            x = rows.read().numpy()
            y = np.stack([one.values[rows.sample] for one in chosen], axis=1)
            folds = grouped_folds(targets.groups[rows.sample], self.folds, representations.seed)
            x = (x - x.mean(axis=0)) / np.where(x.std(axis=0) > 0, x.std(axis=0), 1)
            fit = fit_logistic(x, y, folds, self.C, np.isfinite(y).astype(float))
            for number, one in enumerate(chosen):
                held = np.isfinite(y[:, number])
                hit = ((fit.probabilities[held, number] > 0.5) == y[held, number])[:, None]
                found = bootstrap_sums(lambda means: means[..., 0], hit, seed=representations.seed)
                metrics[f"accuracy/{one.name}/{site}"] = Measure(found.estimate, "share", found.low, found.high)
        return Measured(metrics)
