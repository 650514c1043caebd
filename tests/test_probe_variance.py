"""Variance explained against stored values, whole predictions, and recodings that must change nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlsae.errors import VlsaeWarning
from vlsae.probes import variance_explained

GOLDEN = np.load(Path(__file__).parent / "golden" / "probes" / "varexp.npz")
N = int(GOLDEN["n_val"])
FEATURES, REPS = GOLDEN["F"], GOLDEN["P"]


def parts(features=FEATURES, reps=REPS):
    return reps[:N], features[:N], reps[N:], features[N:]


def test_stored_values():
    result = variance_explained(*parts())
    for j in range(4):
        assert result.pooled[j] == pytest.approx(float(GOLDEN[f"r2_pooled_{j}"]), abs=1e-10)
        assert result.per_sample[j] == pytest.approx(float(GOLDEN[f"r2_persample_{j}"]), abs=1e-10)
    assert result.joint_pooled == pytest.approx(float(GOLDEN["r2_pooled_joint"]), abs=1e-10)
    assert result.joint_per_sample == pytest.approx(float(GOLDEN["r2_persample_joint"]), abs=1e-10)
    assert result.pooled[3] < 0


def test_recoding_features_and_rotating_units_change_nothing_but_rescaling_a_unit_does():
    result = variance_explained(*parts())
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(24, 24)))[0]
    hot = np.concatenate([FEATURES, 1 - FEATURES], axis=1)
    for other in (
        variance_explained(*parts(features=2.0 * FEATURES - 1)),
        variance_explained(*parts(features=hot)),
        variance_explained(*parts(reps=REPS @ rotation)),
        variance_explained(*parts(reps=1e-3 * REPS + 8)),
    ):
        np.testing.assert_allclose(other.pooled[:4], result.pooled, atol=1e-10)
        np.testing.assert_allclose(other.per_sample[:4], result.per_sample, atol=1e-10)
        assert other.joint_pooled == pytest.approx(result.joint_pooled, abs=1e-10)
        assert other.joint_per_sample == pytest.approx(result.joint_per_sample, abs=1e-10)
    scaled = REPS * np.append(np.ones(23), 20)
    assert abs(variance_explained(*parts(reps=scaled)).pooled[0] - result.pooled[0]) > 1e-3


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(4, 30), st.integers(1, 5), st.integers(1, 4))
def test_whole_predictions_give_the_same(seed, n, d, q):
    generator = np.random.default_rng(seed)
    fit_f, score_f = generator.normal(size=(2, n, q))
    fit, score = fit_f @ generator.normal(size=(q, d)) + generator.normal(size=(2, n, d))
    result = variance_explained(fit, fit_f, score, score_f)
    phi, f = score - fit.mean(0), score_f - fit_f.mean(0)
    for columns, pooled, per_sample in [
        *(([j], result.pooled[j], result.per_sample[j]) for j in range(q)),
        (list(range(q)), result.joint_pooled, result.joint_per_sample),
    ]:
        w = np.linalg.lstsq((fit_f - fit_f.mean(0))[:, columns], fit - fit.mean(0), rcond=None)[0]
        error = ((f[:, columns] @ w - phi) ** 2).sum(axis=1)
        norm = (phi**2).sum(axis=1)
        assert pooled == pytest.approx(1 - error.sum() / norm.sum(), rel=1e-8, abs=1e-8)
        assert per_sample == pytest.approx((1 - error / norm).mean(), rel=1e-6, abs=1e-6)
    own = variance_explained(score, score_f, score, score_f)
    centered = variance_explained(fit, fit_f, score, score_f)
    assert (own.pooled >= -1e-12).all()
    assert np.isfinite(centered.pooled).all()


def test_fitting_on_the_scored_rows_flatters():
    features = np.random.default_rng(1).normal(size=(1200, 4))
    apart = variance_explained(*parts(features=features))
    own = variance_explained(REPS[N:], features[N:], REPS[N:], features[N:])
    assert (own.pooled > apart.pooled).all()


def test_a_constant_feature_explains_exactly_nothing_with_a_warning():
    features = FEATURES.astype(float)
    features[:N, 1] = 0.1
    with pytest.warns(VlsaeWarning, match="column 1"):
        result = variance_explained(*parts(features=features))
    assert result.pooled[1] == 0
    assert result.per_sample[1] == 0
    expected = variance_explained(*parts(features=np.delete(FEATURES, 1, axis=1)))
    assert result.joint_pooled == pytest.approx(expected.joint_pooled, abs=1e-10)


def test_representations_that_do_not_vary_are_nan():
    result = variance_explained(*parts(reps=np.full((1200, 3), 0.5)))
    assert np.isnan(result.pooled).all()
    assert np.isnan(result.joint_per_sample)


def test_refusals():
    fit, fit_f, score, score_f = parts()
    with pytest.raises(ValueError, match="features_fit must have as many rows as reps_fit"):
        variance_explained(fit, fit_f[:-1], score, score_f)
    with pytest.raises(ValueError, match="equal columns"):
        variance_explained(fit, fit_f, score[:, 1:], score_f)
    with pytest.raises(ValueError, match="equal columns"):
        variance_explained(fit, fit_f[:, :2], score, score_f)
    with pytest.raises(ValueError, match="shape"):
        variance_explained(fit, fit_f[:, 0], score, score_f)
    broken = score.copy()
    broken[17, 2] = np.nan
    with pytest.raises(ValueError, match=r"reps_score .* row 17"):
        variance_explained(fit, fit_f, broken, score_f)
