"""Which concepts are used, how often, and by which stream. n rows, h concepts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import sparse

from vlsae.runs.metrics import Measure
from vlsae.statistics import bootstrap_sums

#: Share of rows from which a concept counts as dense.
DENSE = 0.1


class Usage(NamedTuple):
    """Of each concept ``(h,)``: how often it fires, its mean activation and mean squared activation, zeros included."""

    frequency: np.ndarray
    mean: np.ndarray
    energy: np.ndarray


def usage(codes: sparse.csr_matrix) -> Usage:
    """Return how the concepts are used in codes ``(n, h)``."""
    n, h = codes.shape
    values = codes.data.astype(np.float64)
    counts = np.bincount(codes.indices, minlength=h)
    sums = np.bincount(codes.indices, weights=values, minlength=h)
    squares = np.bincount(codes.indices, weights=values**2, minlength=h)
    return Usage(*(total / max(n, 1) for total in (counts, sums, squares)))


def modality_scores(vision: Usage, language: Usage) -> np.ndarray:
    """Return each concept's share of activation by vision, ``(h,)``: 0.5 is balanced, NaN is dead in both streams."""
    total = vision.mean + language.mean
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 0, vision.mean / total, np.nan)


def usage_measures(codes: Mapping[str, sparse.csr_matrix], *, seed: int, resamples: int) -> dict[str, Measure]:
    """Return L0, dead and dense shares of each stream, and with two streams how many concepts serve both.

    L0's interval resamples rows. Shares of concepts resample concepts: a resample of rows can only lose concepts, so
    that it would put the dead share's interval above the share.
    """
    numbers: dict[str, Measure] = {}
    used = {stream: usage(matrix) for stream, matrix in codes.items()}

    def share(values: np.ndarray, unit: str = "share of concepts") -> Measure:
        return mean_measure(values, unit, seed=seed, resamples=resamples)

    for stream, matrix in codes.items():
        active = np.diff(matrix.indptr)
        numbers[f"l0/{stream}"] = share(active, "concepts a row")
        numbers[f"l0_min/{stream}"] = Measure(float(active.min()), "concepts a row")
        numbers[f"l0_max/{stream}"] = Measure(float(active.max()), "concepts a row")
        numbers[f"dead/{stream}"] = share(used[stream].frequency == 0)
        numbers[f"dense/{stream}"] = share(used[stream].frequency > DENSE)
    if len(used) == 2:
        vision, language = used["vision"], used["language"]
        numbers["dead/both"] = share((vision.frequency == 0) & (language.frequency == 0))
        scores = modality_scores(vision, language)
        live = ~np.isnan(scores)
        balanced = (scores[live] >= 0.25) & (scores[live] <= 0.75)
        energy = (vision.energy + language.energy)[live]
        numbers["bimodal_share"] = share(balanced, "share of live concepts")
        numbers["bimodal_share/energy"] = _weighted_share(balanced, energy, seed=seed, resamples=resamples)
    return numbers


def mean_measure(values: np.ndarray, unit: str, *, seed: int, resamples: int) -> Measure:
    """Return the mean of values ``(n,)`` with its bootstrap interval; undefined for none."""
    if len(values) == 0:
        return Measure(None, unit)
    columns = np.asarray(values, dtype=np.float64)[:, None]
    interval = bootstrap_sums(lambda means: means[..., 0], columns, resamples=resamples, seed=seed)
    return Measure(float(interval.estimate), unit, interval.low, interval.high)


def _weighted_share(chosen: np.ndarray, weights: np.ndarray, *, seed: int, resamples: int) -> Measure:
    unit = "share of squared activation"
    if not weights.sum() > 0:
        return Measure(None, unit)
    columns = np.stack([chosen * weights, weights], axis=1)
    interval = bootstrap_sums(lambda m: m[..., 0] / m[..., 1], columns, resamples=resamples, seed=seed)
    return Measure(float(interval.estimate), unit, interval.low, interval.high)
