"""Concept depth: at which layer a concept becomes linearly readable (Jin et al., 2024, arXiv 2404.07066).

Shapes: d layers, n test items; leading dimensions ``…`` (tasks, repeats) go through unchanged.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from vlsae.errors import UserError
from vlsae.probes.inputs import above_zero, float_array

#: Slack for rounding, so that curves multiplied by a constant keep their points where a ratio meets its threshold.
ROUNDING = 1e-12


class GatedJump(NamedTuple):
    """``jump (…)``: relative depth, NaN where there is none; ``p_rise (…, d - 1)``, ``p_majority (…, d)``."""

    jump: np.ndarray
    p_rise: np.ndarray
    p_majority: np.ndarray


def depth_metrics(accuracy: Any, jump_ratio: float = 1.1, tolerance: float = 0.03) -> dict[str, np.ndarray]:
    """Return jump and convergence points ``(…)`` of accuracy curves ``(…, d)``, as relative depths i/d; NaN: none.

    With β_i = α_i/α_{i-1}, i = 1…d-1: ``jump``, the first β_i ≥ ``jump_ratio``; ``conv_literal``, the last
    |β_i - 1| < ``tolerance`` (the paper's equation); ``conv_settle``, the first i from which on all are;
    ``conv_peak``, the first α_i ≥ (1 - ``tolerance``)·max α, from i = 0.
    Raises ``ValueError`` for curves that are negative or not finite.
    """
    alpha = float_array(accuracy, "accuracy")
    if (alpha < 0).any():
        raise UserError(f"accuracy must not be negative; its smallest value is {alpha.min():g}.")
    jump_ratio = above_zero(jump_ratio, "jump_ratio")
    if not 0 <= tolerance < 1:
        raise UserError(f"tolerance must lie in [0, 1); got {tolerance!r}.")
    with np.errstate(divide="ignore", invalid="ignore"):
        beta = alpha[..., 1:] / alpha[..., :-1]
        steady = np.abs(beta - 1) < tolerance - ROUNDING
    settled = np.logical_and.accumulate(steady[..., ::-1], axis=-1)[..., ::-1]
    peak = alpha >= (1 - tolerance) * (1 - ROUNDING) * alpha.max(axis=-1, keepdims=True)
    d = alpha.shape[-1]
    return {
        "jump": _first(beta >= jump_ratio * (1 - ROUNDING), 1, d),
        "conv_literal": _last(steady, 1, d),
        "conv_settle": _first(settled, 1, d),
        "conv_peak": _first(peak, 0, d),
    }


def gated_jump(correct: Any, majority: float, jump_ratio: float = 1.1, level: float = 0.05) -> GatedJump:
    """Return the first jump that chance does not explain, from ``correct (…, d, n)``: 0 or 1 by layer and test item.

    Three conditions: β_i ≥ ``jump_ratio``; α_i > α_{i-1} by the exact one-sided McNemar test at level/(d - 1); α_i
    above the rate ``majority`` of the commonest class by the exact binomial test at level/d.
    Raises ``ValueError`` for values other than 0 and 1.
    """
    from scipy import stats

    hits = float_array(correct, "correct")
    if hits.ndim < 2 or not np.isin(hits, (0, 1)).all():
        raise UserError(f"correct must hold 0 and 1, shape (…, layers, n); got shape {hits.shape}.")
    for name, value in (("majority", majority), ("level", level)):
        if not 0 < value < 1:
            raise UserError(f"{name} must lie between 0 and 1; got {value!r}.")
    d, n = hits.shape[-2:]
    total = hits.sum(axis=-1)
    gained = (hits[..., 1:, :] > hits[..., :-1, :]).sum(axis=-1)
    changed = gained + (hits[..., 1:, :] < hits[..., :-1, :]).sum(axis=-1)
    p_rise = stats.binom.sf(gained - 1, changed, 0.5)
    p_majority = stats.binom.sf(total - 1, n, majority)
    # In whole hits, so that a layer without any does not divide.
    smallest = above_zero(jump_ratio, "jump_ratio") * (1 - ROUNDING) * total[..., :-1]
    jumps = (total[..., 1:] > 0) & (total[..., 1:] >= smallest)
    passes = jumps & (p_rise <= level / max(1, d - 1)) & (p_majority[..., 1:] <= level / d)
    return GatedJump(_first(passes, 1, d), p_rise, p_majority)


def _first(hits: np.ndarray, offset: int, layers: int) -> np.ndarray:
    """Return (offset + the first true place)/layers along the last axis, NaN where none is true."""
    if hits.shape[-1] == 0:
        return np.full(hits.shape[:-1], np.nan)
    return np.where(hits.any(axis=-1), (hits.argmax(axis=-1) + offset) / layers, np.nan)


def _last(hits: np.ndarray, offset: int, layers: int) -> np.ndarray:
    """Return (offset + the last true place)/layers along the last axis, NaN where none is true."""
    from_end = _first(hits[..., ::-1], 0, 1)
    return (hits.shape[-1] - 1 + offset - from_end) / layers
