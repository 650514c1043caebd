"""Ridge regression over a path of penalties, its leave-one-out error in closed form (Allen, 1974; Golub et al., 1979).

Shapes: n rows, d columns, T targets, Λ penalties.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from vlsae.errors import UserError
from vlsae.probes.inputs import float_array, matrix, same_rows

#: A row whose own weight in its prediction comes this close to 1 has no prediction without it.
UNDEFINED = 1e-12


class RidgePath(NamedTuple):
    """Mean squared errors ``loo``, ``gcv`` ``(Λ, T)``, NaN where not defined; ``best (T,)``, the penalty of least
    ``loo``; ``coefficients (T, d + 1)`` at that penalty on all rows, intercept last."""

    loo: np.ndarray
    gcv: np.ndarray
    best: np.ndarray
    coefficients: np.ndarray


def ridge_path(x: Any, y: Any, penalties: Any) -> RidgePath:
    """Return the leave-one-out and generalised cross-validation errors of ridge regressions of ``y (n, T)``.

    Each minimises Σ error² + λ‖w‖² on ``x (n, d)``, the intercept free, for λ in ``penalties (Λ,)`` ≥ 0. With the
    leverage h_i, intercept included, loo averages (r_i/(1 - h_i))² and gcv is mean r²/(1 - mean h)². Of equal errors
    the first penalty is best. One singular value decomposition serves all.
    """
    x, y = matrix(x, "x"), matrix(y, "y", "T")
    same_rows(len(x), y, "y", "x")
    penalties = float_array(penalties, "penalties")
    if penalties.ndim != 1 or (penalties < 0).any():
        raise UserError(f"penalties must be ≥ 0, shape (Λ,); got shape {penalties.shape}, least {penalties.min():g}.")
    n = len(x)
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    u, singular, v = np.linalg.svd(x - x_mean, full_matrices=False)
    # Directions that rounding alone fills would count as parameters where the penalty is 0.
    rank = int((singular > max(x.shape) * np.finfo(float).eps * singular[0]).sum())
    u, squares, v = u[:, :rank], singular[:rank] ** 2, v[:rank]
    y = y - y_mean
    projected, leverages = u.T @ y, u**2
    loo, gcv = np.full((2, len(penalties), y.shape[1]), np.nan)
    for number, penalty in enumerate(penalties):
        shrunk = squares / (squares + penalty)
        residual = y - u @ (shrunk[:, None] * projected)
        left = 1 - 1 / n - leverages @ shrunk
        if (left > UNDEFINED).all():
            loo[number] = ((residual / left[:, None]) ** 2).mean(axis=0)
        if left.mean() > UNDEFINED:
            gcv[number] = (residual**2).mean(axis=0) / left.mean() ** 2
    best = np.full(y.shape[1], np.nan)
    defined = np.isfinite(loo).all(axis=1)
    if defined.any():
        best = penalties[defined][loo[defined].argmin(axis=0)]
    gains = np.sqrt(squares)[:, None] / (squares[:, None] + best)
    slopes = (gains * projected).T @ v
    return RidgePath(loo, gcv, best, np.column_stack([slopes, y_mean - slopes @ x_mean]))
