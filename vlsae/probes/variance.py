"""Variance of a representation that features explain (Lampinen et al., 2024, arXiv 2405.05847).

Shapes: n rows, d units, q features.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np

from vlsae.errors import UserError, VlsaeWarning
from vlsae.probes.inputs import matrix, same_rows, varying


class VarianceExplained(NamedTuple):
    """R² of each feature alone, ``pooled (q,)`` and ``per_sample (q,)``, and of all together. Not clipped: below 0
    where a feature predicts worse than the mean."""

    pooled: np.ndarray
    per_sample: np.ndarray
    joint_pooled: float
    joint_per_sample: float


def variance_explained(reps_fit: Any, features_fit: Any, reps_score: Any, features_score: Any) -> VarianceExplained:
    """Return how much of ``reps_score (n, d)`` linear maps of features ``(n, q)`` explain, fitted on other rows.

    Both parts are centred on the means of the fit rows. ``pooled``: 1 - Σ‖Wf - φ‖²/Σ‖φ‖²; ``per_sample``: the mean
    over rows of 1 - ‖Wf - φ‖²/‖φ‖² (the paper's). A feature that does not vary in the fit rows explains exactly 0, with
    a warning. Rows that do not differ from the mean: NaN or -inf.
    """
    fit, fit_features = _rows(reps_fit, features_fit, "fit")
    score, score_features = _rows(reps_score, features_score, "score")
    for name, a, b in (("reps", fit, score), ("features", fit_features, score_features)):
        if a.shape[1] != b.shape[1]:
            raise UserError(f"{name}_fit and {name}_score must have equal columns; got {a.shape[1]} and {b.shape[1]}.")
    varies = varying(fit_features)
    if not varies.all():
        constant = ", ".join(map(str, np.flatnonzero(~varies)))
        warnings.warn(f"Features that do not vary explain nothing: column {constant}.", VlsaeWarning, stacklevel=2)
    mean, feature_mean = fit.mean(axis=0), fit_features.mean(axis=0)
    fit, score = fit - mean, score - mean
    # A constant feature is zero in both parts, so that its map is none.
    fit_features, score_features = ((f - feature_mean) * varies for f in (fit_features, score_features))
    squares = (fit_features**2).sum(axis=0)
    maps = (fit_features.T @ fit) / np.where(varies, squares, 1.0)[:, None]
    # ‖φ‖² - ‖wf - φ‖² = 2f·φw - f²‖w‖², for all features without a prediction in memory.
    gains = 2 * score_features * (score @ maps.T) - score_features**2 * (maps**2).sum(axis=1)
    together = score_features @ np.linalg.lstsq(fit_features, fit, rcond=None)[0]
    joint = (2 * together * score - together**2).sum(axis=1)
    norms = (score**2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        pooled = gains.sum(axis=0) / norms.sum()
        per_sample = (gains / norms[:, None]).mean(axis=0)
        return VarianceExplained(pooled, per_sample, float(joint.sum() / norms.sum()), float((joint / norms).mean()))


def _rows(reps: Any, features: Any, part: str) -> tuple[np.ndarray, np.ndarray]:
    reps, features = matrix(reps, f"reps_{part}"), matrix(features, f"features_{part}", "q")
    same_rows(len(reps), features, f"features_{part}", f"reps_{part}")
    return reps, features
