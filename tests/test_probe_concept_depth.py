"""Jump and convergence points against stored curves, by hand, and where chance alone makes curves rise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlsae.probes import depth_metrics, gated_jump

GOLDEN = np.load(Path(__file__).parent / "golden" / "probes" / "depth.npz")
CURVES = [name for name in GOLDEN if not name.endswith("_metrics")]
POINTS = ("jump", "conv_literal", "conv_settle", "conv_peak")


@pytest.mark.parametrize("name", CURVES)
def test_points_of_stored_curves(name):
    points = depth_metrics(GOLDEN[name])
    np.testing.assert_allclose([points[p] for p in POINTS], GOLDEN[f"{name}_metrics"], rtol=0, atol=1e-12)


def test_leading_dimensions_go_through():
    stacked = np.stack([GOLDEN[name] for name in CURVES])
    points = depth_metrics(np.stack([stacked, stacked]))
    expected = np.stack([GOLDEN[f"{name}_metrics"] for name in CURVES])
    for number, point in enumerate(POINTS):
        assert points[point].shape == (2, len(CURVES))
        np.testing.assert_allclose(points[point][1], expected[:, number], atol=1e-12)


def test_a_flat_curve():
    points = depth_metrics([0.5] * 12)
    assert np.isnan(points["jump"])
    assert [float(points[p]) for p in POINTS[1:]] == [11 / 12, 1 / 12, 0.0]


def test_a_single_layer_has_a_peak_only():
    points = depth_metrics([0.7])
    assert points["conv_peak"] == 0
    assert all(np.isnan(points[p]) for p in POINTS[:3])


def test_rising_from_zero_is_a_jump_and_staying_there_is_none():
    assert depth_metrics([0.0, 0.0, 0.5])["jump"] == 2 / 3
    assert np.isnan(depth_metrics([0.0, 0.0])["jump"])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([0.5, 0.51, 0.515, 0.55, 0.6, 0.605, 0.66, 0.97, 1.0]), min_size=1, max_size=9),
    st.floats(1e-6, 1e6),
)
def test_a_constant_factor_changes_nothing_even_at_the_thresholds(curve, factor):
    before, after = depth_metrics(curve), depth_metrics(np.array(curve) * factor)
    for point in POINTS:
        np.testing.assert_array_equal(before[point], after[point])


def test_gated_jump_does_not_take_chance_for_a_rise():
    generator = np.random.default_rng(0)
    correct = generator.random((600, 32, 200)) < 0.5
    plain = depth_metrics(correct.mean(axis=-1))["jump"]
    gated = gated_jump(correct, majority=0.5)
    assert np.isfinite(plain).mean() > 0.97
    assert np.isfinite(gated.jump).mean() <= 0.03
    assert gated.p_rise.shape == (600, 31)
    assert gated.p_majority.shape == (600, 32)


def test_gated_jump_finds_a_step():
    generator = np.random.default_rng(1)
    rates = np.where(np.arange(12) < 5, 0.5, 0.92)[:, None]
    assert gated_jump(generator.random((12, 500)) < rates, majority=0.52).jump == 5 / 12


def test_gated_jump_of_one_layer_is_none():
    assert np.isnan(gated_jump(np.ones((1, 20)), majority=0.5).jump)


def test_refusals():
    with pytest.raises(ValueError, match="row 1"):
        depth_metrics([[0.5, 0.6], [np.nan, 0.5]])
    with pytest.raises(ValueError, match="negative"):
        depth_metrics([0.5, -0.1])
    with pytest.raises(ValueError, match="jump_ratio"):
        depth_metrics([0.5, 0.6], jump_ratio=0)
    with pytest.raises(ValueError, match="tolerance"):
        depth_metrics([0.5, 0.6], tolerance=1.0)
    with pytest.raises(ValueError, match="0 and 1"):
        gated_jump(np.full((3, 5), 0.5), majority=0.5)
    with pytest.raises(ValueError, match="majority"):
        gated_jump(np.ones((3, 5)), majority=1.0)
