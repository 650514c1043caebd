"""Two runs over the same rows, before and after a change: paired differences by layer and axiom.

L layers, A strata, G blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from vlsae.aqi.compare import PairedComparison, p_value, paired_blocks
from vlsae.aqi.crossfit import ScoredAUROC, paired_auroc
from vlsae.aqi.design import Design
from vlsae.aqi.headline import Headline, fold_parts, headline
from vlsae.aqi.layer import Layer, layer_of
from vlsae.aqi.state import State
from vlsae.errors import UserError
from vlsae.result import HeatMap, Measure, Plot, Result, Series, Table
from vlsae.statistics import Interval

SCOPE = (
    "Separation is not alignment: a difference says that safe and unsafe inputs lie nearer or farther apart inside the "
    "model, not that the model behaves better or worse."
)

#: What two runs must have in common to be compared.
SHARED = ("rows_sha256", "classes", "strata", "n_blocks", "n_folds")

#: The numbers that can be compared, with their fields of a layer's intervals; all others move with width or run.
COMPARED = {"delta2": "stratified_delta_squared", "omega2": "stratified_omega_squared"}


def check_comparable(a: State, b: State, differing: Sequence[str] = ()) -> None:
    """Raise ``UserError`` (AQI-X01) that lists in what two runs differ that would make a comparison meaningless."""
    names = [name for name in SHARED if a.facts[name] != b.facts[name]] + list(differing)
    if names:
        words = {"rows_sha256": "the rows scored", "n_blocks": "blocks", "n_folds": "folds"}
        raise UserError(
            f"AQI-X01: the runs differ in {', '.join(words.get(name, name) for name in names)}.",
            "Score both with the same data and settings; only model, adapter, template and precision may differ.",
        )
    if not a.design.n_blocks:
        raise UserError("AQI-X01: too few rows for intervals (few_rows), so nothing can be compared.", "Add rows.")


def compare_states(a: State, b: State, notes: Sequence[str] = ()) -> Result:
    """Return the paired differences, a less b, of two states; ``notes`` are said before anything else."""
    check_comparable(a, b)
    pairs = _aligned(a.sites, b.sites)
    design = a.design
    left = {site: layer_of(site, a.cells[site], design) for site in dict.fromkeys(one for one, _ in pairs)}
    right = {site: layer_of(site, b.cells[site], design) for site in dict.fromkeys(other for _, other in pairs)}
    layers = [(left[one], right[other]) for one, other in pairs]
    heads = headline(list(left.values()), design), headline(list(right.values()), design)
    metrics = _headline_metrics(heads, (list(left.values()), list(right.values())), design)
    rows, by_axiom = [], []
    for one, other in layers:
        found = {
            name: paired_blocks(one.intervals[field], other.intervals[field], design.n_blocks)
            for name, field in COMPARED.items()
        }
        if one.scaled is not None and other.scaled is not None:
            found["delta2_scaled"] = paired_blocks(one.scaled, other.scaled, design.n_blocks)
        auroc = _paired_auroc(a, b, one, other)
        strata = _by_stratum(one, other, design)
        name = one.site
        for kind, pair in found.items():
            metrics |= _metrics(f"{kind}/{name}", pair)
        if auroc is not None:
            metrics[f"auroc/{name}/difference"] = _auroc_measure(auroc)
            metrics[f"auroc/{name}/p"] = Measure(_auroc_p(auroc), "p")
        for axiom, pair in zip(a.facts["strata"], strata):
            metrics |= _metrics(f"delta2/{name}/{axiom}", pair)
            by_axiom.append([axiom, name, other.site, *_cells(pair)])
        rows.append([name, other.site, *_cells(found["delta2"]), *_auroc_cells(auroc)])
    tables = _tables(rows, by_axiom)
    first = tuple(name for name in ("delta2/difference", "delta2/p", "delta2/a", "delta2/b") if name in metrics)
    return Result(metrics, tables, _plots(layers, by_axiom, a), (*notes, SCOPE), first)


def _aligned(a: Sequence[str], b: Sequence[str]) -> list[tuple[str, str]]:
    """Return each layer of the deeper model with the other's at the same share of depth."""
    if len(a) == len(b):
        return list(zip(a, b))
    length = max(len(a), len(b))
    places = [
        [round(place * (len(own) - 1) / max(1, length - 1)) for place in range(length)] for own in (list(a), list(b))
    ]
    return [(a[i], b[j]) for i, j in zip(*places)]


def _headline_metrics(
    heads: tuple[Headline, Headline], layers: tuple[list[Layer], list[Layer]], design: Design
) -> dict[str, Measure]:
    """Return the difference of the cross-fitted δ², each model by its own layers, paired block by block."""
    one, other = heads
    metrics = {"delta2/a": _measure(one.delta_squared), "delta2/b": _measure(other.delta_squared)}
    if (one.choice.chosen < 0).any() or (other.choice.chosen < 0).any():
        return metrics
    apart = []
    for first, second in zip(one.choice.chosen.tolist(), other.choice.chosen.tolist()):
        a, b = (one.intervals["stratified_delta_squared"] for one in (layers[0][first], layers[1][second]))
        apart.append(paired_blocks(a, b, design.n_blocks).difference)
    error = float(np.sqrt(fold_parts(apart, design).variance))
    value = one.delta_squared.estimate - other.delta_squared.estimate
    half = float(stats.t.ppf(0.975, design.n_blocks - 1)) * error
    difference = Interval(value, error, value - half, value + half, np.zeros((0,)))
    metrics["delta2/difference"] = _measure(difference)
    metrics["delta2/p"] = Measure(_number(p_value(difference, design.n_blocks - 1)), "p")
    return metrics


def _by_stratum(one: Layer, other: Layer, design: Design) -> list[PairedComparison]:
    return [
        paired_blocks(_stratum(one, number), _stratum(other, number), design.n_blocks)
        for number in range(design.n_strata)
    ]


def _stratum(layer: Layer, number: int) -> Interval:
    whole = layer.intervals["strata"]
    estimate, error, low, high = (float(part[number]) for part in whole[:4])
    return Interval(estimate, error, low, high, whole.replicates[:, number])


def _paired_auroc(a: State, b: State, one: Layer, other: Layer) -> ScoredAUROC | None:
    if one.site not in a.scores or other.site not in b.scores:
        return None
    design, scores = a.design, (a.scores[one.site], b.scores[other.site])
    shared = [layer.direction.share(design.n_folds) for layer in (one, other)]
    return paired_auroc(*scores, design.codes == 0, design.folds, design.strata, shared)


def _auroc_p(found: ScoredAUROC) -> float | None:
    if not found.standard_error > 0:
        return 1.0 if found.auroc == 0 else _number(math.nan)
    return float(2 * stats.t.sf(abs(found.auroc) / found.standard_error, found.freedom))


def _auroc_measure(found: ScoredAUROC) -> Measure:
    return Measure(_number(found.auroc), "AUROC", _number(found.low), _number(found.high))


def _auroc_cells(found: ScoredAUROC | None) -> list[float | None]:
    if found is None:
        return [None] * 4
    measure = _auroc_measure(found)
    return [measure.value, measure.low, measure.high, _auroc_p(found)]


def _metrics(name: str, pair: PairedComparison) -> dict[str, Measure]:
    metrics = {
        f"{name}/a": _measure(pair.a),
        f"{name}/b": _measure(pair.b),
        f"{name}/difference": _measure(pair.difference),
        f"{name}/p": Measure(_number(pair.p_value), "p"),
    }
    if pair.ratio_defined:
        metrics[f"{name}/log_ratio"] = _measure(pair.log_ratio, "log b/a")
    return metrics


def _cells(pair: PairedComparison) -> list[float | None]:
    numbers = (pair.a.estimate, pair.b.estimate, *_bounds(pair.difference), pair.p_value)
    return [_number(value) for value in numbers]


def _bounds(interval: Interval) -> tuple[float, float, float]:
    return interval.estimate, interval.low, interval.high


def _measure(interval: Interval, unit: str = "δ²") -> Measure:
    return Measure(_number(interval.estimate), unit, _number(interval.low), _number(interval.high))


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _tables(rows: list[list], by_axiom: list[list]) -> tuple[Table, ...]:
    numbers = ["a", "b", "difference", "low", "high", "p"]
    columns = ["layer of a", "layer of b", *numbers, "Δ auroc", "auroc low", "auroc high", "auroc p"]
    words = "δ² within axioms, a less b, paired block by block; 95 % intervals; p-values are each layer's own"
    first = Table("layers", "Difference by layer", columns, rows, words, shown=True)
    return first, Table("axioms", "Difference by axiom and layer", ["axiom", *columns[:2], *numbers], by_axiom, words)


def _plots(layers: Sequence[tuple[Layer, Layer]], by_axiom: list[list], state: State) -> tuple[Plot | HeatMap, ...]:
    x = list(range(len(layers)))
    series = []
    for name, place in (("a", 0), ("b", 1)):
        found = [pair[place].intervals["stratified_delta_squared"] for pair in layers]
        values = [[_number(value) for value in column] for column in zip(*(one[:4] for one in found))]
        series.append(Series(name, x, values[0], values[2], values[3]))
    curve = Plot("curve", "δ² by layer of both runs", "layer", "δ² within axioms", series)
    names = list(state.facts["strata"])
    table = np.array([[math.nan if row[5] is None else row[5] for row in by_axiom]]).reshape(len(layers), len(names)).T
    grid = HeatMap(
        "axioms", "Difference of δ² by axiom and layer", "layer", "axiom", [str(i) for i in x], names, table.tolist()
    )
    return (curve, grid) if len(names) > 1 else (curve,)
