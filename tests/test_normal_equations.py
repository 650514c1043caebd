"""Penalised normal equations in two precisions against one dense solve in double."""

from __future__ import annotations

import numpy as np
import pytest

from vlsae.probes import normal_equations
from vlsae.probes.normal_equations import solve_penalized

LEVELS = [0.01, 10.0, 10.0]


def plain(gram, right, levels, penalties):
    columns = [
        np.linalg.solve(gram + np.diag(penalties[level]), one) for level, one in zip(levels, right.T, strict=True)
    ]
    return np.stack(columns, axis=1)


def equations(width: int, spread: float):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2 * width, width)) * np.geomspace(1, spread, width)
    return x.T @ x, generator.normal(size=(width, 3)), {level: np.full(width, level) for level in set(LEVELS)}


@pytest.mark.parametrize("width", [20, normal_equations.MIXED_FROM])
@pytest.mark.parametrize("spread", [0.1, 1e-8])
def test_solutions_are_those_of_a_dense_solve(width, spread):
    gram, right, penalties = equations(width, spread)
    found = solve_penalized(np.asfortranarray(np.tril(gram)), right, LEVELS, penalties)
    expected = plain(gram, right, LEVELS, penalties)
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())


def test_what_single_precision_cannot_factor_is_solved_in_double():
    width = normal_equations.MIXED_FROM
    gram, right, _ = equations(width, 1e-8)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(width, width)))[0]
    gram = turn @ gram @ turn.T
    penalties = {level: np.full(width, level * 1e-6) for level in LEVELS}
    factor = np.asfortranarray(gram)
    owners = {level: np.flatnonzero(np.asarray(LEVELS) == level) for level in penalties}
    assert normal_equations._refined(factor, right, owners, penalties) is None
    found = solve_penalized(factor, right, LEVELS, penalties)
    expected = plain(gram, right, LEVELS, penalties)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_coefficients_of_an_infinite_penalty_are_nought_and_the_matrix_stays():
    gram, right, penalties = equations(20, 0.1)
    for penalty in penalties.values():
        penalty[[3, 7]] = np.inf
    before = gram.copy()
    found = solve_penalized(gram, right, LEVELS, penalties)
    assert (found[[3, 7]] == 0).all()
    np.testing.assert_array_equal(gram, before)
    kept = np.delete(np.arange(20), [3, 7])
    short = {level: one[kept] for level, one in penalties.items()}
    np.testing.assert_allclose(found[kept], plain(gram[np.ix_(kept, kept)], right[kept], LEVELS, short), rtol=1e-9)
