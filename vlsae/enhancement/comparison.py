"""Before and after: the same numbers of a task without and with the concepts, compared item by item."""

from __future__ import annotations

from typing import Any

import numpy as np

from vlsae.enhancement.resampled import less
from vlsae.result import Measure, Result, Table
from vlsae.statistics import interval_of, mcnemar, paired_bootstrap

COLUMNS = (
    "measure", "before", "before low", "before high", "after", "after low", "after high",
    "difference", "difference low", "difference high", "p (bootstrap)", "p (McNemar)", "unit",
)  # fmt: skip


def compare(before: Result, after: Result, *, seed: int = 0, resamples: int = 1000) -> Result:
    """Return one result of two: numbers that both have become ``before/…``, ``after/…`` and ``difference/…``.

    Differences of means of the same items have the interval and p-value of a paired bootstrap, of right and wrong
    answers McNemar's p-value too; other numbers that were resampled alike have the interval of the paired resamples.
    Tables and figures of both are kept, those of ``before`` only where ``after`` has none of the same name.
    """
    shared = [name for name in before.metrics if name in after.metrics]
    rows: list[list[Any]] = []
    metrics: dict[str, Measure] = {}
    for name in shared:
        one, two = before.metrics[name], after.metrics[name]
        found = _difference(name, before, after, seed, resamples)
        metrics |= {f"before/{name}": one, f"after/{name}": two, f"difference/{name}": found["measure"]}
        numbers = (one.value, one.low, one.high, two.value, two.low, two.high)
        difference = (found["measure"].value, found["measure"].low, found["measure"].high)
        rows.append([name, *numbers, *difference, found["bootstrap"], found["mcnemar"], one.unit])
    for result in (before, after):
        metrics |= {name: value for name, value in result.metrics.items() if name not in shared}
    table = Table("before_after", "Before and after", COLUMNS, rows, _DESCRIPTION, shown=True)
    own = {part.name for part in (*after.tables, *after.plots)}
    first = [name for name in before.headline or shared if name in shared]
    headline = [f"{when}/{name}" for name in first for when in ("before", "after", "difference")]
    return Result(
        metrics,
        (table, *after.tables, *(one for one in before.tables if one.name not in own)),
        (*after.plots, *(one for one in before.plots if one.name not in own)),
        tuple(dict.fromkeys((*before.notes, *after.notes))),
        (*headline, *(name for name in after.headline if name not in shared)),
    )


_DESCRIPTION = (
    "95 % intervals over items; differences are paired by item. The p-values are those of no difference: of the paired "
    "bootstrap, and for right and wrong answers McNemar's exact test."
)


def _difference(name: str, before: Result, after: Result, seed: int, resamples: int) -> dict[str, Any]:
    one, two = before.metrics[name].value, after.metrics[name].value
    unit = before.metrics[name].unit
    found: dict[str, Any] = {"bootstrap": None, "mcnemar": None}
    a, b = (np.asarray(getattr(result, "scores", {}).get(name, ()), dtype=np.float64) for result in (before, after))
    if len(a) and len(a) == len(b):
        test = paired_bootstrap(b, a, resamples=resamples, seed=seed)
        found |= {"bootstrap": test.p_value, "measure": Measure(test.difference, unit, test.low, test.high)}
        if np.isin(np.concatenate([a, b]), (0.0, 1.0)).all():
            found["mcnemar"] = mcnemar(a, b).p_value
        return found
    first, second = (np.asarray(getattr(result, "replicates", {}).get(name, ())) for result in (before, after))
    difference = None if one is None or two is None else float(less(two, one))
    if difference is not None and len(first) and len(first) == len(second):
        interval = interval_of(difference, less(second, first))
        return found | {"measure": Measure(difference, unit, interval.low, interval.high)}
    return found | {"measure": Measure(difference, unit)}
