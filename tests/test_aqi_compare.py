"""Two models on the same rows, and an attack on them: golden numbers and what must be exact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vlsae.aqi import effect
from vlsae.aqi.compare import attack_movement, direction_cosine, paired
from vlsae.statistics import jackknife

GOLDEN = Path(__file__).parent / "golden" / "aqi"


@pytest.fixture(scope="module")
def models():
    with np.load(GOLDEN / "compare_paired.npz") as golden:
        return dict(golden)


@pytest.fixture(scope="module")
def attack():
    with np.load(GOLDEN / "jailbreak_did.npz") as golden:
        return dict(golden)


def statistic(x, golden):
    y, axiom = golden["y"], golden["axiom"]
    return lambda rows: effect.stratified(x[rows], y[rows], axiom[rows]).stratified_delta_squared


def test_paired_golden(models):
    found = paired(statistic(models["XA"], models), statistic(models["XB"], models), models["block"])
    assert (found.a.estimate, found.b.estimate) == pytest.approx(
        tuple(float(models[k]) for k in ("delta2_A", "delta2_B")), rel=1e-9
    )
    np.testing.assert_allclose(np.stack([found.a.replicates, found.b.replicates], 1), models["loo"], rtol=1e-9)
    for interval, name in ((found.difference, "diff"), (found.log_ratio, "log_ratio")):
        assert interval.estimate == pytest.approx(float(models[name]), rel=1e-9)
        assert interval.standard_error == pytest.approx(float(models[f"{name}_se"]), rel=1e-9)
        assert (interval.low, interval.high) == pytest.approx(tuple(models[f"{name}_ci"]), rel=1e-9)
    errors = found.a.standard_error, found.b.standard_error
    assert errors == pytest.approx((float(models["se_A"]), float(models["se_B"])), rel=1e-9)
    assert np.hypot(*errors) == pytest.approx(float(models["unpaired_se"]), rel=1e-9)
    assert found.p_value < 0.001
    assert not found.ratio_defined  # model B's interval holds zero


def test_a_model_does_not_differ_from_itself(models):
    same = statistic(models["XA"], models)
    found = paired(same, same, models["block"])
    assert (found.difference.estimate, found.difference.standard_error, found.p_value) == (0, 0, 1)
    assert found.ratio_defined


def test_direction_golden(models):
    found = direction_cosine(models["XA"], models["XC"], models["y"], models["half"])
    assert found == pytest.approx((float(models["cos_raw_AC"]), float(models["cos_debiased_AC"])), rel=1e-9)


def test_direction_of_noise_is_undefined(models):
    with pytest.raises(ValueError, match="same rows and width"):
        direction_cosine(models["XA"], models["XB"], models["y"], models["half"])
    with pytest.raises(ValueError, match="2 halves"):
        direction_cosine(models["XA"], models["XC"], models["y"], models["half"] * 0)
    found = direction_cosine(np.ones((4, 2)), np.ones((4, 2)), [0, 1, 0, 1], [0, 0, 1, 1])
    assert np.isnan(found).all()


def test_movement_golden(attack):
    plain, attacked, y, fold = (attack[name] for name in ("X_plain", "X_attacked", "y", "fold"))
    found = attack_movement(plain, attacked, y, fold)
    expected = [float(attack[name]) for name in ("move_unsafe", "move_safe", "net")]
    assert list(found) == pytest.approx(expected, rel=1e-9)
    interval = jackknife(
        lambda rows: np.array(attack_movement(plain[rows], attacked[rows], y[rows], fold[rows])), attack["block"]
    )
    np.testing.assert_allclose(interval.replicates, attack["loo"], rtol=1e-9)
    np.testing.assert_allclose(interval.standard_error, attack["se"], rtol=1e-9)
    assert (interval.low[2], interval.high[2]) == pytest.approx(tuple(attack["net_ci"]), rel=1e-9)


def test_no_attack_moves_nothing(attack):
    plain, y, fold = attack["X_plain"], attack["y"], attack["fold"]
    assert list(attack_movement(plain, plain, y, fold)) == [0, 0, 0]
    with pytest.raises(ValueError, match="at least 2 folds"):
        attack_movement(plain, plain, y, fold * 0)
    with pytest.raises(ValueError, match="same rows and width"):
        attack_movement(plain, plain[:, 1:], y, fold)
