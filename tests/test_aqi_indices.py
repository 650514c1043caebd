"""Cluster indices against golden numbers and by their properties, degenerate classes included."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlsae.aqi import effect, indices

GOLDEN = Path(__file__).parent / "golden" / "aqi"
CASES = sorted(path.stem for path in GOLDEN.glob("indices_*.npz"))

INDICES = {
    "chi": indices.calinski_harabasz,
    "xbi": indices.xie_beni,
    "dbs": indices.davies_bouldin,
    "dbs_rms": lambda x, y: indices.davies_bouldin(x, y, dispersion="rms"),
    "dunn": indices.dunn,
    "dunn_mean": lambda x, y: indices.dunn(x, y, diameter="mean"),
    "silhouette": indices.silhouette,
    "eta2": effect.eta_squared,
    "epsilon2": effect.epsilon_squared,
    "omega2": effect.omega_squared,
    "delta2": effect.delta_squared_pairs,
}


def draw(seed: int, sizes=(7, 9), width=5, apart=1.0):
    """Return rows of classes whose means lie apart, and their labels, in random order."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat(np.arange(len(sizes)), sizes))
    means = generator.normal(size=(len(sizes), width)) * apart
    return generator.normal(size=(len(labels), width)) + means[labels], labels


@pytest.mark.parametrize("case", CASES)
def test_golden(case):
    with np.load(GOLDEN / f"{case}.npz") as golden:
        x, y = golden["X"], golden["y"]
        relative = 1e-6 if case == "indices_k2_big_offset" else 1e-9
        for name, index in INDICES.items():
            absolute = 1e-6 if name == "silhouette" else 1e-12
            np.testing.assert_allclose(index(x, y), golden[name], rtol=relative, atol=absolute, err_msg=name)
        if len(np.unique(y)) < 3:
            pooled = effect.delta_squared(x, y, variance="pooled")
            np.testing.assert_allclose(pooled, golden["delta2_msw"], rtol=relative, atol=1e-12)
        assert indices.status(x, y) == str(golden["status"])


def test_four_points_by_hand():
    x, y = [[0, 0], [0, 2], [4, 0], [4, 2]], [0, 0, 1, 1]
    expected = {"chi": 8, "xbi": 1 / 16, "dbs": 0.5, "dbs_rms": 0.5, "dunn": 2, "dunn_mean": 2, "eta2": 0.8}
    assert {name: INDICES[name](x, y) for name in expected} == pytest.approx(expected, abs=1e-12)
    assert indices.silhouette(x, y) == pytest.approx(0.527864, abs=1e-6)
    assert effect.omega_squared(x, y) == pytest.approx(14 / 22)
    assert effect.delta_squared(x, y) == effect.delta_squared(x, y, variance="pooled") == pytest.approx(7)


@given(st.integers(0, 10**6), st.sampled_from([(2, 2), (7, 9), (3, 5, 4), (1, 6), (2, 1, 3, 4)]))
@settings(max_examples=25, deadline=None)
def test_indices_do_not_depend_on_axes_origin_scale_or_order(seed, sizes):
    x, y = draw(seed, sizes)
    generator = np.random.default_rng(seed)
    rotation = np.linalg.qr(generator.normal(size=(5, 5)))[0]
    order = generator.permutation(len(x))
    renamed = generator.permutation(len(sizes))[y] * 3 - 1
    for name, index in INDICES.items():
        expected = index(x, y)
        moved = index((x @ rotation + generator.normal(size=5))[order], y[order])
        np.testing.assert_allclose(moved, expected, rtol=1e-9, atol=1e-10, err_msg=name)
        np.testing.assert_allclose(index(x * 1e-10, y), expected, rtol=1e-9, atol=1e-10, err_msg=name)
        if name != "delta2":
            np.testing.assert_allclose(index(x, renamed), expected, rtol=1e-9, atol=1e-10, err_msg=name)
        np.testing.assert_allclose(index(x + 1e5, y), expected, rtol=1e-6, atol=1e-8, err_msg=name)


@given(st.integers(0, 10**6), st.integers(2, 30), st.integers(2, 30))
@settings(max_examples=30, deadline=None)
def test_two_classes_have_one_statistic_in_two_coats(seed, first, second):
    x, y = draw(seed, (first, second))
    n = first + second
    chi, xbi, eta2 = indices.calinski_harabasz(x, y), indices.xie_beni(x, y), effect.eta_squared(x, y)
    assert chi * xbi == pytest.approx((n - 2) * first * second / n**2, rel=1e-10)
    assert eta2 == pytest.approx(chi / (chi + n - 2), rel=1e-10)
    pooled = effect.delta_squared(x, y, variance="pooled")
    assert pooled == pytest.approx((chi - 1) * n / (first * second), rel=1e-9, abs=1e-12)
    assert effect.omega_squared(x, y) == pytest.approx((chi - 1) / (chi + n - 1), rel=1e-9, abs=1e-12)
    assert indices.davies_bouldin(x, y, dispersion="rms") >= indices.davies_bouldin(x, y) * (1 - 1e-12)


def test_three_equal_classes_tie_the_same_two_by_the_distances():
    with np.load(GOLDEN / "indices_k3_noise.npz") as golden:
        x, y = golden["X"], golden["y"]
    assert indices.calinski_harabasz(x, y) * indices.xie_beni(x, y) == pytest.approx(24.498332556, rel=1e-9)


@pytest.mark.parametrize("sizes", [(12, 20), (5, 1, 9)])
def test_other_implementation_agrees(sizes):
    from sklearn import metrics

    x, y = draw(3, sizes)
    assert indices.calinski_harabasz(x, y) == pytest.approx(metrics.calinski_harabasz_score(x, y), rel=1e-9)
    assert indices.davies_bouldin(x, y) == pytest.approx(metrics.davies_bouldin_score(x, y), rel=1e-9)
    assert indices.silhouette(x, y) == pytest.approx(metrics.silhouette_score(x, y), abs=1e-9)


@pytest.mark.parametrize("tile", [1, 3, 64, 10_000])
def test_tiles_do_not_change_a_value(tile):
    x, y = draw(5, (40, 30, 1), width=8)
    x[3] = x[50]
    for diameter in ("complete", "mean"):
        expected = indices.dunn(x, y, diameter)
        assert indices.dunn(x, y, diameter, tile=tile) == pytest.approx(expected, rel=1e-12, abs=0)
    assert indices.silhouette(x, y, tile=tile) == pytest.approx(indices.silhouette(x, y), rel=1e-12)


def test_tight_classes_far_apart_keep_their_digits():
    x, y = draw(1, (20, 25), apart=0)
    shifted = x * 1e-6 + y[:, None]
    apart = np.linalg.norm(shifted[y == 0][:, None] - shifted[y == 1], axis=-1)
    diameters = [np.linalg.norm((x[y == k][:, None] - x[y == k]) * 1e-6, axis=-1).max() for k in (0, 1)]
    assert indices.dunn(shifted, y) == pytest.approx(apart.min() / max(diameters), rel=1e-8)


def test_memory_stays_below_that_of_all_pairs():
    x, y = np.random.default_rng(0).normal(size=(5000, 64)), np.arange(5000) % 2
    tracemalloc.start()
    try:
        for call, limit in (
            (lambda: indices.dunn(x, y, tile=256), 2e6),
            (lambda: indices.calinski_harabasz(x, y), 1e6),
        ):
            tracemalloc.reset_peak()
            call()
            assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def test_a_row_of_both_classes_closes_the_gap():
    x, y = draw(0, (10, 12))
    x[np.flatnonzero(y == 1)[0]] = x[np.flatnonzero(y == 0)[0]]
    assert indices.dunn(x, y) == 0
    assert indices.status(x, y) == "ok"


ONES, APART = np.full((4, 3), 0.1), np.repeat([[0.1, 0.7], [0.3, 0.2]], 3, axis=0)


@pytest.mark.parametrize(
    ("x", "y", "status", "chi", "xbi", "dbs", "dunn"),
    [
        (ONES, [0, 0, 1, 1], "constant", np.nan, np.nan, np.nan, np.nan),
        (ONES, [0, 1, 2, 3], "constant+no_within_df+singleton_class", np.nan, np.nan, np.nan, np.nan),
        (ONES, [5, 5, 5, 5], "one_class+constant", np.nan, np.nan, np.nan, np.nan),
        ([[1.0]], [0], "one_class+constant+no_within_df+singleton_class", np.nan, np.nan, np.nan, np.nan),
        (APART, [0, 0, 0, 1, 1, 1], "zero_within", np.inf, 0, 0, np.inf),
        (APART + np.array([1e-17, 0]), [0, 0, 0, 1, 1, 1], "zero_within", np.inf, 0, 0, np.inf),
        ([[0.0], [2], [5], [0], [2], [5]], [0, 0, 0, 1, 1, 1], "zero_between", 0, np.inf, np.inf, 0),
        ([[1.0], [2], [5]], [0, 1, 2], "zero_within+no_within_df+singleton_class", np.nan, 0, 0, np.inf),
        (
            [[1.0], [1], [5], [5], [1], [1]],
            [0, 0, 1, 1, 2, 2],
            "zero_within+coincident_centroids",
            np.inf,
            np.nan,
            np.nan,
            np.nan,
        ),
    ],
)
def test_degenerate_classes(x, y, status, chi, xbi, dbs, dunn):
    assert indices.status(x, y) == status
    values = [INDICES[name](x, y) for name in ("chi", "xbi", "dbs", "dunn")]
    np.testing.assert_array_equal(values, [chi, xbi, dbs, dunn])
    np.testing.assert_array_equal(INDICES["dbs_rms"](x, y), dbs)


def test_offset_of_equal_rows_is_not_taken_for_spread():
    x = np.random.default_rng(0).normal(size=7) * 1e7 + np.zeros((31, 1))
    assert indices.status(x, np.arange(31) % 2) == "constant"


@pytest.mark.parametrize("scale", [1e-250, 1e250])
def test_squares_out_of_range_are_scaled(scale):
    x, y = draw(2)
    for name, index in INDICES.items():
        np.testing.assert_allclose(index(x * scale, y), index(x, y), rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("kind", [np.float32, np.int64])
def test_other_number_types_compute_in_float64(kind):
    x, y = draw(4)
    x = np.round(x * 8).astype(kind)
    expected = indices.calinski_harabasz(x.astype(np.float64), y)
    assert indices.calinski_harabasz(x, y) == expected
    assert indices.calinski_harabasz(torch.tensor(x), torch.tensor(y)) == expected


def test_tensors_with_gradient_and_of_half_width_are_read():
    x, y = draw(4)
    assert indices.dunn(torch.tensor(x, requires_grad=True), torch.tensor(y)) == indices.dunn(x, y)
    assert np.isfinite(indices.dunn(torch.tensor(x).bfloat16(), y))


@pytest.mark.parametrize("index", [*INDICES.values(), indices.status], ids=[*INDICES, "status"])
def test_wrong_input_is_named(index):
    x, y = draw(0)
    with pytest.raises(ValueError, match=r"x has shape \(16,\)"):
        index(x[:, 0], y)
    with pytest.raises(ValueError, match=r"x has shape \(0, 5\)"):
        index(x[:0], y[:0])
    with pytest.raises(ValueError, match=r"labels has shape \(15,\).*16 rows"):
        index(x, y[1:])
    with pytest.raises(ValueError, match="labels must be integers; got float64"):
        index(x, y.astype(float))
    with pytest.raises(ValueError, match="x must hold real numbers; got complex128"):
        index(x + 0j, y)
    x[4, 1], x[11, 0] = np.nan, np.inf
    with pytest.raises(ValueError, match=r"AQI-D12: values that are not finite in x, rows 4, 11\."):
        index(x, y)


def test_unknown_options_are_named():
    x, y = draw(0)
    with pytest.raises(ValueError, match="dispersion 'median'"):
        indices.davies_bouldin(x, y, dispersion="median")
    with pytest.raises(ValueError, match="diameter 'max'"):
        indices.dunn(x, y, diameter="max")
    with pytest.raises(ValueError, match="tile"):
        indices.silhouette(x, y, tile=0)
