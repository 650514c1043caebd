"""A task's curves by layer, out of fold, and its depth points with intervals. n rows, d layers, B resamples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vlsae.probes.depth_points import depth_metrics, gated_jump
from vlsae.probes.scores import auroc_parts, f1_scores
from vlsae.statistics import Interval, bootstrap_sums, interval_of, share_interval

POINTS = ("jump", "onset", "conv_settle", "conv_peak", "conv_literal")


@dataclass(frozen=True)
class DepthCurves:
    """``accuracy``, ``f1``, ``auroc`` ``(d,)`` with replicates ``(B, d)``; ``points``: name → interval of depth i/d.

    ``gated`` is the first jump that chance does not explain, NaN where there is none; ``majority`` the commonest class.
    """

    layers: list[str]
    accuracy: Interval
    f1: Interval
    auroc: Interval
    majority: float
    gated: float
    points: dict[str, Interval]
    rows: int


def depth_curves(
    layers: list[str],
    scores: np.ndarray,
    y: np.ndarray,
    folds: np.ndarray,
    groups: np.ndarray,
    noise: np.ndarray | float = 0.0,
    *,
    jump_ratio: float,
    tolerance: float,
    resamples: int,
    seed: int,
) -> DepthCurves:
    """Return curves and points of out-of-fold ``scores (n, d)`` for ``y (n,)`` 0 or 1, groups resampled whole.

    Layers share each resample, so that differences along the curve, and so its points, have their own spread.
    ``noise (d,)`` is the share of the scores' variance that is noise of the fits: intervals of scores are wider by it.
    """
    d = scores.shape[1]
    hits = ((scores > 0) == (y == 1)[:, None]).astype(np.float64)
    confusion = [f1_scores((scores[:, layer] > 0).astype(int), y) for layer in range(d)]
    parts = [auroc_parts(scores[:, layer], y, folds)[1] for layer in range(d)]
    columns = np.column_stack([np.ones(len(y)), hits, *(one[:, number] for number in range(3) for one in confusion)])
    columns = np.column_stack([columns, np.nan_to_num(np.stack(parts, axis=1)), np.isfinite(np.stack(parts, axis=1))])
    numbers = np.unique(groups, return_inverse=True)[1]
    sums = np.zeros((numbers.max() + 1, columns.shape[1]))
    np.add.at(sums, numbers, columns)

    def curves(means: np.ndarray) -> np.ndarray:
        accuracy = means[..., 1 : d + 1] / means[..., :1]
        true, false, missed, area, held = np.split(means[..., d + 1 :], 5, axis=-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.concatenate([accuracy, 2 * true / (2 * true + false + missed), area / held], axis=-1)

    found = bootstrap_sums(curves, sums, resamples=resamples, seed=seed)
    accuracy, f1, auroc = (_part(found, slice(start, start + d)) for start in (0, d, 2 * d))
    accuracy, auroc = (share_interval(one, len(sums), len(y), shared=noise) for one in (accuracy, auroc))
    counted = len(y) - (hits * (y == 0)[:, None]).sum(axis=0)
    f1 = _f1_interval(f1, len(sums), counted, noise)
    majority = float(max(y.mean(), 1 - y.mean()))
    gated = float(gated_jump(hits.T, majority, jump_ratio).jump) if 0 < majority < 1 and d > 1 else float("nan")
    points = _points(accuracy, majority, jump_ratio, tolerance)
    return DepthCurves(layers, accuracy, f1, auroc, majority, gated, points, len(y))


def _f1_interval(found: Interval, groups: int, rows: np.ndarray, noise: np.ndarray | float) -> Interval:
    """Return F1 with the interval of Jaccard's index J = F1/(2 - F1), which is a share of the ``rows (d,)`` that count:
    all but those that are rightly told to be of class 0."""
    estimate, drawn = (np.asarray(one) / (2 - np.asarray(one)) for one in (found.estimate, found.replicates))
    index = share_interval(interval_of(estimate, drawn), groups, rows, shared=noise)
    low, high = (2 * np.asarray(end) / (1 + np.asarray(end)) for end in (index.low, index.high))
    return found._replace(low=low, high=high)


def onset(accuracy: np.ndarray, majority: float) -> np.ndarray:
    """Return the first depth i/d, from i = 0, halfway from the commonest class's rate to the curve's maximum."""
    top = accuracy.max(axis=-1, keepdims=True)
    reached = accuracy - majority >= 0.5 * (top - majority)
    return np.where(top[..., 0] > majority, reached.argmax(axis=-1) / accuracy.shape[-1], np.nan)


def _points(accuracy: Interval, majority: float, jump_ratio: float, tolerance: float) -> dict[str, Interval]:
    at = depth_metrics(accuracy.estimate, jump_ratio, tolerance)
    drawn = depth_metrics(accuracy.replicates, jump_ratio, tolerance)
    at["onset"], drawn["onset"] = onset(accuracy.estimate, majority), onset(accuracy.replicates, majority)
    # A curve whose best layer is no better than guessing has no onset.
    if accuracy.low.max() <= majority:
        at["onset"], drawn["onset"] = np.array(np.nan), np.full(len(accuracy.replicates), np.nan)
    return {name: _interval(at[name], np.asarray(drawn[name])) for name in POINTS}


def _interval(at: np.ndarray, drawn: np.ndarray) -> Interval:
    """Return the interval of a point over the resamples that have one; without two of them, none."""
    if np.isfinite(drawn).sum() > 1:
        return interval_of(at, drawn)
    return Interval(float(at), float("nan"), float("nan"), float("nan"), drawn)


def _part(found: Interval, own: slice) -> Interval:
    def take(value: Any) -> np.ndarray:
        return np.asarray(value)[own]

    return Interval(
        take(found.estimate), take(found.standard_error), take(found.low), take(found.high), found.replicates[:, own]
    )
