"""Logistic regression, all folds and targets at once, by a batched preconditioned L-BFGS in float64.

Shapes: n rows, d columns, T targets, K folds, q problems (columns that are solved together), p = d + 1.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit

from vlsae.errors import UserError, VlsaeWarning
from vlsae.probes.inputs import above_zero, float_array, integers, listed_rows, matrix, same_rows
from vlsae.probes.quasi_newton import minimize

#: Bytes of one n × q array of the solver.
AT_ONCE = 1 << 25


class LogisticFit(NamedTuple):
    """``coefficients (K, T, d + 1)``, intercept last, fitted without the fold; ``probabilities (n, T)`` of class 1,
    each row by the fit that left its fold out. Folds ascend."""

    coefficients: np.ndarray
    probabilities: np.ndarray


def fit_logistic(x: Any, y: Any, folds: Any, C: float = 1.0, weights: Any = None) -> LogisticFit:
    """Return logistic regressions of ``y (n, T)``, 0 or 1, on ``x (n, d)``, one for each target and left-out fold.

    Each minimises Σ weight·log-loss + ‖w‖²/(2C), the intercept free, x as it is: scikit-learn's problem.
    ``folds (n,)`` integers; ``weights (n, T)`` ≥ 0, 1 where not given; 0 leaves a row out, whatever its y, and its
    probability is given all the same.
    Raises ``ValueError`` for fewer than two folds, other values of y, and training rows of one class only.
    """
    x = matrix(x, "x")
    folds = integers(folds, "folds", len(x))
    C = above_zero(C, "C")
    y, weights = _targets(y, weights, len(x))
    names, numbers = np.unique(folds, return_inverse=True)
    if len(names) < 2:
        raise UserError(f"folds must name at least 2 folds; got {len(names)}.")
    (n, d), n_targets = x.shape, y.shape[1]
    coefficients = np.empty((len(names) * n_targets, d + 1))
    probabilities = np.empty((n, n_targets))
    block = max(1, AT_ONCE // (8 * n))
    for first in range(0, len(coefficients), block):
        fold, target = np.divmod(np.arange(first, min(first + block, len(coefficients))), n_targets)
        kept = weights[:, target] * (numbers[:, None] != fold)
        _check_classes(y[:, target], kept, names[fold], target)
        coefficients[first : first + block] = solve(x, y[:, target], kept, C).T
    coefficients = coefficients.reshape(len(names), n_targets, d + 1)
    for number, own in enumerate(coefficients):
        rows = numbers == number
        probabilities[rows] = expit(x[rows] @ own[:, :-1].T + own[:, -1])
    return LogisticFit(coefficients, probabilities)


def solve(x: np.ndarray, y: np.ndarray, weights: np.ndarray, C: float) -> np.ndarray:
    """Return the coefficients ``(d + 1, q)``, intercept last, of q regressions of ``y (n, q)`` on ``x (n, d)``.

    Warns where some have not converged.
    """
    # The intercept is free, so centring changes nothing but the condition of the problem.
    center = x.mean(axis=0)
    reduced, basis = _row_space(x - center)
    with_one = np.column_stack([reduced, np.ones(len(x))])
    penalty = np.append(np.full(reduced.shape[1], 1 / C), 0.0)
    # A bound of the Hessian of the average problem: the log-loss curves by 1/4 at most.
    bound = 0.25 * with_one.T @ (weights.mean(axis=1)[:, None] * with_one) + np.diag(penalty)
    inverse = np.linalg.inv(bound)
    found, converged = minimize(with_one, y.T, weights.T, penalty[None], lambda one, *_: one @ inverse)
    if not converged.all():
        words = f"{(~converged).sum()} of {len(converged)} logistic regressions have not converged at C = {C:g}."
        warnings.warn(f"{words} A smaller C, or columns of one scale, would mend it.", VlsaeWarning, stacklevel=3)
    found = found[:, 0].T
    slopes = found[:-1] if basis is None else basis @ found[:-1]
    return np.concatenate([slopes, found[-1:] - center @ slopes])


def _row_space(x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return ``x`` in coordinates of its row space, with the basis ``(d, n)``: exact, as the solution lies in it."""
    if x.shape[1] <= x.shape[0]:
        return x, None
    basis, coordinates = np.linalg.qr(x.T)
    return coordinates.T, basis


def _targets(y: Any, weights: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return checked ``y`` and ``weights``, both ``(n, T)``; y is 0 where its weight is."""
    raw = y.detach().cpu().numpy() if hasattr(y, "detach") else np.asarray(y)
    if raw.ndim != 2 or 0 in raw.shape or raw.dtype.kind not in "fiub":
        raise UserError(f"y must hold numbers, shape (n, T), neither 0; got {raw.dtype} of shape {raw.shape}.")
    same_rows(n, raw, "y", "x")
    used = np.ones(raw.shape)
    if weights is not None:
        used = float_array(weights, "weights")
        if used.shape != raw.shape or (used < 0).any():
            raise UserError(f"weights must be ≥ 0, shape {raw.shape} as y; got shape {used.shape}.")
    bad = np.flatnonzero(((raw != 0) & (raw != 1) & (used > 0)).any(axis=1))
    if len(bad):
        raise UserError(f"y must be 0 or 1; it is neither in {listed_rows(bad)}.", "Give unlabelled rows the weight 0.")
    return np.where(used > 0, raw, 0).astype(np.float64), used


def _check_classes(y: np.ndarray, kept: np.ndarray, folds: np.ndarray, targets: np.ndarray) -> None:
    """Raise ``ValueError`` where a problem's training rows are of one class."""
    lonely = np.flatnonzero(((kept * y).sum(axis=0) == 0) | ((kept * (1 - y)).sum(axis=0) == 0))
    if len(lonely):
        first = lonely[0]
        raise UserError(
            f"y of target {targets[first]} has one class only outside fold {folds[first]}.",
            "Spread both classes over the folds, or leave the target out.",
        )
