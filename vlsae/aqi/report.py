"""From what was found to numbers by name, tables and figures' data."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vlsae.aqi.analysis import Analysis
from vlsae.aqi.crossfit import CrossfitAUROC, ScoredAUROC
from vlsae.aqi.layer import Layer
from vlsae.result import HeatMap, Measure, Plot, Result, Series, Table
from vlsae.statistics import Interval

SCOPE = (
    "Separation is not alignment: a model can tell safe from unsafe inputs and comply anyway, and words of the topic "
    "alone separate them. Read every number beside the lexical baseline."
)

#: How the effects are called in files.
EFFECTS = {
    "stratified_delta_squared": "delta2",
    "stratified_omega_squared": "omega2_stratified",
    "macro_delta_squared": "delta2_macro",
    "common_delta_squared": "delta2_common",
    "sharedness": "sharedness",
    "pooled_delta_squared": "delta2_pooled",
}

#: What is told first.
HEADLINE = (
    "delta2",
    "auroc",
    "auroc/lexical",
    "auroc/length",
    "delta2/token_embeddings",
    "auroc/token_embeddings",
    "p",
    "layer",
)

INDICES = ("chi", "xbi", "dbs", "dbs_rms", "dunn", "silhouette", "eta2", "omega2")


def result_of(found: Analysis) -> Result:
    """Return the result of an analysis of two classes."""
    metrics = {**_overall(found), **_controls(found)}
    for layer in found.layers:
        metrics |= layer_metrics(layer, found)
    metrics |= _axiom_metrics(found)
    return Result(
        metrics=metrics,
        tables=(_layer_table(found), *_axiom_tables(found), *_learned_table(found)),
        plots=_plots(found),
        notes=(SCOPE, *found.notes, *_layer_notes(found)),
        headline=tuple(name for name in HEADLINE if name in metrics),
    )


def measure(interval: Interval, unit: str = "δ²") -> Measure:
    """Return an interval as a number of the summary."""
    return Measure(_number(interval.estimate), unit, _number(interval.low), _number(interval.high))


def auroc_measure(found: ScoredAUROC | CrossfitAUROC) -> Measure:
    """Return an AUROC with its 95 % interval."""
    return Measure(_number(found.auroc), "AUROC", _number(found.low), _number(found.high))


def _stratum_measure(found: ScoredAUROC | CrossfitAUROC, number: int) -> Measure:
    values = (found.by_stratum[number], found.stratum_low[number], found.stratum_high[number])
    value, low, high = (_number(one) for one in values)
    return Measure(value, "AUROC", low, high)


def layer_metrics(layer: Layer, found: Analysis) -> dict[str, Measure]:
    """Return all numbers of a layer by name."""
    site, effect = layer.site, layer.effect
    metrics = {
        f"{name}/{site}": measure(layer.intervals[field])
        if found.design.n_blocks
        else Measure(_number(getattr(effect, field)), "δ²")
        for field, name in EFFECTS.items()
    }
    metrics |= {f"{name}/{site}": Measure(_number(value)) for name, value in layer.indices.items()}
    metrics[f"chi_stratified/{site}"] = Measure(_number(effect.stratified_chi))
    metrics[f"top_share/{site}"] = Measure(_number(layer.top_share), "share")
    if layer.scaled is not None:
        metrics[f"delta2_scaled/{site}"] = measure(layer.scaled)
    for name, auroc in (("auroc", layer.auroc), ("auroc_scaled", layer.scaled_auroc), ("auroc_across", layer.across)):
        if auroc is not None:
            metrics[f"{name}/{site}"] = auroc_measure(auroc)
    if layer.permutation is not None:
        metrics[f"p/{site}"] = Measure(_number(layer.permutation.p_value), "p")
        metrics[f"chi_null/{site}"] = Measure(_number(float(np.mean(layer.permutation.null))))
    for number, name in enumerate(found.labelling.strata_names):
        interval = layer.intervals["strata"]
        low, high = (_number(part[number]) for part in (interval.low, interval.high))
        metrics[f"delta2/{site}/{name}"] = Measure(_number(effect.delta_squared[number]), "δ²", low, high)
        if layer.auroc is not None:
            metrics[f"auroc/{site}/{name}"] = _stratum_measure(layer.auroc, number)
    return metrics


def _overall(found: Analysis) -> dict[str, Measure]:
    head = found.headline
    metrics = {"delta2": measure(head.delta_squared)}
    if head.auroc is not None:
        metrics["auroc"] = auroc_measure(head.auroc)
    metrics["p"] = Measure(_number(head.p_value), "familywise p")
    metrics["layer"] = Measure(head.layer if head.layer >= 0 else None, "slot most folds chose")
    metrics["delta2/max_over_layers"] = Measure(_number(head.choice.max_over_layers), "δ², selected, optimistic")
    metrics["samples"] = Measure(len(found.design.codes), "samples")
    metrics |= {f"composite/{name}": Measure(_number(value)) for name, value in found.composites.items()}
    if found.learned is not None:
        for name in ("learned", "uniform", "single"):
            pooled = getattr(found.learned, name)
            metrics[f"pooling/{name}/delta2"] = Measure(_number(pooled.delta_squared), "δ² held out")
            metrics[f"pooling/{name}/auroc"] = Measure(_number(pooled.auroc), "AUROC held out")
    return metrics


def _controls(found: Analysis) -> dict[str, Measure]:
    metrics: dict[str, Measure] = {}
    if found.lexical is not None:
        metrics["auroc/lexical"] = auroc_measure(found.lexical)
    if found.length is not None:
        metrics["auroc/length"] = auroc_measure(found.length.auroc)
        for name, median in zip(found.labelling.classes, found.length.medians):
            metrics[f"length/{name}"] = Measure(median, "characters, median")
    metrics |= {f"cramers_v/{name}": Measure(_number(value)) for name, value in found.confounds.items()}
    for name, layer in (
        ("token_embeddings", found.control),
        ("length_matched", found.matched),
        ("within_sources", found.within_sources),
    ):
        if layer is None:
            continue
        interval = layer.intervals["stratified_delta_squared"]
        metrics[f"delta2/{name}"] = Measure(
            _number(layer.effect.stratified_delta_squared), "δ²", _number(interval.low), _number(interval.high)
        )
        if layer.auroc is not None:
            metrics[f"auroc/{name}"] = auroc_measure(layer.auroc)
    for layer, gain in zip(found.layers, found.gains):
        metrics[f"gain/{layer.site}"] = measure(gain.difference, "δ² above the token embeddings")
        metrics[f"gain_p/{layer.site}"] = Measure(_number(gain.p_value), "p")
    return metrics


def _axiom_metrics(found: Analysis) -> dict[str, Measure]:
    if not found.axioms:
        return {}
    site = found.layers[found.headline.layer].site
    metrics: dict[str, Measure] = {}
    for number, axiom in enumerate(found.axioms):
        metrics |= {f"{name}/{site}/{axiom.name}": Measure(_number(value)) for name, value in axiom.indices.items()}
        metrics |= {
            f"composite/{name}/{axiom.name}": Measure(_number(value)) for name, value in axiom.composites.items()
        }
        metrics[f"p/{site}/{axiom.name}"] = Measure(_number(axiom.p_value), "p")
        if found.lexical is not None and axiom.status != "too_few":
            metrics[f"auroc/lexical/{axiom.name}"] = _stratum_measure(found.lexical, number)
    return metrics


def _layer_table(found: Analysis) -> Table:
    lexical = None if found.lexical is None else found.lexical.auroc
    columns = ["site", "delta2", "low", "high", "auroc", "lexical", "p", "delta2 scaled", "auroc scaled", *INDICES]
    columns += ["top share", "status"]
    rows = []
    for layer in found.layers:
        interval = layer.intervals["stratified_delta_squared"]
        scaled = layer.scaled_auroc
        rows.append(
            [
                layer.site,
                _short(layer.effect.stratified_delta_squared),
                _short(interval.low),
                _short(interval.high),
                _short(layer.auroc.auroc) if layer.auroc else None,
                _short(lexical),
                _short(layer.permutation.p_value) if layer.permutation else None,
                _short(layer.scaled.estimate) if layer.scaled else None,
                _short(scaled.auroc) if scaled else None,
                *(_short(layer.indices.get(name)) for name in INDICES),
                _short(layer.top_share),
                layer.status if layer.permutation is not None else f"{layer.status}, needs_vectors",
            ]
        )
    return Table(
        "layers", "Every layer", columns, rows, "δ² within strata with its 95 % interval; indices over all rows"
    )


def _axiom_tables(found: Analysis) -> tuple[Table, ...]:
    if not found.axioms:
        return ()
    site = found.layers[found.headline.layer].site
    names = list(found.axioms[0].composites)
    classes = [f"n {name}" for name in found.labelling.classes]
    columns = ["axiom", *classes, "delta2", "low", "high", "auroc", "auroc low", "auroc high", "lexical", "p", "status"]
    first, second = [], []
    for number, axiom in enumerate(found.axioms):
        low, value, high = axiom.delta_squared
        lower, middle, upper = axiom.auroc
        lexical = found.lexical.by_stratum[number] if found.lexical and axiom.status != "too_few" else None
        numbers = [value, low, high, middle, lower, upper, lexical, axiom.p_value]
        first.append([axiom.name, *axiom.counts, *(_short(one, 3) for one in numbers), axiom.status])
        values = [axiom.indices.get(name) for name in INDICES] + [axiom.composites.get(name) for name in names]
        second.append([axiom.name, *(_short(one) for one in values)])
    words = f"At {site}, the layer that most folds chose; chosen on these rows, so a little optimistic"
    return (
        Table("axioms", "By axiom", columns, first, words, shown=True),
        Table("axiom_indices", "Indices by axiom", ["axiom", *INDICES, *names], second, words),
    )


def _learned_table(found: Analysis) -> tuple[Table, ...]:
    if found.learned is None:
        return ()
    rows = [
        [layer.site, *(_short(weight) for weight in found.learned.weights[:, place])]
        for place, layer in enumerate(found.layers)
    ]
    words = f"Learned on one half of the blocks, scored on the other: {' and '.join(found.learned.statuses)}"
    return (Table("pooling", "Weights of layers", ["site", "first half", "second half"], rows, words),)


def _plots(found: Analysis) -> tuple[Plot | HeatMap, ...]:
    x = list(range(len(found.layers)))
    intervals = [layer.intervals["stratified_delta_squared"] for layer in found.layers]
    values = [_number(layer.effect.stratified_delta_squared) for layer in found.layers]
    control = {} if found.control is None else {"bag of tokens": found.control.effect.stratified_delta_squared}
    curve = Plot(
        "curve",
        "δ² by layer",
        "layer",
        "δ² within axioms",
        [_line("δ²", x, values, [_number(one.low) for one in intervals], [_number(one.high) for one in intervals])],
        description="Bands are 95 % intervals.",
        reference={name: value for name, value in control.items() if math.isfinite(value)},
    )
    plots: list[Plot | HeatMap] = [curve]
    aurocs = [(place, auroc_measure(layer.auroc)) for place, layer in enumerate(found.layers) if layer.auroc]
    if aurocs:
        reference = {"chance": 0.5}
        if found.lexical is not None and math.isfinite(found.lexical.auroc):
            reference["bag of words"] = found.lexical.auroc
        places = [place for place, _ in aurocs]
        line = _line("AUROC", places, *([getattr(m, part) for _, m in aurocs] for part in ("value", "low", "high")))
        plots.append(Plot("auroc", "AUROC by layer", "layer", "AUROC", [line], reference=reference))
    if len(found.labelling.strata_names) > 1:
        plots.append(
            HeatMap(
                "axioms",
                "δ² by axiom and layer",
                "layer",
                "axiom",
                [str(place) for place in x],
                list(found.labelling.strata_names),
                [
                    [_number(layer.effect.delta_squared[number]) for layer in found.layers]
                    for number in range(len(found.labelling.strata_names))
                ],
            )
        )
    return (*plots, *_scatter(found))


def _line(label: str, x: Sequence[int], y: Sequence, low: Sequence, high: Sequence) -> Series:
    return Series(label, list(x), list(y), list(low), list(high))


def _scatter(found: Analysis) -> tuple[Plot, ...]:
    if found.plane is None or found.plane_codes is None:
        return ()
    series = []
    for code, name in enumerate(found.labelling.classes):
        places = found.plane.places[found.plane_codes == code]
        series.append(Series(name, places[:, 0].tolist(), places[:, 1].tolist()))
    site = found.layers[found.headline.layer].site
    title = f"Inputs at {site}"
    return (Plot("projection", title, *found.plane.axes, series, kind="scatter"),)


def _layer_notes(found: Analysis) -> list[str]:
    notes = []
    if found.headline.layer < 0:
        notes.append("No layer has a defined δ²: the status of each layer says why.")
    owned = [layer.site for layer in found.layers if layer.owned]
    if owned:
        notes.append(
            f"One coordinate owns more than half of the scatter at {', '.join(owned)}: read the scaled values there."
        )
    constant = [layer.site for layer in found.layers if "constant" in layer.status]
    if constant:
        notes.append(f"All rows are equal at {', '.join(constant)}: nothing is separated there.")
    if not found.design.n_blocks:
        notes.append("Too few rows for intervals (few_rows).")
    if all(layer.permutation is None for layer in found.layers):
        notes.append("No permutation test (needs_vectors): permuted labels need the rows or aqi.permutations above 0.")
    if found.dropped_words:
        notes.append(found.dropped_words)
    return notes


def _number(value: object) -> float | None:
    number = float(value) if value is not None else math.nan  # type: ignore[arg-type]
    return number if math.isfinite(number) else None


def _short(value: object, digits: int = 6) -> float | None:
    number = _number(value)
    return None if number is None else float(f"{number:.{digits}g}")
