"""Penalised normal equations of one matrix and many penalties: (G + Λ) w = b.

Factored in single precision and refined in double (Wilkinson, 1963; Langou et al., 2006), which costs half. Where that
does not end soon, as where G is near singular, factored in double. Shapes: d columns, P right sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.linalg.blas import dsymm, strsv
from scipy.linalg.lapack import dpotrf, dpotrs, spotrf, spotrs

#: Refinements at most, and the share of the solution below which a step ends them: the next would be far smaller.
REFINEMENTS, SMALLEST = 10, 1e-6

#: Columns from which two precisions are worth their steps.
MIXED_FROM = 256


def solve_penalized(
    gram: np.ndarray, right: np.ndarray, levels: Sequence[float], penalties: Mapping[float, np.ndarray]
) -> np.ndarray:
    """Return (gram + penalty)⁻¹ ``right (d, P)``, where right side p has the ``penalties (d,)`` of its level.

    The lower half of ``gram (d, d)`` counts. Coefficients of an infinite penalty are 0; of a singular matrix, the
    solution of least length is returned.
    """
    owners = {level: np.flatnonzero(np.asarray(levels) == level) for level in penalties}
    held = np.isinf(next(iter(penalties.values())))
    right = np.where(held[:, None], 0.0, right)
    found = _refined(gram, right, owners, penalties) if len(gram) >= MIXED_FROM and not held.any() else None
    if found is None:
        found = np.empty_like(right)
        for level, own in owners.items():
            found[:, own] = _factored(gram, right[:, own], penalties[level], held)
    return found


def _refined(
    gram: np.ndarray,
    right: np.ndarray,
    owners: Mapping[float, np.ndarray],
    penalties: Mapping[float, np.ndarray],
) -> np.ndarray | None:
    """Return the solutions by factors in single precision, None where these do not lead there."""
    single, diagonal = gram.astype(np.float32, order="F"), np.diag_indices(len(gram))
    factors, added = {}, np.empty_like(right)
    for level, own in owners.items():
        matrix = single.copy(order="F")
        matrix[diagonal] = gram[diagonal] + penalties[level]
        factors[level], failed = spotrf(matrix, lower=1, clean=0, overwrite_a=1)
        added[:, own] = penalties[level][:, None]
        if failed:
            return None
    found, residual = np.zeros_like(right), right
    for _ in range(REFINEMENTS):
        # Of unit size, for single precision has a short range.
        size = np.maximum(np.abs(residual).max(axis=0), np.finfo(float).tiny)
        step, short = np.empty_like(right), (residual / size).astype(np.float32)
        for level, own in owners.items():
            step[:, own] = _substituted(factors[level], short[:, own])
        step *= size
        found += step
        if (np.abs(step).max(axis=0) <= SMALLEST * np.abs(found).max(axis=0)).all():
            return found
        residual = right - dsymm(1.0, gram, found, lower=1) - added * found
    return None


def _substituted(factor: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return (LLᵀ)⁻¹ ``right (d, P)`` of a factor L ``(d, d)`` in single precision."""
    if right.shape[1] > 1:
        return np.asarray(spotrs(factor, right, lower=1)[0])
    # The routine for many right sides takes several times as long for one.
    return np.asarray(strsv(factor, strsv(factor, right[:, 0], lower=1), lower=1, trans=1)[:, None])


def _factored(gram: np.ndarray, right: np.ndarray, penalty: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Return the solutions of one penalty in double precision."""
    matrix = gram.copy(order="F")
    matrix[np.diag_indices(len(matrix))] += np.where(held, 1.0, penalty)
    if held.any():
        matrix[held, :], matrix[:, held] = 0.0, 0.0
        matrix[held, held] = 1.0
    factor, failed = dpotrf(matrix, lower=1, clean=0)
    if failed:
        full = np.tril(matrix) + np.tril(matrix, -1).T
        return np.asarray(np.linalg.lstsq(full, right, rcond=None)[0])
    return np.asarray(dpotrs(factor, right, lower=1)[0])
