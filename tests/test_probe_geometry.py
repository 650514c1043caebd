"""Parallelism and cross-condition generalisation against stored values, brute force and codes of known geometry."""

from __future__ import annotations

from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from vlsae.probes import ccgp, parallelism_score

GOLDEN = np.load(Path(__file__).parent / "golden" / "probes" / "geometry.npz")
Z = GOLDEN["latents"]
SIGNS = {"z0": Z[:, 0], "z1": Z[:, 1], "z2": Z[:, 2], "xor01": Z[:, 0] * Z[:, 1], "parity": Z.prod(axis=1)}
CUBE = np.array(np.meshgrid([1, -1], [1, -1], [1, -1], indexing="ij")).reshape(3, -1).T.astype(float)


def sides(sign):
    return np.flatnonzero(sign > 0), np.flatnonzero(sign < 0)


@pytest.mark.parametrize("name", SIGNS)
def test_stored_values(name):
    positive, negative = sides(SIGNS[name])
    # The order in which conditions are given does not matter.
    result = parallelism_score(GOLDEN["means"], positive[::-1], np.roll(negative, 1))
    assert result.value == pytest.approx(float(GOLDEN[f"{name}_ps"]), abs=1e-10)
    np.testing.assert_array_equal(result.pairing, GOLDEN[f"{name}_pairing"])
    assert result.exact
    held_out = ccgp(GOLDEN["X"], GOLDEN["cond"], positive[::-1], negative)
    assert held_out.value == pytest.approx(float(GOLDEN[f"{name}_ccgp"]), abs=0.01)
    np.testing.assert_allclose(held_out.folds, GOLDEN[f"{name}_ccgp_folds"], rtol=0, atol=0.01)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.integers(1, 6))
def test_parallelism_is_the_best_of_all_pairings(seed, m, d):
    means = np.random.default_rng(seed).normal(size=(2 * m, d))
    scores = []
    for order in permutations(range(m)):
        v = means[:m] - means[m:][list(order)]
        v /= np.linalg.norm(v, axis=1, keepdims=True)
        scores.append(np.mean([a @ b for a, b in combinations(v, 2)]))
    result = parallelism_score(means, np.arange(m), np.arange(m, 2 * m))
    assert result.value == pytest.approx(max(scores), abs=1e-10)
    rotated = 7 * means @ np.linalg.qr(np.random.default_rng(1).normal(size=(d, d)))[0] + 2
    assert parallelism_score(rotated, np.arange(m), np.arange(m, 2 * m)).value == pytest.approx(max(scores), abs=1e-9)


def test_a_cube_is_parallel_and_generalises():
    positive, negative = sides(CUBE[:, 0])
    result = parallelism_score(CUBE, positive, negative)
    assert result.value == pytest.approx(1, abs=1e-12)
    np.testing.assert_array_equal(result.pairing, [4, 5, 6, 7])
    conditions = np.repeat(np.arange(8), 5)
    assert ccgp(CUBE[conditions], conditions, positive, negative).value == 1


@pytest.mark.parametrize("sign", [CUBE[:, 0], CUBE.prod(axis=1)])
def test_separate_codes_are_not_parallel(sign):
    assert parallelism_score(np.eye(8), *sides(sign)).value == pytest.approx(0, abs=1e-12)


def test_large_dichotomies_are_matched_by_distance_and_said_to_be_approximate():
    generator = np.random.default_rng(0)
    half = generator.normal(size=(9, 12))
    order = generator.permutation(9)
    means = np.vstack([half, (half + 0.3 * np.arange(12))[order]])
    result = parallelism_score(means * 4, np.arange(9), np.arange(9, 18))
    assert not result.exact
    assert -1 <= result.value <= 1
    near = np.vstack([half, (half + 1e-3)[order]])
    result = parallelism_score(near, np.arange(9), np.arange(9, 18))
    assert result.value == pytest.approx(1, abs=1e-9)
    np.testing.assert_array_equal(order[result.pairing - 9], np.arange(9))


def test_degenerate_dichotomies_are_nan():
    assert np.isnan(parallelism_score(CUBE, [0], [1]).value)
    assert np.isnan(parallelism_score(np.ones((4, 2)), [0, 1], [2, 3]).value)
    # One coincident pair leaves the other pairing.
    means = np.array([[0.0, 0], [1, 0], [0, 0], [1, 1]])
    result = parallelism_score(means, [0, 1], [2, 3])
    np.testing.assert_array_equal(result.pairing, [3, 2])


def test_generalisation_weighs_held_out_conditions_equally_and_is_scikit_learns():
    generator = np.random.default_rng(1)
    conditions = np.repeat([4, 7, 9, 12, 20], [5, 20, 8, 30, 11])
    x = generator.normal(size=(74, 3)) + np.isin(conditions, [4, 7])[:, None]
    result = ccgp(x, conditions, [7, 4], [12, 9], C=0.5)
    expected = []
    for p in (4, 7):
        for q in (9, 12):
            train = np.isin(conditions, [4, 7, 9, 12]) & (conditions != p) & (conditions != q)
            fit = LogisticRegression(C=0.5, tol=1e-10).fit(x[train], np.isin(conditions[train], [4, 7]))
            right = [(fit.predict(x[conditions == c]) == (c == p)).mean() for c in (p, q)]
            expected.append(np.mean(right))
    np.testing.assert_allclose(result.folds, expected, atol=1e-12)


def test_refusals():
    conditions = np.repeat(np.arange(8), 2)
    x = CUBE[conditions]
    with pytest.raises(ValueError, match="equally many"):
        parallelism_score(CUBE, [0, 1], [2])
    with pytest.raises(ValueError, match="no condition 8"):
        parallelism_score(CUBE, [0, 8], [1, 2])
    with pytest.raises(ValueError, match="twice"):
        parallelism_score(CUBE, [0, 1], [1, 2])
    with pytest.raises(ValueError, match="integers"):
        parallelism_score(CUBE, [0.0, 1.0], [2, 3])
    with pytest.raises(ValueError, match="no condition 9"):
        ccgp(x, conditions, [0, 9], [1, 2])
    with pytest.raises(ValueError, match="at least 2"):
        ccgp(x, conditions, [0], [1])
    with pytest.raises(ValueError, match="C must"):
        ccgp(x, conditions, [0, 1], [2, 3], C=0)
    with pytest.raises(ValueError, match="conditions"):
        ccgp(x, conditions[:4], [0, 1], [2, 3])
