"""probe=information_series: what layers hold of input and label over the models that a training kept.

Shapes: n samples, d columns, c components, E models of a series, M estimators.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from vlsae.bounds import Range
from vlsae.errors import UserError
from vlsae.probes.base import CONCEPTS, Probe, Representations, SiteRows, TrainedDictionary
from vlsae.probes.by_sample import means_by_sample
from vlsae.probes.folds import grouped_folds, lacking
from vlsae.probes.information import mi_binned
from vlsae.probes.linear import PENALTIES
from vlsae.probes.nested import nested
from vlsae.probes.noisy_information import DRAWS, NOISY, noisy_information
from vlsae.probes.targets import Target, Targets
from vlsae.progress import progress
from vlsae.result import Measure, Plot, Result, Series, Table
from vlsae.statistics import Interval, jackknife, jackknife_interval

#: Estimators of both informations, and the one of labels alone.
ESTIMATORS, LINEAR = ("bins", *NOISY), "linear"

#: What the model itself is called beside those of the series.
END = "model"


@dataclass(frozen=True)
class Layer:
    """One site and target over the series: ``plane (E, M, 2)`` of I(X;T) and I(T;Y), the ``linear`` label information
    ``(E,)`` with ``loss (E, n)`` behind it, ``drop (M,)`` from the peak of I(X;T) to the last, and ``alone (E,)``, the
    share of samples alone in their bin."""

    site: str
    target: str
    plane: np.ndarray
    linear: np.ndarray
    loss: np.ndarray
    drop: Interval
    alone: np.ndarray


class InformationSeries(Probe):
    """The information plane of a series of models, kept by a training (``train.keep``), at every site.

    ``run`` names that training; the model on the command line is the last point. Of a dictionary's training, named by
    ``--run``, the concepts are read. All models of a series are measured on one scale, in the ``components`` first
    principal directions of all of them together; the linear read-out takes all columns. ``variance`` of the added noise
    is a share of a component's.
    """

    def __init__(
        self,
        *,
        run: str | None = None,
        targets: list[str] | None = None,
        samples: Annotated[int, Range(20, None)] = 400,
        components: Annotated[int, Range(1, 20)] = 3,
        bins: Annotated[int, Range(2, 1000)] = 8,
        variance: Annotated[float, Range(1e-9, 1e3)] = 0.01,
        blocks: Annotated[int, Range(4, 100)] = 10,
    ) -> None:
        self.run, self.targets, self.samples = run, targets, samples
        self.components, self.bins, self.variance, self.blocks = components, bins, variance, blocks

    def check(self, targets: Targets) -> None:
        """Raise ``UserError`` for targets that are not there or are no classes, and for too few groups."""
        self._chosen(targets, 0)

    def variants(
        self, model: Mapping[str, Any], dataset: Mapping[str, Any], runs: Path | None = None
    ) -> dict[str, dict[str, Any]]:
        """Return the extractions of every kept model of the run; ``UserError`` where it kept none."""
        from vlsae.runs import input_run, runs_root
        from vlsae.training.series import series_of

        if self.run is None:
            return {}
        named = input_run(self.run, runs_root(None) if runs is None else runs, "train")
        found = series_of(named.path)
        if not found:
            raise UserError(f"{named.id} kept no models of its training.", "Train it with train.keep=12.")
        return {str(step): {"model": {**model, "checkpoint": f"path:{folder}"}} for step, folder in found.items()}

    def measure(self, representations: Representations, targets: Targets) -> Result:
        """Return both informations by model and site, and how far that of the input falls from its peak."""
        seed = representations.seed
        chosen, known = self._chosen(targets, seed)
        chosen = _at_every_site(representations, chosen)
        series = {**_series(representations), END: representations}
        names = list(series)
        blocks = grouped_folds(targets.groups[chosen], self.blocks, seed)
        sites = _sites(representations)
        layers: list[Layer] = []
        with progress("information", len(sites) * len(known), "sites") as advance:
            for site in sites:
                rows = [means_by_sample(one.rows(site), chosen) for one in series.values()]
                for target in known:
                    layers.append(self._layer(site, target, rows, chosen, blocks, seed))
                    advance(1, site)
        metrics: dict[str, Measure] = {}
        for one in layers:
            for kind, estimator in enumerate(ESTIMATORS):
                ends = [float(np.asarray(part)[kind]) for part in (one.drop.estimate, one.drop.low, one.drop.high)]
                metrics[f"compression/{one.site}/{estimator}"] = Measure(ends[0], "bits", ends[1], ends[2])
            metrics[f"label_information/{one.target}/{one.site}"] = _label(one, blocks)
        tables = [
            Table(
                "compression",
                "Peak less last of I(X;T)",
                DROP_COLUMNS,
                list(_drop_rows(layers, names)),
                DROP,
                shown=True,
            ),
            Table("plane", "Information over the series", PLANE_COLUMNS, list(_plane_rows(layers, names)), PLANE),
        ]
        plots = [_plane_plot(layers), _label_plot(layers, names)]
        headline = [f"label_information/{one.target}/{one.site}" for one in layers][:12]
        return Result(metrics, tables, plots, self._notes(layers, names, len(chosen)), headline)

    def _chosen(self, targets: Targets, seed: int) -> tuple[np.ndarray, list[Target]]:
        """Return the samples that are measured, ascending, and the targets of classes that can be fitted on them."""
        asked = targets.usable()[0] if self.targets is None else targets.select(self.targets)
        known = [one for one in asked if one.kind != "number"]
        if self.targets is not None and len(known) < len(asked):
            name = next(one.name for one in asked if one.kind == "number")
            raise UserError(f"The target {name} holds numbers; information is of classes.", "Take another target.")
        there = np.all([one.labelled for one in known], axis=0) if known else np.zeros(len(targets), dtype=bool)
        chosen = np.sort(np.random.default_rng(seed).permutation(np.flatnonzero(there))[: self.samples])
        if len(chosen) < 2 * self.blocks:
            raise UserError(
                f"{len(chosen)} samples have a class of every target, too few for {self.blocks} blocks.",
                "Name targets that all samples have: probe.targets=[NAME], or use more samples.",
            )
        folds = grouped_folds(targets.groups[chosen], self.blocks, seed)
        fitting = [one for one in known if lacking(one, one.values[chosen], folds) is None]
        if not fitting:
            raise UserError("No target has each of its classes in enough samples.", "Use more samples.")
        return chosen, fitting

    def _layer(
        self, site: str, target: Target, rows: list[np.ndarray], chosen: np.ndarray, blocks: np.ndarray, seed: int
    ) -> Layer:
        labels = target.values[chosen].astype(np.int64)
        parts = _components(rows, self.components)
        noise = np.random.default_rng(seed).normal(size=(DRAWS * len(chosen), parts[0].shape[1])) * np.sqrt(
            self.variance
        )
        low, high = min(part.min() for part in parts), max(part.max() for part in parts)

        def plane(t: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, float]:
            own = noise.reshape(DRAWS, len(chosen), -1)[:, kept].reshape(-1, noise.shape[1])
            binned = mi_binned(t[kept], labels[kept], code="range", n_bins=self.bins, low=low, high=high)
            noisy = noisy_information(t[kept], labels[kept], own, self.variance)
            return np.array([(binned.h_t, binned.i_ty), *noisy]), binned.singletons

        every = np.arange(len(chosen))
        found = [plane(part, every) for part in parts]
        planes = np.stack([one for one, _ in found])
        peaks = planes[..., 0].argmax(axis=0)
        # The peak is where all samples have it; only it and the last are measured again without each block.
        needed = sorted({*peaks.tolist(), len(parts) - 1})
        left_out = []
        for block in np.unique(blocks):
            kept = np.flatnonzero(blocks != block)
            again = {number: plane(parts[number], kept)[0][:, 0] for number in needed}
            left_out.append([again[peak][kind] - again[len(parts) - 1][kind] for kind, peak in enumerate(peaks)])
        drop = jackknife_interval(planes[..., 0].max(axis=0) - planes[-1, :, 0], np.array(left_out))
        classes = 2 if target.kind == "binary" else len(target.classes)
        losses = [nested(one, labels[:, None].astype(float), blocks, PENALTIES, classes)[0].loss for one in rows]
        loss = np.stack(losses) / np.log(2)
        linear = np.array([_entropy(labels) - one.mean() for one in loss])
        return Layer(site, target.name, planes, linear, loss, drop, np.array([alone for _, alone in found]))

    def _notes(self, layers: Sequence[Layer], names: Sequence[str], n: int) -> list[str]:
        notes = [f"{n} samples, so that no I(X;T) can exceed {np.log2(n):.2f} bits.", *FAILURES]
        if len(names) == 1:
            notes.append(
                "The series is the model alone: name a training that kept models, probe.run=train/NAME/latest."
            )
        crowded = sorted({one.site for one in layers if one.alone[-1] > 0.5})
        if crowded:
            notes.append(
                f"Over half of the samples end alone in their bin at {', '.join(crowded)}; there I(X;T) by bins is the "
                "sample's size, not information."
            )
        return notes


def _series(representations: Representations) -> dict[str, Representations]:
    """Return the representations by each kept model: of further extractions, or of a dictionary's own series."""
    from vlsae.dictionaries import from_pretrained
    from vlsae.training.series import series_of

    trained = representations.dictionary
    if trained is None or trained.path is None:
        return dict(representations.variants)
    found = {}
    for step, folder in series_of(trained.path).items():
        kept = TrainedDictionary(from_pretrained(folder).eval(), trained.sites, trained.auxiliary)
        read = {site: representations.rows(site) for site in trained.sites.values()}
        found[str(step)] = Representations(read, representations.samples, dictionary=kept).with_concepts()
    return found


def _sites(representations: Representations) -> list[str]:
    """Return the sites whose rows differ between the models of a series: of a dictionary, its concepts."""
    if representations.dictionary is None:
        return list(representations.sites)
    return [site for site in representations.sites if site.endswith(f".{CONCEPTS}")]


def _at_every_site(representations: Representations, chosen: np.ndarray) -> np.ndarray:
    """Return those of the samples that have rows at every site."""

    def there(rows: SiteRows) -> np.ndarray:
        return np.isin(chosen, rows.sample)

    held = np.all([there(rows) for _, rows in representations], axis=0)
    if not held.any():
        raise UserError("No sample has rows at every site.", "Name sites of one stream: extract.sites=[…].")
    return chosen[held]


def _components(rows: Sequence[np.ndarray], c: int) -> list[np.ndarray]:
    """Return each model's rows in the first c principal directions of all of them, of mean variance 1 over all."""
    together = np.concatenate([one - one.mean(axis=0) for one in rows])
    basis = np.linalg.eigh(together.T @ together)[1][:, ::-1][:, :c]
    spread = np.sqrt((together @ basis).var(axis=0).mean())
    return [(one - one.mean(axis=0)) @ basis / (spread if spread > 0 else 1.0) for one in rows]


def _entropy(labels: np.ndarray) -> float:
    share = np.bincount(labels) / len(labels)
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())


def _label(one: Layer, blocks: np.ndarray) -> Measure:
    entropy = one.linear[-1] + one.loss[-1].mean()
    found = jackknife(lambda rows: entropy - one.loss[-1][rows].mean(), blocks)
    return Measure(float(found.estimate), "bits", float(found.low), float(found.high))


def _drop_rows(layers: Sequence[Layer], names: Sequence[str]) -> Iterator[list[Any]]:
    seen = set()
    for one in layers:
        if one.site in seen:
            continue
        seen.add(one.site)
        for kind, estimator in enumerate(ESTIMATORS):
            values = one.plane[:, kind, 0]
            ends = [float(np.asarray(part)[kind]) for part in (one.drop.estimate, one.drop.low, one.drop.high)]
            peak = int(values.argmax())
            yield [one.site, estimator, *ends, float(values[0]), float(values[peak]), float(values[-1]), names[peak]]


def _plane_rows(layers: Sequence[Layer], names: Sequence[str]) -> Iterator[list[Any]]:
    for one in layers:
        for place, name in enumerate(names):
            for kind, estimator in enumerate(ESTIMATORS):
                yield [one.site, one.target, name, estimator, *one.plane[place, kind].tolist()]
            yield [one.site, one.target, name, LINEAR, None, float(one.linear[place])]


def _plane_plot(layers: Sequence[Layer]) -> Plot:
    series = [
        Series(
            one.site, one.plane[:, kind, 0].tolist(), one.plane[:, kind, 1].tolist(), panel=f"{one.target}: {estimator}"
        )
        for one in layers
        for kind, estimator in enumerate(ESTIMATORS)
    ]
    return Plot("plane", "Information plane over the series", "I(X;T) bits", "I(T;Y) bits", series, "scatter", PLANE)


def _label_plot(layers: Sequence[Layer], names: Sequence[str]) -> Plot:
    series = [Series(one.site, list(names), one.linear.tolist(), panel=one.target) for one in layers]
    title = "Label information by a linear read-out"
    return Plot("label_information", title, "step of the training", "bits", series, "lines", PLANE)


DROP_COLUMNS = ["site", "estimator", "drop", "low", "high", "first", "peak", "last", "peak at"]
PLANE_COLUMNS = ["site", "target", "model", "estimator", "I(X;T)", "I(T;Y)"]
DROP = (
    "Bits that I(X;T) loses from its largest value over the series to the last; 95 % jackknife intervals over blocks "
    "of groups, the peak held where it is. A largest value is never below the last."
)
PLANE = (
    "Bins, bounds and neighbours read the first principal directions of the whole series, on one scale; linear: the "
    "labels' entropy less the log-loss of a linear read-out of all columns, out of fold. Models by step of training."
)
FAILURES = (
    "bins: cells over the range of the whole series; with few samples a cell an input, and I(X;T) is log2 n.",
    "kde: the variance of the added noise decides the number; differences of bounds for I(T;Y) bound nothing.",
    "nearest: cannot exceed about log2 of the draws, and is noisy above about ten dimensions.",
    "linear: a lower bound of I(T;Y), as far as a linear map reads it; below 0 where it overfits. It is the one to "
    "read for wide layers.",
)
