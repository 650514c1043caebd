"""The ridge path against stored errors and against leaving rows out one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from vlsae.probes import ridge_path

GOLDEN = np.load(Path(__file__).parent / "golden" / "probes" / "fits.npz")


def test_stored_errors():
    result = ridge_path(GOLDEN["X"], 2 * GOLDEN["Y"] - 1, GOLDEN["lambdas"])
    np.testing.assert_allclose(result.loo, GOLDEN["ridge_loo"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(result.gcv, GOLDEN["ridge_gcv"], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(result.best, GOLDEN["ridge_alpha_loo"])
    np.testing.assert_array_equal(result.best, GOLDEN["ridge_alpha_sklearn"])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 14), st.integers(1, 20))
def test_leaving_rows_out_gives_the_same(seed, n, d):
    generator = np.random.default_rng(seed)
    x, y = generator.normal(size=(n, d)) * 3 + 10, generator.normal(size=(n, 2)) - 4
    penalties = [0.3, 8.0]
    result = ridge_path(x, y, penalties)
    for number, penalty in enumerate(penalties):
        errors = []
        for row in range(n):
            kept = np.arange(n) != row
            model = Ridge(alpha=penalty, solver="svd").fit(x[kept], y[kept])
            errors.append((model.predict(x[row : row + 1])[0] - y[row]) ** 2)
        np.testing.assert_allclose(result.loo[number], np.mean(errors, axis=0), rtol=1e-8)
    for target, penalty in enumerate(result.best):
        assert penalty == penalties[int(result.loo[:, target].argmin())]
        model = Ridge(alpha=penalty, solver="svd").fit(x, y[:, target])
        np.testing.assert_allclose(result.coefficients[target], np.append(model.coef_, model.intercept_), atol=1e-8)


def test_no_penalty_is_least_squares_where_that_is_defined():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(20, 4)), generator.normal(size=(20, 1))
    # A repeated column adds no parameter.
    single, repeated = ridge_path(x, y, [0.0]), ridge_path(np.column_stack([x, x[:, 0]]), y, [0.0])
    np.testing.assert_allclose(single.loo, repeated.loo, rtol=1e-9)
    wide = ridge_path(generator.normal(size=(6, 30)), y[:6], [0.0, 1.0])
    assert np.isnan(wide.loo[0]).all()
    assert np.isnan(wide.gcv[0]).all()
    assert wide.best[0] == 1.0


def test_nothing_defined_is_nan():
    result = ridge_path(np.random.default_rng(1).normal(size=(5, 9)), np.ones((5, 2)), [0.0])
    assert np.isnan(result.best).all()
    assert np.isnan(result.coefficients).all()
    one = ridge_path([[1.0]], [[2.0]], [1.0])
    assert np.isnan(one.loo).all()


def test_columns_that_say_nothing_leave_the_mean():
    y = np.arange(5.0)[:, None]
    result = ridge_path(np.full((5, 2), 0.1), y, [1.0])
    np.testing.assert_allclose(result.loo[0, 0], (((y - y.mean()) * 5 / 4) ** 2).mean())
    np.testing.assert_allclose(result.coefficients, [[0, 0, 2]])


def test_refusals():
    x, y = np.ones((4, 2)), np.ones((4, 1))
    with pytest.raises(ValueError, match="penalties"):
        ridge_path(x, y, [-1.0])
    with pytest.raises(ValueError, match="penalties"):
        ridge_path(x, y, 1.0)
    with pytest.raises(ValueError, match="as many rows"):
        ridge_path(x, y[:3], [1.0])
    with pytest.raises(ValueError, match=r"shape \(n, T\)"):
        ridge_path(x, y[:, 0], [1.0])
    with pytest.raises(ValueError, match="y holds values that are not finite in row 2"):
        ridge_path(x, np.where(np.arange(4)[:, None] == 2, np.inf, y), [1.0])
