"""What Calinski-Harabasz would be if labels told nothing: the same rows under permuted labels.

n rows, d width, K classes, B permutations.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from vlsae import statistics
from vlsae.aqi.accumulators import moments_of
from vlsae.aqi.inputs import Labelled, groups, labelled
from vlsae.errors import UserError

#: A null value this close to the observed one, relative, is a tie that rounding broke.
TIE = 1e-10

#: Rows that are summed at once, for all permutations.
ROWS_AT_ONCE = 512


class PermutationTest(NamedTuple):
    """The observed statistic, that of each permutation ``(B,)``, and the one-sided p-value."""

    statistic: float
    null: np.ndarray
    p_value: float


def permutation_test(x: Any, labels: Any, permuted: Any, strata: Any = None) -> PermutationTest:
    """Return the test of no difference by permuted labels ``(B, n)``, one-sided, p = (1 + #{null ≥ observed})/(1 + B).

    The statistic is Calinski-Harabasz, within strata where these are given (strata as in :func:`stratified`);
    permutations should then keep each stratum's counts. Memory is B·d beside ``permuted`` and x. Raises
    ``ValueError`` for a row of ``permuted`` that does not hold the labels' counts.
    """
    data = labelled(x, labels)
    codes = _permuted_codes(permuted, data)
    if len(data.classes) < 2:
        return PermutationTest(float("nan"), np.full(len(codes), np.nan), float("nan"))
    rows = len(data.x)
    _, stratum = groups("strata", np.zeros(rows, dtype=np.int64) if strata is None else strata, rows)
    # The observed labels go the same way as the others, or a permutation equal to them could fall below by rounding.
    values = _stratified_chi(data, np.concatenate([data.codes[None], codes]), stratum, strict=strata is not None)
    observed, null = float(values[0]), values[1:]
    tied = np.abs(null - observed) <= TIE * abs(observed) if np.isfinite(observed) else np.zeros(len(null), dtype=bool)
    null = np.where(tied, observed, null)
    return PermutationTest(observed, null, statistics.permutation_p_value(observed, null))


def _permuted_codes(permuted: Any, data: Labelled) -> np.ndarray:
    """Return the class codes ``(B, n)`` of permuted labels, checked to hold each class as often as the labels do."""
    if hasattr(permuted, "detach"):
        permuted = permuted.detach().cpu().numpy()
    table = np.asarray(permuted)
    if table.ndim != 2 or table.shape[1] != len(data.x) or len(table) == 0:
        raise UserError(f"permuted has shape {table.shape}; (B, {len(data.x)}) with B ≥ 1 was expected.")
    if table.dtype.kind not in "iub":
        raise UserError(f"permuted must be integers; got {table.dtype}.")
    codes = np.zeros(table.shape, dtype=np.min_scalar_type(len(data.classes)))
    counts = np.bincount(data.codes, minlength=len(data.classes))
    wrong = np.zeros(len(table), dtype=bool)
    for code, name in enumerate(data.classes):
        found = table == name
        wrong |= found.sum(axis=1) != counts[code]
        codes[found] = code
    if wrong.any():
        listed = ", ".join(str(row) for row in np.flatnonzero(wrong)[:8])
        raise UserError(f"permuted does not hold each label as often as labels does, rows {listed}.")
    return codes


def _stratified_chi(data: Labelled, codes: np.ndarray, stratum: np.ndarray, strict: bool) -> np.ndarray:
    """Return the stratified Calinski-Harabasz value of each row of ``codes (B, n)``.

    Total scatter and means of strata do not depend on labels, so only sums of classes are needed.
    """
    classes = len(data.classes)
    between, total, square_sum, rows, strata = np.zeros(len(codes)), 0.0, 0.0, 0, 0
    least = 2 if strict else 1
    for a in range(int(stratum.max()) + 1):
        members = np.flatnonzero(stratum == a)
        if np.bincount(data.codes[members], minlength=classes).min() < least:
            continue
        whole = moments_of(data.x[members], np.zeros(len(members), dtype=np.int64), 1)
        between += _between(data.x, members, whole.mean[0], codes, classes)
        total += float(whole.m2.sum())
        square_sum += whole.scatter().square_sum
        rows, strata = rows + len(members), strata + 1
    freedom = rows - strata * classes
    if strata == 0 or freedom == 0:
        return np.full(len(codes), np.nan)
    zero = 1e-24 * square_sum
    between[between <= zero] = 0
    within = total - between
    # What is left of a difference of sums is rounding long before it is 1e-24 of them.
    within[within <= max(zero, 1e-14 * total)] = 0
    with np.errstate(divide="ignore", invalid="ignore"):
        return (between / (strata * (classes - 1))) / (within / freedom)


def _between(x: np.ndarray, members: np.ndarray, mean: np.ndarray, codes: np.ndarray, classes: int) -> np.ndarray:
    """Return Σ_k ‖S_k‖²/n_k of each labelling ``(B,)``, S_k the sum of class k's rows less the stratum's mean."""
    result = np.zeros(len(codes))
    last, last_count = np.zeros((len(codes), len(mean))), np.full(len(codes), float(len(members)))
    for k in range(classes - 1):
        sums = np.zeros_like(last)
        for at in range(0, len(members), ROWS_AT_ONCE):
            chosen = members[at : at + ROWS_AT_ONCE]
            sums += (codes[:, chosen] == k).astype(np.float64) @ (x[chosen] - mean)
        count = (codes[:, members] == k).sum(axis=1)
        result += (sums**2).sum(axis=1) / np.maximum(count, 1)
        last, last_count = last - sums, last_count - count
    return result + (last**2).sum(axis=1) / np.maximum(last_count, 1)
