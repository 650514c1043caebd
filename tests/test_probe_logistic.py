"""Batched logistic regression against stored coefficients and scikit-learn, one fit at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from vlsae.errors import VlsaeWarning
from vlsae.probes import fit_logistic, logistic, quasi_newton

GOLDEN = np.load(Path(__file__).parent / "golden" / "probes" / "fits.npz")


def test_stored_coefficients_and_probabilities():
    x, y, folds, C = GOLDEN["X"], GOLDEN["Y"], GOLDEN["fold"], float(GOLDEN["logreg_C"])
    result = fit_logistic(x, y, folds, C)
    np.testing.assert_allclose(result.coefficients, GOLDEN["logreg_coef"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(result.probabilities, GOLDEN["logreg_oof_proba"], rtol=0, atol=1e-6)
    tensors = fit_logistic(torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(folds), C)
    np.testing.assert_array_equal(tensors.coefficients, result.coefficients)


def looped(x, y, folds, C, weights=None):
    """scikit-learn, a fold and a target at a time; L-BFGS to the end and with much memory."""
    rows = []
    for fold in np.unique(folds):
        for target in range(y.shape[1]):
            kept = folds != fold
            own = np.ones(len(x)) if weights is None else weights[:, target]
            kept &= own > 0
            model = LogisticRegression(C=C, tol=1e-11, max_iter=5000).fit(
                x[kept], y[kept, target], sample_weight=own[kept]
            )
            rows.append(np.append(model.coef_[0], model.intercept_))
    return np.array(rows).reshape(len(np.unique(folds)), y.shape[1], -1)


def both_classes(y, folds, weights):
    return all(
        {0, 1} == set(y[(folds != fold) & (weights[:, t] > 0), t])
        for fold in np.unique(folds)
        for t in range(y.shape[1])
    )


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(12, 40),
    st.integers(1, 50),
    st.integers(1, 3),
    st.sampled_from([0.01, 1, 30]),
)
def test_scikit_learn_finds_the_same(seed, n, d, n_targets, C):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, d)) * generator.choice([0.3, 1, 3], d) + 5
    y = generator.integers(0, 2, (n, n_targets))
    folds = generator.choice([-2, 3, 7], n)
    folds[:2] = -2, 3
    weights = generator.choice([0.0, 1.0, 2.5], (n, n_targets))
    if not both_classes(y, folds, weights):
        with pytest.raises(ValueError, match="one class only"):
            fit_logistic(x, y, folds, C, weights)
        return
    result = fit_logistic(x, y, folds, C, weights)
    # The objective decides, where scikit-learn stops early.
    ours, theirs = result.coefficients, looped(x, y, folds, C, weights)
    for number, fold in enumerate(np.unique(folds)):
        for target in range(n_targets):
            own = weights[:, target] * (folds != fold)
            assert objective(ours[number, target], x, y[:, target], own, C) <= (
                objective(theirs[number, target], x, y[:, target], own, C) + 1e-9
            )
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-3 * max(1, np.abs(theirs).max()))


def objective(coefficients, x, y, weights, C):
    scores = x @ coefficients[:-1] + coefficients[-1]
    return (weights * (np.logaddexp(0, scores) - y * scores)).sum() + (coefficients[:-1] ** 2).sum() / (2 * C)


def gradient(coefficients, x, y, C):
    residual = expit(x @ coefficients[:-1] + coefficients[-1]) - y
    return np.append(x.T @ residual + coefficients[:-1] / C, residual.sum())


@pytest.mark.parametrize("C", [1e-4, 1.0, 1e4, 1e8])
@pytest.mark.parametrize("kind", ["noisy", "separable", "wide", "scaled", "repeated"])
def test_the_gradient_is_zero_at_hard_problems_too(kind, C):
    generator = np.random.default_rng(3)
    x = generator.normal(size=(30, 90) if kind == "wide" else (120, 4))
    x = x * [1e-3, 1, 10, 1e3] + 50 if kind == "scaled" else x
    x = np.repeat(x, 2, axis=1) if kind == "repeated" else x
    scores = x[:, 1] - x[:, 1].mean()
    y = (scores > 0 if kind == "separable" else scores + 2 * generator.normal(size=len(x)) > 0)[:, None].astype(int)
    folds = np.arange(len(x)) % 3
    result = fit_logistic(x, y, folds, C)
    for fold in range(3):
        kept = folds != fold
        slope = gradient(result.coefficients[fold, 0], x[kept], y[kept, 0], C)
        assert np.abs(slope).max() < 1e-7 * np.abs(x).max() * kept.sum()


def test_rows_without_weight_have_probabilities_and_no_say():
    x, y, folds = GOLDEN["X"], GOLDEN["Y"].astype(float), GOLDEN["fold"]
    weights = (np.random.default_rng(0).random(y.shape) < 0.7).astype(float)
    hidden = np.where(weights > 0, y, np.nan)
    result = fit_logistic(x, hidden, folds, 0.5, weights)
    other = fit_logistic(x, np.where(weights > 0, y, 1 - y), folds, 0.5, weights)
    np.testing.assert_array_equal(result.probabilities, other.probabilities)
    assert np.isfinite(result.probabilities).all()


def test_a_whole_number_of_weight_is_as_many_rows():
    x, y, folds = GOLDEN["X"], GOLDEN["Y"], GOLDEN["fold"]
    often = np.random.default_rng(1).integers(0, 4, len(x))
    weighted = fit_logistic(x, y, folds, 0.5, np.repeat(often[:, None], 3, axis=1))
    rows = np.repeat(np.arange(len(x)), often)
    np.testing.assert_allclose(
        weighted.coefficients, fit_logistic(x[rows], y[rows], folds[rows], 0.5).coefficients, atol=1e-8
    )


def test_problems_in_blocks_are_the_same(monkeypatch):
    x, y, folds = GOLDEN["X"], GOLDEN["Y"], GOLDEN["fold"]
    whole = fit_logistic(x, y, folds).coefficients
    monkeypatch.setattr(logistic, "AT_ONCE", 8 * len(x) * 5)
    np.testing.assert_allclose(fit_logistic(x, y, folds).coefficients, whole, atol=1e-8)


def test_columns_that_say_nothing_leave_the_rate_of_the_training_rows():
    y = np.array([1, 1, 0, 1, 0, 0, 1, 1])[:, None]
    result = fit_logistic(np.zeros((8, 3)), y, np.repeat([0, 1], 4))
    np.testing.assert_allclose(result.probabilities[:4], 0.5, atol=1e-10)
    np.testing.assert_allclose(result.probabilities[4:], 0.75, atol=1e-10)
    np.testing.assert_array_equal(result.coefficients[..., :3], 0)


def test_labels_that_carry_nothing_give_nothing():
    generator = np.random.default_rng(2)
    x, y = generator.normal(size=(400, 30)), generator.integers(0, 2, (400, 40))
    right = (fit_logistic(x, y, np.arange(400) % 5).probabilities > 0.5) == y
    assert right.mean() == pytest.approx(0.5, abs=0.015)


def test_what_has_not_converged_is_said(monkeypatch):
    monkeypatch.setattr(quasi_newton, "STEPS", 2)
    with pytest.warns(VlsaeWarning, match="12 of 12"):
        fit_logistic(GOLDEN["X"], GOLDEN["Y"], GOLDEN["fold"])


def test_refusals():
    x, y, folds = GOLDEN["X"][:12], GOLDEN["Y"][:12].copy(), np.arange(12) % 3
    with pytest.raises(ValueError, match="2 folds"):
        fit_logistic(x, y, np.zeros(12, int))
    with pytest.raises(ValueError, match="as many rows"):
        fit_logistic(x, y[:9], folds)
    with pytest.raises(ValueError, match="shape"):
        fit_logistic(x, y[:, 0], folds)
    with pytest.raises(ValueError, match="C must"):
        fit_logistic(x, y, folds, C=-1)
    with pytest.raises(ValueError, match="weights"):
        fit_logistic(x, y, folds, weights=-np.ones((12, 3)))
    with pytest.raises(ValueError, match="neither in row 4"):
        fit_logistic(x, np.where(np.arange(12)[:, None] == 4, 2, y), folds)
    with pytest.raises(ValueError, match="neither in row 5"):
        fit_logistic(x, np.where(np.arange(12)[:, None] == 5, np.nan, y), folds)
    y[:, 1] = 1
    with pytest.raises(ValueError, match="target 1 has one class only"):
        fit_logistic(x, y, folds)
    split = (folds == 2).astype(int)[:, None]
    with pytest.raises(ValueError, match="target 0 has one class only outside fold 2"):
        fit_logistic(x, split, folds)
