"""Class moments in one pass: golden numbers, merging, regrouping, and what does not fit."""

from __future__ import annotations

import itertools
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlsae.aqi import effect, indices
from vlsae.aqi.accumulators import ClassMoments

GOLDEN = Path(__file__).parent / "golden" / "aqi"


def draw(seed, n=40, width=6, classes=3):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n, width)), generator.integers(0, classes, n)


def merged(parts):
    whole = ClassMoments(parts[0].n_classes, parts[0].width)
    for part in parts:
        whole.merge(part)
    return whole


@pytest.mark.parametrize("case", ["offset", "plain"])
def test_any_order_of_shards_is_the_reference(case):
    with np.load(GOLDEN / f"streaming_{case}.npz") as golden:
        golden = dict(golden)
    x, y, cuts = golden["X"], golden["y"], golden["cuts"]
    shards = [ClassMoments(2, 20).update(x[a:b], y[a:b]) for a, b in itertools.pairwise(cuts)]
    rows = [ClassMoments(2, 20).update(x[k : k + 1], y[k : k + 1]) for k in range(len(x))]
    orders = [np.random.default_rng(seed).permutation(6) for seed in range(50)]
    tries = [merged([shards[k] for k in order]) for order in orders]
    tries += [
        merged([merged([shards[k] for k in order[:cut]]), *[shards[k] for k in order[cut:]]])
        for order, cut in zip(orders[:10], [1, 2, 3, 4, 5] * 2)
    ]
    tries += [merged(rows), ClassMoments(2, 20).update(x, y)]
    scale = np.sqrt((x**2).mean())
    for moments in tries:
        assert moments.count.tolist() == [golden["n0"], golden["n1"]]
        for k in (0, 1):
            np.testing.assert_allclose(moments.m2[k], golden[f"M2_{k}"], rtol=1e-12)
            assert moments.m2[k].sum() == pytest.approx(float(golden[f"M2sum_{k}"]), rel=1e-12)
            assert np.abs(moments.mean[k] - golden[f"mean{k}"]).max() / scale < 1e-12
        found = moments.indices()
        for name in ("chi", "xbi"):
            assert found[name] == pytest.approx(float(golden[name]), rel=1e-10)
        assert found["delta2"][0, 1] == pytest.approx(float(golden["delta2"]), rel=1e-10)
        assert moments.scatter().within == pytest.approx(float(golden["ssw"]), rel=1e-12)


@given(st.integers(0, 10**6), st.lists(st.integers(0, 40), max_size=6), st.sampled_from([0.0, 1e6]))
@settings(max_examples=40, deadline=None)
def test_merging_any_split_is_one_pass(seed, cuts, offset):
    x, y = draw(seed)
    x = x + offset
    borders = [0, *sorted(cuts), 40]
    parts = [ClassMoments(3, 6).update(x[a:b], y[a:b]) for a, b in itertools.pairwise(borders)]
    one, many = ClassMoments(3, 6).update(x, y), merged(parts[::-1])
    assert many.count.tolist() == one.count.tolist()
    np.testing.assert_allclose(many.mean, one.mean, rtol=1e-12, atol=1e-12)
    # Rows at 1e6 are themselves rounded to 1e-10.
    np.testing.assert_allclose(many.m2, one.m2, rtol=1e-10, atol=1e-12)
    whole = ClassMoments(3, 6)
    for a, b in itertools.pairwise(borders):
        whole.update(x[a:b], y[a:b])
    np.testing.assert_allclose(whole.m2, one.m2, rtol=1e-10, atol=1e-12)


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_indices_are_those_of_the_rows(seed):
    x, y = draw(seed)
    y[:3] = [0, 1, 2]
    found = ClassMoments(3, 6).update(x, y).indices()
    assert found["chi"] == pytest.approx(indices.calinski_harabasz(x, y), rel=1e-10)
    assert found["xbi"] == pytest.approx(indices.xie_beni(x, y), rel=1e-10)
    assert found["dbs_rms"] == pytest.approx(indices.davies_bouldin(x, y, dispersion="rms"), rel=1e-10)
    assert found["eta2"] == pytest.approx(effect.eta_squared(x, y), rel=1e-10)
    assert found["omega2"] == pytest.approx(effect.omega_squared(x, y), rel=1e-10)
    np.testing.assert_allclose(found["delta2"], effect.delta_squared_pairs(x, y), rtol=1e-10)


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_regrouping_cells_is_counting_the_rows_anew(seed):
    x, y = draw(seed, classes=8)
    groups = np.random.default_rng(seed).integers(-1, 3, 8)
    found = ClassMoments(8, 6).update(x, y).regroup(groups, 3)
    kept = groups[y] >= 0
    expected = ClassMoments(3, 6).update(x[kept], groups[y][kept])
    assert found.count.tolist() == expected.count.tolist()
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.m2, expected.m2, rtol=1e-12, atol=1e-12)


def test_classes_without_rows_take_no_part():
    x, y = draw(0, classes=2)
    found = ClassMoments(4, 6).update(x, y * 2 + 1).indices()
    assert found["chi"] == indices.calinski_harabasz(x, y)
    assert np.isfinite(found["delta2"]).sum() == 2
    assert found["delta2"][1, 3] == pytest.approx(effect.delta_squared(x, y), rel=1e-12)
    assert ClassMoments(4, 6).update(x, y * 2 + 1).mean[0].tolist() == [0] * 6


def test_nothing_seen_is_undefined():
    found = ClassMoments(2, 3).update(np.zeros((0, 3)), np.zeros(0, dtype=int)).indices()
    assert np.isnan([found[name] for name in ("chi", "xbi", "dbs_rms", "eta2", "omega2")]).all()
    assert found["delta2"].shape == (2, 2)
    assert ClassMoments(2, 3).merge(ClassMoments(2, 3)).count.tolist() == [0, 0]
    assert ClassMoments(2, 3).regroup([0, 0], 1).count.tolist() == [0]


def test_state_makes_the_round_trip_through_a_file(tmp_path):
    x, y = draw(0)
    moments = ClassMoments(3, 6).update(x, y)
    np.savez(tmp_path / "state.npz", **moments.arrays())
    with np.load(tmp_path / "state.npz") as stored:
        back = ClassMoments.from_arrays(stored)
    for name, value in moments.arrays().items():
        assert np.array_equal(back.arrays()[name], value)
    assert np.array_equal(back.update(x, y).m2, moments.update(x, y).m2)
    assert ClassMoments.from_arrays(ClassMoments(2, 3).arrays()).shift is None
    with pytest.raises(ValueError, match="lacks m2, shift"):
        ClassMoments.from_arrays({"count": moments.count, "shifted_mean": moments.mean})
    with pytest.raises(ValueError, match=r"does not fit: count \(2,\)"):
        ClassMoments.from_arrays({**moments.arrays(), "count": moments.count[:2]})


def test_memory_does_not_grow_with_rows():
    layers, cells, width = 9, 14, 512

    def peak(n):
        moments = [ClassMoments(cells, width) for _ in range(layers)]
        generator, labels = np.random.default_rng(0), np.arange(16) % cells
        tracemalloc.start()
        try:
            for _ in range(n // 16):
                x = generator.normal(size=(16, width))
                for layer in moments:
                    layer.update(x, labels)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small, large = peak(320), peak(3200)
    assert large < small * 1.05
    # The state itself was there before counting began.
    assert large < 2 * layers * cells * 2 * width * 8 + 16 * width * 8


def test_one_coordinate_that_owns_the_scatter_is_named_and_scaled_away():
    x, y = draw(1, n=400, classes=2)
    x[:, 2] *= 1000
    x[:, 0] += y
    moments = ClassMoments(2, 6).update(x, y)
    assert moments.top_share() > 0.99
    scaled, dropped = moments.within_scaled()
    assert dropped == 0
    deviation = np.sqrt(moments.m2.sum(axis=0) / 398)
    assert scaled.indices()["delta2"][0, 1] == pytest.approx(effect.delta_squared(x / deviation, y), rel=1e-10)
    assert scaled.top_share() == pytest.approx(1 / 6, rel=1e-10)
    x[:, 4] = 7.1
    scaled, dropped = ClassMoments(2, 6).update(x, y).within_scaled()
    assert (dropped, scaled.width) == (1, 5)
    scaled, dropped = ClassMoments(2, 6).update(np.ones((4, 6)), [0, 0, 1, 1]).within_scaled()
    assert (dropped, scaled.scatter().status) == (6, "constant")


def test_wrong_input_is_named_and_adds_nothing():
    moments = ClassMoments(2, 3)
    with pytest.raises(ValueError, match=r"x has shape \(2, 4\); \(n, 3\)"):
        moments.update(np.ones((2, 4)), [0, 1])
    with pytest.raises(ValueError, match="labels must lie in 0…1; got 2 in row 1"):
        moments.update(np.ones((2, 3)), [0, 2])
    with pytest.raises(ValueError, match="not finite in x, row 1"):
        moments.update(np.array([[1.0, 1, 1], [1, np.nan, 1]]), [0, 1])
    with pytest.raises(ValueError, match="labels has shape"):
        moments.update(np.ones((2, 3)), [0])
    with pytest.raises(ValueError, match="width 4 do not fit"):
        moments.merge(ClassMoments(2, 4))
    with pytest.raises(ValueError, match="groups must lie in"):
        moments.regroup([0, 3], 2)
    with pytest.raises(ValueError, match="n_classes must be at least 1"):
        ClassMoments(0, 3)
    assert moments.count.tolist() == [0, 0]
    assert moments.shift is None
