"""The result of three and more classes: indices over all of them, and each two."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vlsae.aqi.labelling import Labelling
from vlsae.aqi.many import ManyClasses
from vlsae.aqi.report import INDICES, SCOPE, measure
from vlsae.result import HeatMap, Measure, Plot, Result, Series, Table
from vlsae.statistics import Interval


def result_of_many(layers: Sequence[ManyClasses], labelling: Labelling) -> Result:
    """Return the result of layers with three and more classes."""
    classes = labelling.classes
    metrics: dict[str, Measure] = {"samples": Measure(len(labelling.rows), "samples")}
    rows, pairs = [], []
    for layer in layers:
        metrics[f"omega2/{layer.site}"] = measure(layer.omega2, "ω²")
        indices = {name: value for name, value in layer.indices.items() if name != "omega2"}
        metrics |= {f"{name}/{layer.site}": Measure(_number(value)) for name, value in indices.items()}
        rows.append([layer.site, *(_number(layer.indices.get(name, math.nan)) for name in INDICES), layer.status])
        for i, first in enumerate(classes):
            for j in range(i + 1, len(classes)):
                found = _pair(layer.pairs, i, j)
                metrics[f"delta2/{layer.site}/{first}-{classes[j]}"] = found
                pairs.append([layer.site, first, classes[j], found.value, found.low, found.high])
    x = list(range(len(layers)))
    value, low, high = ([_number(getattr(one.omega2, part)) for one in layers] for part in ("estimate", "low", "high"))
    curve = Series("ω²", x, value, low, high)
    last = layers[-1]
    grid = [[_number(value) for value in row] for row in last.pairs.estimate]
    return Result(
        metrics,
        (
            Table("layers", "Every layer", ["site", *INDICES, "status"], rows, shown=True),
            Table("pairs", "Each two classes", ["site", "first", "second", "delta2", "low", "high"], pairs),
        ),
        (
            Plot("curve", "ω² by layer", "layer", "ω² of all classes", [curve]),
            HeatMap("pairs", f"δ² of each two classes at {last.site}", "class", "class", classes, classes, grid),
        ),
        (SCOPE, "Three and more classes are scored over all rows; strata are not looked at.", *labelling.notes),
        tuple(f"omega2/{layer.site}" for layer in layers),
    )


def _pair(whole: Interval, i: int, j: int) -> Measure:
    value, low, high = (float(part[i, j]) for part in (whole.estimate, whole.low, whole.high))
    return Measure(_number(value), "δ²", _number(low), _number(high))


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
