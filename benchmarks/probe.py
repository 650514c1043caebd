"""What cross-validated linear probes cost beside scikit-learn's loop, in CPU seconds of one thread.

    OMP_NUM_THREADS=1 python benchmarks/probe.py speed          12 layers × 512 × 5,000 rows × 5 folds × 7 penalties
    OMP_NUM_THREADS=1 python benchmarks/probe.py speed --run RUN --label background
                                                                the layers of a finished extraction instead
    OMP_NUM_THREADS=1 python benchmarks/probe.py large          one of 33 layers × 4,096 × 6,000 rows, and its memory

Each penalty is fitted without each fold on columns of unit variance, scored on the fold, and the best is fitted on all
rows. ``--peer-layers`` and ``--peer-folds`` bound how much of the loop is run; what is told is for all of it. It is
timed as scikit-learn comes, and again until it has converged, against which coefficients and choice are compared.
"""

from __future__ import annotations

import argparse
import resource
import time
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vlsae.probes.fitting import Design, Problem, fit, scores
from vlsae.probes.nested import losses

PENALTIES = [1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4]
FOLDS = 5
TIGHT = 1e-8


class Found(NamedTuple):
    """Held-out losses ``(K, Λ)`` and coefficients ``(K, Λ, C, d + 1)``."""

    losses: np.ndarray
    coefficients: np.ndarray


def ours(x: np.ndarray, y: np.ndarray, folds: np.ndarray, classes: int) -> Found:
    """Return every fold's fits at every penalty in batched solves, and fit the best on all rows."""
    design = Design(x, folds)
    problems = [Problem(0, (fold,), penalty) for fold in range(FOLDS) for penalty in PENALTIES]
    coefficients = fit(design, y[:, None], problems, classes)
    by_fold = coefficients.reshape(FOLDS, len(PENALTIES), *coefficients.shape[1:])
    lost = np.empty((FOLDS, len(PENALTIES)))
    for fold in range(FOLDS):
        held = np.repeat(y[design.rows(fold), None], len(PENALTIES), axis=1)
        lost[fold] = losses(scores(design, by_fold[fold], fold), held, classes).mean(axis=0)
    fit(design, y[:, None], [Problem(0, (), PENALTIES[int(lost.sum(axis=0).argmin())])], classes)
    return Found(lost, design.raw(by_fold))


def loop(x: np.ndarray, y: np.ndarray, folds: np.ndarray, classes: int, tol: float | None, some: int) -> Found:
    """Return the same from scikit-learn, one pipeline at a time, for the first ``some`` folds."""
    c = 1 if classes in (0, 2) else classes
    found = Found(np.empty((some, len(PENALTIES))), np.empty((some, len(PENALTIES), c, x.shape[1] + 1)))
    settings = {} if tol is None else {"tol": tol, "max_iter": 100_000}
    for fold in range(some):
        for place, penalty in enumerate(PENALTIES):
            model: Any = Ridge(alpha=penalty) if classes == 0 else LogisticRegression(C=1 / penalty, **settings)
            pipeline = make_pipeline(StandardScaler(), model).fit(x[folds != fold], y[folds != fold])
            scaler, held = pipeline[0], x[folds == fold]
            slopes = np.atleast_2d(model.coef_) / scaler.scale_
            offsets = np.atleast_1d(model.intercept_) - slopes @ scaler.mean_
            found.coefficients[fold, place] = np.column_stack([slopes, offsets])
            score = pipeline.predict(held) if classes == 0 else pipeline.decision_function(held)
            lost = losses(np.reshape(score, (len(held), 1, c)), y[folds == fold, None], classes)
            found.losses[fold, place] = lost.mean()
    return found


def timed(function: Any, *arguments: Any) -> tuple[Any, float]:
    """Return what a function gives, and its CPU seconds."""
    before = time.process_time()
    found = function(*arguments)
    return found, time.process_time() - before


def speed(options: argparse.Namespace) -> Table:
    """Return the times of both, and how far apart their coefficients are in units of the columns' spread."""
    table = Table("fits", "ours", "loop", "ratio", "loop to the end", "ratio", "coefficients", "same penalty")
    taken: dict[str, list[Any]] = {}
    for number, (x, targets, folds) in enumerate(layers(options)):
        for name, (y, classes) in targets.items():
            ours_found, ours_time = timed(ours, x, y, folds, classes)
            row = taken.setdefault(name, [0.0, 0.0, 0.0, 0, 0.0, True, 0])
            row[0] += ours_time
            row[6] += 1
            if number >= options.peer_layers:
                continue
            some = min(options.peer_folds, FOLDS)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                plain_time = timed(loop, x, y, folds, classes, None, some)[1] * FOLDS / some
                theirs, tight_time = timed(loop, x, y, folds, classes, TIGHT, some)
            row[1] += plain_time
            row[2] += tight_time * FOLDS / some
            row[3] += 1
            best = theirs.losses.sum(axis=0).argmin()
            apart = np.abs(ours_found.coefficients[:some, best, :, :-1] - theirs.coefficients[:, best, :, :-1])
            row[4] = max(row[4], float((apart * x.std(axis=0)).max()))
            row[5] &= bool(ours_found.losses[:some].sum(axis=0).argmin() == best)
    for name, (own, plain, tight, measured, apart, same, count) in taken.items():
        plain, tight = plain / measured * count, tight / measured * count
        cells = [f"{own:.2f} s", f"{plain:.1f} s", f"{plain / own:.1f}", f"{tight:.1f} s", f"{tight / own:.1f}"]
        table.add_row(name, *cells, f"{apart:.1e}", str(same))
    return table


def layers(options: argparse.Namespace) -> Iterator[tuple[np.ndarray, dict[str, tuple[np.ndarray, int]], np.ndarray]]:
    """Yield the rows of each layer with its targets, and the folds."""
    generator = np.random.default_rng(0)
    if options.run:
        yield from stored(options, generator)
        return
    for _ in range(options.layers):
        n, d = options.rows, options.width
        x = generator.normal(size=(n, d)) * np.geomspace(1, 0.03, d) @ generator.normal(size=(d, d)) / np.sqrt(d)
        x = x * generator.uniform(0.2, 5, d) + 3
        signal = (x - x.mean(axis=0)) / x.std(axis=0) @ generator.normal(size=(d, 10)) * 1.5 / np.sqrt(d)
        noise = generator.logistic(size=n)
        ten = (signal + generator.gumbel(size=(n, 10))).argmax(axis=1).astype(float)
        targets = {"ridge": (signal[:, 0] + noise, 0), "two classes": ((signal[:, 0] + noise > 0).astype(float), 2)}
        yield x, {**targets, "ten classes": (ten, 10)}, generator.permutation(n) % FOLDS


def stored(options: argparse.Namespace, generator: np.random.Generator) -> Iterator[Any]:
    """Yield the vision layers of an extraction with one of its labels, as number, in two classes, and in all."""
    import vlsae
    from vlsae.probes.targets import targets_of

    store = vlsae.open_run(options.run).representations()
    labels = store.samples["labels"].combine_chunks().field(options.label).to_pylist()
    (target,) = targets_of(options.label, labels)
    sites = [site for site in store.sites if site.startswith("vision.") and site.split(".")[1].isdigit()]
    rows = np.sort(generator.permutation(store.n_samples)[: options.rows])
    y, folds = target.values[rows], generator.permutation(len(rows)) % FOLDS
    for site in sites[1 : options.layers + 1]:
        classes = len(target.classes)
        targets = {"ridge": (y, 0), "two classes": ((y == 0).astype(float), 2), f"{classes} classes": (y, classes)}
        yield store.read(site, rows).numpy().astype(np.float64), targets, folds


def large(options: argparse.Namespace) -> Table:
    """Return time and memory of one wide layer of 33."""
    table = Table("fits", "CPU of one layer", "CPU of 33 layers", "peak memory")
    generator = np.random.default_rng(0)
    x = generator.normal(size=(6000, 4096)).astype(np.float32) * np.geomspace(1, 0.05, 4096, dtype=np.float32)
    signal = x[:, :50] @ generator.normal(size=50) / 4
    noise, folds = generator.logistic(size=6000), np.arange(6000) % FOLDS
    for name, y, classes in (("ridge", signal + noise, 0), ("two classes", (signal + noise > 0).astype(float), 2)):
        spent = timed(ours, x, y, folds, classes)[1]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        table.add_row(name, f"{spent:.1f} s", f"{spent * 33:.0f} s", f"{peak:.2f} GB")
    return table


def main() -> None:
    """Measure what the command names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "large"])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--peer-layers", type=int, default=12, help="layers that the loop is run on")
    parser.add_argument("--peer-folds", type=int, default=FOLDS, help="folds that the loop is run on")
    parser.add_argument("--run", help="an extraction to take layers from")
    parser.add_argument("--label", default="background", help="its label column")
    options = parser.parse_args()
    Console().print(speed(options) if options.what == "speed" else large(options))


if __name__ == "__main__":
    main()
