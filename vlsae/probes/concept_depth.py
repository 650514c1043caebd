"""probe=concept_depth: at which layer each task becomes linearly readable (Jin et al., 2024, arXiv 2404.07066).

Shapes: n rows, d layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from vlsae.bounds import OneOf, Range
from vlsae.errors import UserError
from vlsae.models.sites import layers_of
from vlsae.probes.base import Probe, Representations
from vlsae.probes.depth_curves import POINTS, DepthCurves, depth_curves
from vlsae.probes.fold_noise import noise_of
from vlsae.probes.folds import grouped_folds, lacking
from vlsae.probes.linear import PENALTIES, Penalty
from vlsae.probes.nested import nested
from vlsae.probes.targets import Target, Targets
from vlsae.progress import progress
from vlsae.result import Measure, Plot, Result, Series, Table
from vlsae.statistics import interval_of

NOISES = ("none", "prefix", "swapped")

#: The paper's split: one, of rows, this share for testing (its released code).
REFERENCE_SHARE, REFERENCE_SEED = 0.4, 42


@dataclass(frozen=True)
class Task:
    """One task: its name, which samples it has ``(s,)``, and their values 0 and 1 there."""

    name: str
    samples: np.ndarray
    target: Target


class ConceptDepth(Probe):
    """Accuracy, F1 and AUROC of each two-class task by layer, with the points where it jumps and settles.

    A task is a target, or where samples come from several sources a target in each. At most ``samples`` are drawn for a
    task. ``noise`` and ``bits`` add the same tasks with noisy texts and with weights of 16, 8 or 4 bits.
    ``reference`` fits as the authors' code does: scikit-learn's logistic regression, one split, columns as they are.
    """

    def __init__(
        self,
        *,
        targets: list[str] | None = None,
        folds: Annotated[int, Range(3, 100)] = 5,
        penalties: list[Penalty] | None = None,
        samples: Annotated[int, Range(10, None)] | None = 3000,
        jump_ratio: Annotated[float, Range(1, None)] = 1.1,
        tolerance: Annotated[float, Range(0, 0.99)] = 0.03,
        noise: Annotated[str, OneOf(*NOISES)] = "none",
        noise_share: Annotated[float, Range(0, 1)] = 1.0,
        bits: list[Annotated[int, OneOf(16, 8, 4)]] | None = None,
        reference: bool = False,
        resamples: Annotated[int, Range(100, None)] = 1000,
    ) -> None:
        self.targets, self.folds, self.samples = targets, folds, samples
        self.penalties = PENALTIES if penalties is None else list(penalties)
        self.jump_ratio, self.tolerance = jump_ratio, tolerance
        self.noise, self.noise_share, self.bits = noise, noise_share, bits or []
        self.reference, self.resamples = reference, resamples

    def check(self, targets: Targets) -> None:
        """Raise ``UserError`` where there is no task of two classes, or a task asked for cannot be fitted."""
        self._tasks(targets, 0)

    def variants(
        self, model: Mapping[str, Any], dataset: Mapping[str, Any], runs: Path | None = None
    ) -> dict[str, dict[str, Any]]:
        """Return the extractions with noisy texts and with rounded weights."""
        found: dict[str, dict[str, Any]] = {}
        if self.noise != "none":
            noisy = {"kind": self.noise, "share": self.noise_share, "seed": 0, "clean": dict(dataset)}
            found[f"{self.noise} noise"] = {"dataset": {"_target_": "vlsae.datasets.noisy.Noisy", **noisy}}
        for bits in self.bits:
            rounded = {"_target_": "vlsae.models.rounded.Rounded", "exact": dict(model), "bits": bits}
            found[f"{bits} bits"] = {"model": rounded}
        return found

    def measure(self, representations: Representations, targets: Targets) -> Result:
        """Return curves and points of each task, its order among them, and what noise and rounding do to it."""
        seed = representations.seed
        tasks, notes = self._tasks(targets, seed)
        versions = {"plain": representations, **representations.variants}
        work = [(name, stream, one) for name, one in versions.items() for stream in _streams(one)]
        found: dict[tuple[str, str, str], DepthCurves] = {}
        with progress("concept depth", len(work) * len(tasks), "tasks") as advance:
            for name, stream, one in work:
                for task in tasks:
                    found[task.name, stream, name] = self._curves(one, stream, task, targets, seed)
                    advance(1, task.name)
        if not found:
            raise UserError("There is no numbered layer among the sites.", "Use extract.sites=all.")
        return _result(found, notes + ([REFERENCE] if self.reference else []))

    def _tasks(self, targets: Targets, seed: int) -> tuple[list[Task], list[str]]:
        chosen = [one for one in targets.select(self.targets) if one.kind == "binary"]
        if not chosen:
            raise UserError(
                "No target has two classes.", "Concept depth reads two classes; use probe=linear for others."
            )
        sources = np.array(
            targets.samples["source"].to_pylist() if "source" in targets.samples.column_names else ["one"]
        )
        several = len(set(sources.tolist())) > 1
        tasks, notes = [], []
        generator = np.random.default_rng(seed)
        for target in chosen:
            for source in dict.fromkeys(sources.tolist()):
                held = target.labelled & (sources == source)
                name = target.name
                if several:
                    place = source.rsplit("/", 1)[-1].removesuffix(".csv")
                    name = place if len(chosen) == 1 else f"{place}: {target.name}"
                samples = self._some(held, targets.groups, generator)
                reason = self._unfit(target, targets, samples)
                if reason is None:
                    tasks.append(Task(name, samples, target))
                elif held.any():
                    notes.append(f"{name} is left out: {reason}.")
        if not tasks:
            raise UserError(f"No task can be fitted. {' '.join(notes)}", "Take more samples or fewer folds.")
        return tasks, notes

    def _some(self, held: np.ndarray, groups: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Return at most the wanted number of samples, whole groups, drawn."""
        rows = np.flatnonzero(held)
        if self.samples is None or len(rows) <= self.samples:
            return rows
        order = generator.permutation(groups.max() + 1)[groups[rows]]
        return np.sort(rows[np.argsort(order, kind="stable")[: self.samples]])

    def _unfit(self, target: Target, targets: Targets, samples: np.ndarray) -> str | None:
        if len(np.unique(targets.groups[samples])) < self.folds:
            return f"it has {len(np.unique(targets.groups[samples]))} groups of samples for {self.folds} folds"
        values = target.values[samples]
        if len(np.unique(values)) < 2:
            return "it has one class only"
        return lacking(target, values, grouped_folds(targets.groups[samples], self.folds))

    def _curves(
        self, representations: Representations, stream: str, task: Task, targets: Targets, seed: int
    ) -> DepthCurves:
        sites = _layers(representations, stream)
        wanted = np.zeros(len(targets), dtype=bool)
        wanted[task.samples] = True
        owner = representations.rows(sites[0]).sample
        rows = np.flatnonzero(wanted[owner])
        y, groups = task.target.values[owner[rows]], targets.groups[owner[rows]]
        folds = self._folds(groups, seed)
        columns, noise = [], []
        for site in sites:
            x = representations.rows(site).read()[rows].numpy().astype(np.float64)
            if self.reference:
                columns.append(_reference_scores(x, y, folds))
            else:
                one = nested(x, y[:, None], folds, self.penalties, 2)[0]
                columns.append(one.scores[:, 0])
                noise.append(noise_of(one, y, folds).mean())
        scores = np.stack(columns, axis=1)
        if self.reference:
            tested = folds == 1
            scores, y, groups, folds = scores[tested], y[tested], groups[tested], folds[tested]
        settings = {"jump_ratio": self.jump_ratio, "tolerance": self.tolerance, "resamples": self.resamples}
        # One fit scores all rows of the reference's split, so they share none of its noise.
        shared = np.array(noise or 0.0)
        return depth_curves(sites, scores, y, folds, groups, shared, seed=seed, **settings)  # type: ignore[arg-type]

    def _folds(self, groups: np.ndarray, seed: int) -> np.ndarray:
        if not self.reference:
            return grouped_folds(groups, self.folds, seed)
        from sklearn.model_selection import train_test_split

        test = train_test_split(np.arange(len(groups)), test_size=REFERENCE_SHARE, random_state=REFERENCE_SEED)[1]
        return np.isin(np.arange(len(groups)), test).astype(np.int64)


def _reference_scores(x: np.ndarray, y: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Return scikit-learn's decision values by a fit on fold 0, all its settings as they come."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        # The authors' fits end after 100 steps, converged or not.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return np.asarray(LogisticRegression().fit(x[folds == 0], y[folds == 0]).decision_function(x))


def _streams(representations: Representations) -> list[str]:
    streams = dict.fromkeys(site.split(".")[0] for site in representations.sites)
    return [stream for stream in streams if _layers(representations, stream)]


def _layers(representations: Representations, stream: str) -> list[str]:
    """Return the sites of a stream's blocks; layer 0, the input of the first, is no block."""
    return [f"{stream}.{layer}" for layer in layers_of(representations.sites, stream) if layer > 0]


def _result(found: Mapping[tuple[str, str, str], DepthCurves], notes: list[str]) -> Result:
    metrics: dict[str, Measure] = {}
    points, curves, series = [], [], []
    for (task, stream, version), one in found.items():
        key = f"{task}/{stream}" if version == "plain" else f"{task}/{stream}/{version}"
        for name in POINTS:
            metrics[f"{name}/{key}"] = _measure(one.points[name], "of the depth")
        metrics[f"gated_jump/{key}"] = Measure(one.gated, "of the depth")
        best = int(np.argmax(one.accuracy.estimate))
        metrics[f"best_accuracy/{key}"] = Measure(
            float(one.accuracy.estimate[best]), "share", float(one.accuracy.low[best]), float(one.accuracy.high[best])
        )
        depths = [one.gated, *(one.points[name].estimate for name in POINTS)]
        points.append([task, stream, version, one.rows, one.majority, one.layers[best], *_best(one, best), *depths])
        curves += list(_curve_rows(task, stream, version, one))
        x = [site.split(".", 1)[1] for site in one.layers]
        line = (one.accuracy.estimate.tolist(), one.accuracy.low.tolist(), one.accuracy.high.tolist())
        series.append(
            Series(f"{task}{'' if version == 'plain' else f', {version}'}", x, *line, panel=f"{stream}: {task}")
        )
    order = list(_order(found))
    tables = [
        Table("depth", "Where tasks become readable", POINT_COLUMNS, points, POINTS_TEXT, shown=True),
        Table("order", "Order of the tasks by onset", ORDER_COLUMNS, order, ORDER_TEXT, shown=True),
        Table("curves", "Scores by layer", CURVE_COLUMNS, curves),
    ]
    plot = Plot("depth", "Accuracy by layer", "layer", "accuracy out of fold", series, "lines", POINTS_TEXT)
    headline = [f"onset/{task}/{stream}" for task, stream, version in found if version == "plain"]
    return Result(metrics, tables, [plot], notes, headline[:12])


def _best(one: DepthCurves, best: int) -> list[float]:
    return [float(part[best]) for part in (one.accuracy.estimate, one.accuracy.low, one.accuracy.high)]


def _curve_rows(task: str, stream: str, version: str, one: DepthCurves) -> Iterator[list[Any]]:
    for place, site in enumerate(one.layers):
        numbers = [
            float(part[place])
            for interval in (one.accuracy, one.f1, one.auroc)
            for part in (interval.estimate, interval.low, interval.high)
        ]
        yield [task, stream, version, site, one.majority, *numbers]


def _order(found: Mapping[tuple[str, str, str], DepthCurves]) -> Iterator[list[Any]]:
    """Yield each task's rank among those of its stream, with the interval over resamples of all of them."""
    for stream in dict.fromkeys(stream for _, stream, _ in found):
        own = {task: one for (task, place, version), one in found.items() if (place, version) == (stream, "plain")}
        own = {task: one for task, one in own.items() if np.isfinite(one.points["onset"].estimate)}
        if len(own) < 2:
            continue
        drawn = np.stack([np.nan_to_num(one.points["onset"].replicates, nan=2.0) for one in own.values()])
        at = np.array([float(one.points["onset"].estimate) for one in own.values()])
        ranks = interval_of(_ranks(at[None])[0], _ranks(drawn.T))
        for place, (task, one) in sorted(enumerate(own.items()), key=lambda item: ranks.estimate[item[0]]):
            interval = one.points["onset"]
            yield [
                task, stream, float(interval.estimate), float(interval.low), float(interval.high),
                float(ranks.estimate[place]), float(ranks.low[place]), float(ranks.high[place]),
            ]  # fmt: skip


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return the ranks ``(B, T)`` of values within each row, from 1; equal ones share theirs."""
    from scipy.stats import rankdata

    return np.asarray(rankdata(values, axis=-1))


def _measure(interval: Any, unit: str) -> Measure:
    return Measure(float(interval.estimate), unit, float(interval.low), float(interval.high))


POINT_COLUMNS = [
    "task", "stream", "version", "rows", "majority", "best layer", "accuracy", "low", "high", "gated jump", *POINTS,
]  # fmt: skip
ORDER_COLUMNS = ["task", "stream", "onset", "low", "high", "rank", "rank low", "rank high"]
CURVE_COLUMNS = [
    "task", "stream", "version", "site", "majority", "accuracy", "accuracy low", "accuracy high", "f1", "f1 low",
    "f1 high", "auroc", "auroc low", "auroc high",
]  # fmt: skip
POINTS_TEXT = (
    "Depths are i/d over the d blocks, i from 0 at the first. Gated jump: a rise by the ratio that McNemar's test "
    "confirms and that lies above the commonest class. Onset: halfway from the commonest class to the best layer. "
    "conv_literal is the paper's equation, which nearly always is (d-1)/d. None: there is no such point."
)
ORDER_TEXT = "Ranks with 95 % intervals over resamples of each task's groups; tasks no better than guessing have none."
REFERENCE = (
    "Fitted as the authors' code does: one split of rows that keeps no groups together, penalty 1, columns as they are."
)
