"""Concept recovery of a dictionary beside what any set of directions reaches, and what supervision reaches.

Beside the dictionary's codes: its dense activations, an untrained VL-SAE of equal size, raw units, principal
components, and the ceiling of a supervised probe. n rows, d width, h concepts, F factors.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlsae.dictionaries.base import Dictionary
from vlsae.dictionaries.codes import activation_matrix, code_matrix, rows_of
from vlsae.dictionaries.factor_scores import (
    Factors,
    Recovery,
    checked_factors,
    halves,
    recovery,
    score_factors,
    write_table,
)
from vlsae.runs.metrics import Measure

__all__ = ["Factors", "Recovery", "RecoveryTable", "recover", "recovery", "supervised"]

#: Elements of a stream's dense activations that may be held at once; beyond, rows are sampled.
DENSE_ELEMENTS = 1 << 26
#: Principal components scored at most.
COMPONENTS = 256
#: Inverse strength of the supervised probe's penalty, on features of unit variance.
PROBE_C = 0.1


@dataclass(frozen=True)
class RecoveryTable:
    """Recovery by method: ``recovery`` is the dictionary's, the others are what it is compared with."""

    results: dict[str, Recovery]

    def metrics(self) -> dict[str, Measure]:
        """Return the numbers of the summary, ``recovery/auroc`` and so on, and how many factors they rest on."""
        numbers: dict[str, Measure] = {}
        for method, result in self.results.items():
            numbers |= result.metrics(method)
        own = self.results["recovery"]
        numbers["recovery/factors"] = Measure(len(own.factors) - len(own.one_stream), "factors")
        numbers["recovery/factors_skipped"] = Measure(len(own.skipped), "factors with too few rows")
        numbers["recovery/factors_one_stream"] = Measure(len(own.one_stream), "factors left out of the joint numbers")
        return numbers

    def write(self, folder: Path) -> None:
        """Write every factor's scores as ``recovery.parquet`` and ``recovery.csv`` into a folder."""
        write_table(self.results, folder)


def recover(
    dictionary: Dictionary,
    values: Mapping[str, Tensor],
    factors: Factors | tuple[Sequence[str], Sequence[str], np.ndarray],
    *,
    only: Mapping[str, str] | None = None,
    seed: int = 0,
    resamples: int = 200,
) -> RecoveryTable:
    """Score how well a dictionary's concepts, and the methods beside it, find known factors.

    ``values``: stream → ``(n, d)``, row i of each stream of the same sample; ``only`` adds to ``factors.only`` which
    factors or groups one stream alone knows. The methods are named as in the summary:
    ``recovery`` (codes), ``recovery_dense`` (activations before any is left out), ``recovery_random`` and
    ``recovery_random_dense`` (an untrained VL-SAE of equal size), ``recovery_units`` and ``recovery_pca`` (either
    sign), ``recovery_ceiling``.
    """
    given = factors if isinstance(factors, Factors) else Factors(*factors)
    known = checked_factors(given._replace(only={**given.only, **(only or {})}), values)
    untrained = _untrained(dictionary, seed)
    some = _dense_rows(len(known.matrix), dictionary.n_concepts, seed)
    fewer = known._replace(matrix=known.matrix[some])
    common: dict[str, Any] = {"seed": seed, "resamples": resamples}
    results = {}
    for name, one in (("recovery", dictionary), ("recovery_random", untrained)):
        codes = {stream: code_matrix(one, x, stream) for stream, x in values.items()}
        results[name] = recovery(codes, known, **common)
        dense = {stream: activation_matrix(one, rows_of(x, some), stream) for stream, x in values.items()}
        results[f"{name}_dense"] = recovery(dense, fewer, **common)
    raw = {stream: x.double().cpu().numpy() for stream, x in values.items()}
    results["recovery_units"] = recovery(raw, known, signed=True, **common)
    results["recovery_pca"] = recovery(_principal_components(raw, seed), known, signed=True, **common)
    results["recovery_ceiling"] = supervised(raw, known, **common)
    return RecoveryTable(results)


def supervised(values: Mapping[str, np.ndarray], factors: Factors, *, seed: int = 0, resamples: int = 200) -> Recovery:
    """Score logistic probes, one a factor and stream, fitted on one half and scored on the other: the ceiling."""
    known = checked_factors(factors, values)
    choose, score = halves(len(known.matrix), seed)
    scaled = {stream: standardised(x, choose) for stream, x in values.items()}
    probes: dict[tuple[int, str], Callable[[np.ndarray], np.ndarray]] = {}

    def column(number: int, stream: str, rows: np.ndarray, concept: int) -> np.ndarray:
        if (number, stream) not in probes:
            probes[number, stream] = logistic_probe(scaled[stream][choose], known.matrix[choose, number])
        return probes[number, stream](scaled[stream][rows])

    return score_factors(
        known, tuple(values), choose, score, lambda number, streams: -1, column, resamples=resamples, seed=seed
    )


def logistic_probe(x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the decision function of a logistic probe of rows ``(n, d)`` of unit variance for ``y (n,)`` bool."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    # Newton steps cost d³, quasi-Newton steps n·d.
    solver = "newton-cholesky" if x.shape[1] <= 1024 else "lbfgs"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=PROBE_C, solver=solver, max_iter=200).fit(x, y).decision_function


def standardised(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return ``x (n, d)`` less the mean and over the standard deviation of some of its rows."""
    deviation = x[rows].std(axis=0)
    return (x - x[rows].mean(axis=0)) / np.where(deviation > 0, deviation, 1)


def _principal_components(values: Mapping[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """Return the rows along common directions of most variance, each stream about its own mean.

    One pooled mean would make the gap between the streams the first component.
    """
    choose, _ = halves(len(next(iter(values.values()))), seed)
    centred = {stream: x - x[choose].mean(axis=0) for stream, x in values.items()}
    pooled = np.concatenate([x[choose] for x in centred.values()])
    _, directions = np.linalg.eigh(pooled.T @ pooled)
    return {stream: x @ directions[:, ::-1][:, :COMPONENTS] for stream, x in centred.items()}


def _untrained(dictionary: Dictionary, seed: int) -> Dictionary:
    from vlsae.dictionaries.vl_sae import VLSAE

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VLSAE(dictionary.width, dictionary.n_concepts, dictionary.k).eval()


def _dense_rows(n: int, h: int, seed: int) -> np.ndarray:
    most = max(1, DENSE_ELEMENTS // h)
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, most, replace=False))
