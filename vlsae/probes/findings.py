"""From linear fits to numbers with intervals, tables, figures and directions. n rows, d columns, K folds, C classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np

from vlsae.probes.base import Measured
from vlsae.probes.fold_noise import noise_of
from vlsae.probes.nested import Nested
from vlsae.probes.scores import auroc_parts, grouped_explained, resampled_means
from vlsae.probes.targets import Target
from vlsae.result import HeatMap, Measure, Plot, Series, Table
from vlsae.statistics import Interval, interval_of, share_interval, t_interval

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
        if self.target.kind != "number":
            return _hits(self.fit, self.y)
        return np.asarray(1 - _errors(self.fit, self.y) / self.alone.mean())

    @cached_property
    def alone(self) -> np.ndarray:
        """Each number's squared distance from the mean of the other folds ``(n,)``."""
        return _alone(self.y, self.folds)

    @cached_property
    def baseline(self) -> np.ndarray:
        """Each row's part in the score of the commonest class, or the mean, of the other folds ``(n,)``."""
        found = np.zeros(len(self.y))
        if self.target.kind != "number":
            for fold in np.unique(self.folds):
                held = self.folds == fold
                found[held] = self.y[held] == np.bincount(self.y[~held].astype(int)).argmax()
        return found

    @cached_property
    def noise(self) -> np.ndarray:
        """The share of each fold's scores that is noise of its fit, ``(K,)``."""
        return noise_of(self.fit, self.y, self.folds, numbers=self.target.kind == "number")

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
    rows = list(_rows(findings, resamples, seed))
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
    columns, groups, noise = [], [], []
    for place, fold in enumerate(folds):
        means = [np.nanmean(one.parts[one.folds != fold]) for one in findings]
        chosen = findings[int(np.argmax(means))]
        held = chosen.folds == fold
        columns.append(_of_score(chosen)[held])
        groups.append(chosen.groups[held])
        noise.append(chosen.noise[place])
    every, together = np.concatenate(columns), np.concatenate(groups)
    drawn = resampled_means(every, together, resamples=resamples, seed=seed)[1]
    found = _score(findings[0].target, every, together, drawn, float(np.mean(noise)))
    overall = findings[int(np.argmax([np.nanmean(one.parts) for one in findings]))].site
    return Measure(float(found.estimate), "share", float(found.low), float(found.high)), overall


def _hits(fit: Nested, y: np.ndarray) -> np.ndarray:
    """Return 1 for each row whose class is told right, ``(n,)``."""
    if fit.scores.shape[1] == 1:
        return np.asarray((fit.scores[:, 0] > 0) == (y == 1), dtype=np.float64)
    return np.asarray(fit.scores.argmax(axis=1) == y, dtype=np.float64)


def _errors(fit: Nested, y: np.ndarray) -> np.ndarray:
    return np.asarray((fit.scores[:, 0] - y) ** 2)


def _alone(y: np.ndarray, folds: np.ndarray) -> np.ndarray:
    found = np.empty(len(y))
    for fold in np.unique(folds):
        held = folds == fold
        found[held] = (y[held] - y[~held].mean()) ** 2
    return found


def _of_score(one: Finding) -> np.ndarray:
    """Return what each row brings into the score: a hit ``(n, 1)``; of a number its squared error and distance from
    the mean ``(n, 2)``."""
    if one.target.kind == "number":
        return np.stack([_errors(one.fit, one.y), one.alone], axis=1)
    return one.parts[:, None]


def _columns(one: Finding) -> np.ndarray:
    """Return what each row brings into the numbers ``(n, q)``: hit, baseline's, control's, AUROC's part; of a number
    its squared error and distance from the mean."""
    columns = list(_of_score(one).T)
    if one.target.kind == "number":
        return np.stack(columns, axis=1)
    columns.append(one.baseline)
    if one.control is not None:
        columns.append(_hits(*one.control))
    if one.target.kind == "binary":
        columns.append(auroc_parts(one.fit.scores[:, 0], one.y, one.folds)[1])
    return np.stack(columns, axis=1)


def _score(one: Target, columns: np.ndarray, groups: np.ndarray, drawn: np.ndarray, noise: float) -> Interval:
    """Return accuracy, or R², with its interval, of what rows bring into it and its resampled means ``(B, …)``."""
    if one.kind == "number":
        return grouped_explained(columns, groups, shared=noise)
    found = interval_of(columns[:, 0].mean(), drawn[:, 0])
    return share_interval(found, len(np.unique(groups)), len(groups), shared=noise)


def _selectivity(one: Finding, control: tuple[Nested, np.ndarray], drawn: np.ndarray, noise: float) -> Interval:
    """Return the score less the control's, which is taken for noise alone, with its interval.

    By t; of R², whose intervals are not symmetric, from the ends of both (Zou and Donner, 2008).
    """
    if one.target.kind != "number":
        drawn = drawn[:, [0, 2]]
        spread = np.nanvar(drawn, axis=0, ddof=1)
        error = np.sqrt(np.nanvar(drawn[:, 0] - drawn[:, 1], ddof=1) + noise * spread[0] + spread[1])
        value = (one.parts - _hits(*control)).mean()
        return t_interval(value, error, max(1, len(np.unique(one.groups)) - 1))
    own = grouped_explained(_of_score(one), one.groups, shared=noise)
    theirs = np.stack([_errors(*control), _alone(control[1], one.folds)], axis=1)
    other = grouped_explained(theirs, one.groups, shared=1.0)
    value = own.estimate - other.estimate
    low = value - np.hypot(own.estimate - own.low, other.high - other.estimate)
    high = value + np.hypot(own.high - own.estimate, other.estimate - other.low)
    return Interval(value, np.hypot(own.standard_error, other.standard_error), low, high, np.empty(0))


def _rows(findings: Sequence[Finding], resamples: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield each finding's numbers; findings of one site and the same rows share their resamples."""
    places: dict[tuple[str, bytes], list[int]] = {}
    for place, one in enumerate(findings):
        places.setdefault((one.site, one.rows.tobytes()), []).append(place)
    found: dict[int, dict[str, Any]] = {}
    for own in places.values():
        columns = [_columns(findings[place]) for place in own]
        ends = np.cumsum([part.shape[1] for part in columns])[:-1]
        means, drawn = resampled_means(
            np.concatenate(columns, axis=1), findings[own[0]].groups, resamples=resamples, seed=seed
        )
        for place, mean, draws in zip(own, np.split(means, ends), np.split(drawn, ends, axis=1)):
            found[place] = _row(findings[place], mean, draws)
    yield from (found[place] for place in range(len(findings)))


def _row(one: Finding, means: np.ndarray, drawn: np.ndarray) -> dict[str, Any]:
    noise = float(one.noise.mean())
    score = _score(one.target, _of_score(one), one.groups, drawn, noise)
    number = one.target.kind == "number"
    selective = None if one.control is None else _selectivity(one, one.control, drawn, noise)
    control = None if selective is None else float(score.estimate - selective.estimate)
    auroc = None
    if one.target.kind == "binary":
        count = len(np.unique(one.groups))
        auroc = share_interval(interval_of(means[-1], drawn[:, -1]), count, len(one.y), shared=noise)
    n_classes = len(one.target.classes)
    uniform = len(one.y) * np.log2(n_classes) if n_classes else None
    return {
        "site": one.site,
        "target": one.target.name,
        "type": one.target.kind,
        "rows": len(one.y),
        "score_name": one.measured,
        "score": float(score.estimate),
        "low": float(score.low),
        "high": float(score.high),
        "majority": 0.0 if number else float(means[1]),
        "control": control,
        "selectivity": None if selective is None else float(selective.estimate),
        "selectivity_low": None if selective is None else float(selective.low),
        "selectivity_high": None if selective is None else float(selective.high),
        "auroc": None if auroc is None else _clipped(auroc.estimate),
        "auroc_low": None if auroc is None else float(auroc.low),
        "auroc_high": None if auroc is None else float(auroc.high),
        "noise": noise,
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


def _clipped(value: float) -> float:
    return float(np.clip(value, 0.0, 1.0))


EXPLAINED = (
    "Scores are out of fold, with 95 % intervals over groups of rows; a fold's penalty is chosen without it. "
    "Control: labels drawn by token or group. Noise: the share of the scores' variance that is noise of the fits, by "
    "which intervals are wider. Code bits: the online code; compression: over log2 C bits a row."
)
BEST = (
    "Best: each fold is scored by the site that is best on the other folds, so that choosing among many sites is not "
    "counted as skill. Site: the best on all folds. Words: the same probe on word counts of the texts."
)
CURVES = "Accuracy of classes, R2 of numbers, out of fold, with 95 % intervals over groups of rows."
MAP = "The score less that of the commonest class (of the mean, for numbers) in the other folds."
