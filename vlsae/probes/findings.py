"""From linear fits to numbers with intervals, tables, figures and directions. n rows, d columns, K folds, C classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np

from vlsae.probes.base import Measured
from vlsae.probes.nested import Nested
from vlsae.probes.scores import auroc_parts, grouped_means, grouped_shares
from vlsae.probes.targets import Target
from vlsae.result import HeatMap, Measure, Plot, Series, Table
from vlsae.statistics import share_interval

DIRECTIONS = "directions"

#: Lines of a figure's panel and numbers of the headline at most.
SHOWN = 12


@dataclass(frozen=True)
class Finding:
    """One target at one site: its values ``(n,)``, folds, groups and samples of the rows, these rows' numbers at the
    site, and the fits.

    ``control`` holds the control task's fits and labels; ``bits`` tell the labels by the online code; ``overlap`` is
    the share of rows whose type occurs in two folds.
    """

    site: str
    target: Target
    y: np.ndarray
    folds: np.ndarray
    groups: np.ndarray
    samples: np.ndarray
    rows: np.ndarray
    fit: Nested
    control: tuple[Nested, np.ndarray] | None
    bits: float
    overlap: float = 0.0

    @property
    def measured(self) -> str:
        """The name of the score: ``accuracy``, or ``r2`` of a number."""
        return "r2" if self.target.kind == "number" else "accuracy"

    @cached_property
    def parts(self) -> np.ndarray:
        """Each row's part in the score ``(n,)``: 1 for a hit; of R², 1 less its error over the mean one of the mean."""
        return _parts(self.target, self.fit, self.y, self.folds)

    @cached_property
    def baseline(self) -> np.ndarray:
        """Each row's part in the score of the commonest class, or the mean, of the other folds ``(n,)``."""
        found = np.empty(len(self.y))
        for fold in np.unique(self.folds):
            held = self.folds == fold
            if self.target.kind == "number":
                found[held] = 0.0
            else:
                found[held] = self.y[held] == np.bincount(self.y[~held].astype(int)).argmax()
        return found

    @property
    def stability(self) -> float:
        """The mean cosine between the directions of two fits, each without another fold."""
        own = self.fit.coefficients[:-1, :, :-1].reshape(len(self.fit.coefficients) - 1, -1)
        lengths = np.linalg.norm(own, axis=1)
        if (lengths == 0).any():
            return float("nan")
        own = own / lengths[:, None]
        return float(np.mean([own[a] @ own[b] for a, b in combinations(range(len(own)), 2)]))


def result_of(
    findings: Sequence[Finding], targets: Sequence[Target], notes: Sequence[str], *, resamples: int, seed: int
) -> Measured:
    """Return the findings as numbers, tables, figures and directions."""
    rows = [_row(one, resamples, seed) for one in findings]
    metrics: dict[str, Measure] = {}
    best = {}
    for target in targets:
        own = [one for one in findings if one.target.name == target.name and one.site != "words"]
        chosen = best_site(own, resamples, seed)
        best[target.name] = chosen
        metrics[f"best/{target.name}"] = chosen[0]
    for row in rows:
        name = f"{row['target']}/{row['site']}"
        metrics[f"{row['score_name']}/{name}"] = Measure(row["score"], "share", row["low"], row["high"])
        if row["selectivity"] is not None:
            low, high = row["selectivity_low"], row["selectivity_high"]
            metrics[f"selectivity/{name}"] = Measure(row["selectivity"], "share", low, high)
    columns = list(rows[0])
    probes = Table("probes", "Each target at each site", columns, [list(row.values()) for row in rows], EXPLAINED)
    first = [_best_row(target, rows, *best[target.name]) for target in targets]
    summary = Table("targets", "Targets", list(first[0]), [list(row.values()) for row in first], BEST, shown=True)
    headline = [f"best/{target.name}" for target in targets][:SHOWN]
    plots: list[Plot | HeatMap] = [_curves(rows, targets), _map(rows, targets)]
    return Measured(metrics, [summary, probes], plots, list(notes), headline, arrays={DIRECTIONS: directions(findings)})


def directions(findings: Sequence[Finding]) -> dict[str, np.ndarray]:
    """Return each probe's ``weight (C, d)`` and ``bias (C,)`` on all rows, in raw units, by site and target."""
    found = {}
    for one in findings:
        if one.site != "words":
            last = one.fit.coefficients[-1].astype(np.float32)
            found[f"{one.site}/{one.target.name}/weight"] = last[:, :-1]
            found[f"{one.site}/{one.target.name}/bias"] = last[:, -1]
    return found


def best_site(findings: Sequence[Finding], resamples: int, seed: int) -> tuple[Measure, str]:
    """Return the score of the best site where each fold is scored by the site best on the others, and the best of all.

    Taking the best score of many sites as it is would be the score of luck too.
    """
    streams: dict[str, list[Finding]] = {}
    for one in findings:
        streams.setdefault(one.site.split(".")[0], []).append(one)
    # Sites of one stream share rows; of several streams, the one whose mean score is best on the other folds.
    folds = np.unique(findings[0].folds)
    parts, groups = [], []
    for fold in folds:
        means = [np.nanmean(one.parts[one.folds != fold]) for one in findings]
        chosen = findings[int(np.argmax(means))]
        held = chosen.folds == fold
        parts.append(chosen.parts[held])
        groups.append(chosen.groups[held])
    interval = grouped_means if findings[0].target.kind == "number" else grouped_shares
    found = interval(np.concatenate(parts)[:, None], np.concatenate(groups), resamples=resamples, seed=seed)
    overall = findings[int(np.argmax([np.nanmean(one.parts) for one in findings]))].site
    return _measure(found, 0), overall


def _parts(target: Target, fit: Nested, y: np.ndarray, folds: np.ndarray) -> np.ndarray:
    if target.kind == "number":
        errors = (fit.scores[:, 0] - y) ** 2
        alone = np.empty(len(y))
        for fold in np.unique(folds):
            held = folds == fold
            alone[held] = (y[held] - y[~held].mean()) ** 2
        return np.asarray(1 - errors / alone.mean())
    if target.kind == "binary":
        return np.asarray((fit.scores[:, 0] > 0) == (y == 1), dtype=np.float64)
    return np.asarray(fit.scores.argmax(axis=1) == y, dtype=np.float64)


def _row(one: Finding, resamples: int, seed: int) -> dict[str, Any]:
    columns = [one.parts, one.baseline]
    if one.control is not None:
        control = _parts(one.target, one.control[0], one.control[1], one.folds)
        columns += [control, one.parts - control]
    auroc = None
    if one.target.kind == "binary":
        parts = auroc_parts(one.fit.scores[:, 0], one.y, one.folds)[1]
        auroc = len(columns)
        columns.append(parts)
    found = grouped_means(np.stack(columns, axis=1), one.groups, resamples=resamples, seed=seed)
    value = np.atleast_1d(found.estimate)
    share = share_interval(found, len(np.unique(one.groups)), len(one.y))
    score = found if one.target.kind == "number" else share
    selective = one.control is not None
    n_classes = len(one.target.classes)
    uniform = len(one.y) * np.log2(n_classes) if n_classes else None
    return {
        "site": one.site,
        "target": one.target.name,
        "type": one.target.kind,
        "rows": len(one.y),
        "score_name": one.measured,
        "score": float(value[0]),
        "low": float(score.low[0]),
        "high": float(score.high[0]),
        "majority": float(value[1]),
        "control": float(value[2]) if selective else None,
        "selectivity": float(value[3]) if selective else None,
        "selectivity_low": float(found.low[3]) if selective else None,
        "selectivity_high": float(found.high[3]) if selective else None,
        "auroc": None if auroc is None else _clipped(value[auroc]),
        "auroc_low": None if auroc is None else float(share.low[auroc]),
        "auroc_high": None if auroc is None else float(share.high[auroc]),
        "loss": float(one.fit.loss.mean()),
        "code_bits": None if np.isnan(one.bits) else one.bits,
        "compression": None if np.isnan(one.bits) or uniform is None else float(uniform / one.bits),
        "penalty": float(one.fit.penalties[-1]),
        "stability": one.stability,
        "overlap": one.overlap,
    }


def _best_row(target: Target, rows: Sequence[dict[str, Any]], measure: Measure, site: str) -> dict[str, Any]:
    own = next(row for row in rows if row["target"] == target.name and row["site"] == site)
    words = next((row["score"] for row in rows if row["target"] == target.name and row["site"] == "words"), None)
    return {
        "target": target.name,
        "type": target.kind,
        "score": own["score_name"],
        "best": measure.value,
        "low": measure.low,
        "high": measure.high,
        "site": site,
        "majority": own["majority"],
        "words": words,
        "selectivity": own["selectivity"],
    }


def _curves(rows: Sequence[dict[str, Any]], targets: Sequence[Target]) -> Plot:
    series = []
    streams = dict.fromkeys(row["site"].split(".")[0] for row in rows if row["site"] != "words")
    for stream in streams:
        for target in targets:
            own = [row for row in rows if row["target"] == target.name and row["site"].split(".")[0] == stream]
            x = [row["site"].split(".", 1)[1] for row in own]
            values = [[row[name] for row in own] for name in ("score", "low", "high")]
            panel = f"{stream}: {target.factor}" if target.factor != target.name else f"{stream}: {target.name}"
            series.append(Series(target.name, x, values[0], values[1], values[2], panel))
    return Plot("layers", "Score by layer", "layer", "score out of fold", series, "lines", CURVES)


def _map(rows: Sequence[dict[str, Any]], targets: Sequence[Target]) -> HeatMap:
    sites = list(dict.fromkeys(row["site"] for row in rows))
    above = {(row["target"], row["site"]): row["score"] - row["majority"] for row in rows}
    names = [target.name for target in targets]
    values = [[above.get((name, site)) for site in sites] for name in names]
    return HeatMap("above_majority", "Score above the commonest class", "site", "target", sites, names, values, MAP)


def _measure(found: Any, place: int) -> Measure:
    value, low, high = (float(np.atleast_1d(part)[place]) for part in (found.estimate, found.low, found.high))
    return Measure(value, "share", low, high)


def _clipped(value: float) -> float:
    return float(np.clip(value, 0.0, 1.0))


EXPLAINED = (
    "Scores are out of fold, with 95 % intervals over groups of rows; a fold's penalty is chosen without it. "
    "Control: labels drawn by token or group. Code bits: the online code; compression: over log2 C bits a row."
)
BEST = (
    "Best: each fold is scored by the site that is best on the other folds, so that choosing among many sites is not "
    "counted as skill. Site: the best on all folds. Words: the same probe on word counts of the texts."
)
CURVES = "Accuracy of classes, R2 of numbers, out of fold, with 95 % intervals over groups of rows."
MAP = "The score less that of the commonest class (of the mean, for numbers) in the other folds."
