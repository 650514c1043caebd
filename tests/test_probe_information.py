"""Binned information and kernel bounds against stored values, exact laws and bounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlsae.probes import distances, information, mi_binned, mi_kde

FOLDER = Path(__file__).parent / "golden" / "probes"
FILES = {name: np.load(FOLDER / f"mi_{name}.npz") for name in ("tanh_width3", "relu_width4")}
TASK = np.load(FOLDER / "ib_task.npz")
LABELS = np.unpackbits(TASK["labels_packed"]).astype(np.int64)


@pytest.fixture(params=FILES)
def stored(request):
    return FILES[request.param]


def options(stored, code):
    if code == "range100":
        return {"code": "range", "n_bins": 100, "low": stored["range100_lo"], "high": stored["range100_hi"]}
    return {"edges30": {}, "floor007": {"code": "floor"}}[code]


@pytest.mark.parametrize("code", ["edges30", "floor007", "range100"])
def test_stored_binned_information(stored, code):
    result = mi_binned(stored["T"], stored["y"], **options(stored, code))
    assert result.h_t == pytest.approx(float(stored[f"{code}_HT"]), abs=1e-9)
    assert result.i_ty == pytest.approx(float(stored[f"{code}_ITY"]), abs=1e-9)


def test_stored_miller_madow(stored):
    result = mi_binned(stored["T"], stored["y"], bias="miller_madow")
    assert result.h_t == pytest.approx(float(stored["edges30_HT_millermadow"]), abs=1e-9)
    assert result.i_ty == pytest.approx(float(stored["edges30_ITY_millermadow"]), abs=1e-9)


def test_stored_kernel_bounds(stored, monkeypatch):
    monkeypatch.setattr(distances, "TILE", 100_000)
    rows = stored["kde_idx"]
    t, y = stored["T"][rows], stored["y"][rows]
    result = mi_kde(t, y, float(stored["kde_var"]))
    for name, value in zip(("upper_IXT", "lower_IXT", "upper_ITY", "lower_ITY"), result):
        assert value == pytest.approx(float(stored[f"kde_{name}"]), abs=1e-6)
    wide = mi_kde(t, y, 0.1)
    assert wide.i_xt_upper == pytest.approx(float(stored["kde01_upper_IXT"]), abs=1e-6)
    assert wide.i_xt_lower == pytest.approx(float(stored["kde01_lower_IXT"]), abs=1e-6)


def test_edges_are_those_of_float32():
    values = np.array([[-1.0], [-1.0001], [0.99], [1.0], [7.0]])
    np.testing.assert_array_equal(information._codes(values, "edges", 30, -1, 1, 0.07)[:, 0], [1, 0, 29, 30, 30])


def test_values_beyond_the_range_fall_into_the_outer_cells():
    codes = information._codes(np.array([[-9.0], [0.0], [0.5], [1.0], [9.0]]), "range", 4, 0.0, 1.0, 0.07)[:, 0]
    np.testing.assert_array_equal(codes, [0, 0, 2, 3, 3])


def test_all_different_is_the_input_itself():
    inputs = np.unpackbits(np.arange(4096, dtype=">u2").view(np.uint8).reshape(-1, 2), axis=1)[:, 4:]
    result = mi_binned(inputs * 2.0 - 1, LABELS)
    share = LABELS.mean()
    assert result.h_t == pytest.approx(12, abs=1e-12)
    assert result.i_ty == pytest.approx(-share * np.log2(share) - (1 - share) * np.log2(1 - share), abs=1e-12)
    assert result.n_symbols == 4096
    assert result.singletons == 1.0


@pytest.mark.parametrize("code", ["edges", "floor", "range"])
def test_a_constant_layer_knows_nothing(code):
    result = mi_binned(np.full((40, 3), 0.3), np.arange(40) % 2, code=code)
    assert result.h_t == 0
    assert result.i_ty == pytest.approx(0, abs=1e-12)
    constant_range = mi_binned(np.full((40, 3), 0.3), np.arange(40) % 2, code="range", low=0.3, high=0.3)
    assert constant_range.h_t == 0
    assert mi_kde(np.full((40, 3), 0.3), np.arange(40) % 2, 0.1) == pytest.approx((0, 0, 0, 0), abs=1e-12)


def test_wide_layers_have_exact_symbols():
    generator = np.random.default_rng(0)
    codes = generator.integers(-3, 3, size=(60, 300))[generator.integers(0, 60, 500)] * 0.07 + 0.01
    codes[:, 5] *= 1e17
    expected = np.unique(np.floor(codes / 0.07), axis=0, return_counts=True)[1] / 500
    assert mi_binned(codes, np.zeros(500, int), code="floor").h_t == pytest.approx(
        -(expected * np.log2(expected)).sum(), abs=1e-12
    )


def test_shuffled_labels_have_a_bias_that_shuffling_takes_away():
    stored = FILES["tanh_width3"]
    shuffled = np.random.default_rng(1).permutation(stored["y"])
    assert mi_binned(stored["T"], shuffled).i_ty == pytest.approx(0.078, abs=0.012)
    assert mi_binned(stored["T"], shuffled, bias="shuffle").i_ty == pytest.approx(0, abs=0.015)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.integers(1, 4), st.sampled_from(["edges", "floor", "range"]))
def test_bounds_of_information(seed, n, d, code):
    generator = np.random.default_rng(seed)
    t, y = generator.normal(size=(n, d)), generator.integers(0, 3, n)
    result = mi_binned(t, y, code=code, n_bins=int(generator.integers(1, 9)))
    shares = np.unique(y, return_counts=True)[1] / n
    h_y = -(shares * np.log2(shares)).sum()
    assert -1e-12 <= result.i_ty <= min(result.h_t, h_y) + 1e-12
    assert result.h_t <= np.log2(n) + 1e-12
    order, units = generator.permutation(n), generator.permutation(d)
    other = mi_binned(t[order][:, units], y[order], code=code, n_bins=7)
    assert other == pytest.approx(mi_binned(t, y, code=code, n_bins=7), abs=1e-12)
    bounds = mi_kde(t, y, float(np.exp(generator.normal())))
    assert -1e-12 <= bounds.i_xt_lower <= bounds.i_xt_upper + 1e-12
    assert bounds.i_xt_upper <= np.log2(n) + 1e-12


def test_refusals():
    t, y = np.zeros((5, 2)), np.zeros(5, int)
    for wrong, words in [
        ({"code": "adaptive"}, "code"),
        ({"bias": "jackknife"}, "bias"),
        ({"n_bins": 0}, "n_bins"),
        ({"low": 1.0, "high": 0.0}, "low"),
        ({"code": "floor", "width": 0.0}, "width"),
        ({"bias": "shuffle", "shuffles": 0}, "shuffles"),
    ]:
        with pytest.raises(ValueError, match=words):
            mi_binned(t, y, **wrong)
    with pytest.raises(ValueError, match="variance"):
        mi_kde(t, y, 0.0)
    with pytest.raises(ValueError, match="labels"):
        mi_kde(t, y[:3], 0.1)
    t[3, 1] = np.nan
    with pytest.raises(ValueError, match="row 3"):
        mi_binned(t, y)
