"""GDV against stored values, a double loop over pairs, and what it must not change with."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlsae.errors import VlsaeWarning
from vlsae.probes import distances, gdv

GOLDEN = np.load(Path(__file__).parent / "golden" / "probes" / "gdv.npz")
CASES = ("easy", "mid", "null")


def case(name):
    return GOLDEN[f"{name}_X"], GOLDEN[f"{name}_y"]


@pytest.mark.parametrize("name", CASES)
def test_stored_values(name):
    x, y = case(name)
    result = gdv(x, y)
    k = len(result.classes)
    np.testing.assert_allclose(result.value, GOLDEN[f"{name}_gdv"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(result.intra, GOLDEN[f"{name}_intra"], rtol=0, atol=1e-10)
    pairs = [result.inter[a, b] for a, b in combinations(range(k), 2)]
    np.testing.assert_allclose(pairs, GOLDEN[f"{name}_inter"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(2 * k * result.value, GOLDEN[f"{name}_legacy"], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(result.inter, result.inter.T)
    assert np.isnan(result.inter.diagonal()).all()
    np.testing.assert_array_equal(result.counts, np.unique(y, return_counts=True)[1])


@pytest.mark.parametrize("name", CASES)
def test_scale_shift_order_and_constant_columns_change_nothing(name):
    x, y = case(name)
    moved = (x * GOLDEN[f"{name}_scale"] + GOLDEN[f"{name}_shift"])[:, GOLDEN[f"{name}_perm"]]
    value = gdv(x, y).value
    assert gdv(moved, y).value == pytest.approx(value, abs=1e-10)
    assert gdv(np.column_stack([moved, np.full(len(x), 0.1)]), y).value == pytest.approx(value, abs=1e-10)
    assert gdv(x * 1e-200, y).value == pytest.approx(value, abs=1e-10)


def test_a_rotation_changes_it():
    x, y = case("easy")
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(12, 12)))[0]
    assert abs(gdv(x @ rotation, y).value - gdv(x, y).value) > 1e-3


@pytest.mark.parametrize("name", CASES)
def test_half_precision_is_enough(name):
    x, y = case(name)
    assert gdv(torch.from_numpy(x).half(), torch.from_numpy(y)).value == pytest.approx(gdv(x, y).value, abs=1e-5)


@pytest.mark.parametrize("k", [2, 3, 5, 8])
def test_equal_classes_at_points_reach_the_bound_of_their_number(k):
    # Corners of a simplex: -√(K/(2(K - 1))), which is -1 for two classes only.
    y = np.repeat(np.arange(k), 6)
    simplex = np.eye(k)[y]
    assert gdv(simplex, y).value == pytest.approx(-np.sqrt(k / (2 * (k - 1))), abs=1e-12)


def test_two_unequal_classes_at_points_pass_minus_one():
    y = np.repeat([0, 1], [18, 2])
    assert gdv(np.eye(2)[y], y).value == pytest.approx(-0.5 / np.sqrt(0.1 * 0.9), abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(2, 4))
def test_a_double_loop_over_pairs_gives_the_same(seed, d, k):
    generator = np.random.default_rng(seed)
    y = np.concatenate([np.arange(k), np.arange(k), generator.integers(0, k, 12)])
    x = generator.normal(size=(len(y), d)) + 1e3
    s = 0.5 * (x - x.mean(0)) / x.std(0)
    groups = [s[y == c] for c in range(k)]
    intra = [np.mean([np.linalg.norm(a - b) for a, b in combinations(g, 2)]) for g in groups]
    inter = [np.mean([np.linalg.norm(a - b) for a in g for b in h]) for g, h in combinations(groups, 2)]
    assert gdv(x, y).value == pytest.approx((np.mean(intra) - np.mean(inter)) / np.sqrt(d), abs=1e-10)


def test_tiles_give_the_same(monkeypatch):
    x, y = case("mid")
    whole = gdv(x, y).value
    monkeypatch.setattr(distances, "TILE", 700)
    assert gdv(x, y).value == pytest.approx(whole, abs=1e-13)


def test_a_class_of_one_row_is_left_out_with_a_warning():
    x, y = case("easy")
    more, labels = np.vstack([x, x[:1] + 5]), np.append(y, 1)
    labels[-1] = y.max() + 1
    with pytest.warns(VlsaeWarning, match="one row"):
        result = gdv(more, labels)
    assert result.value == pytest.approx(gdv(x, y).value, abs=1e-12)
    assert np.isnan(result.intra[-1])
    assert np.isnan(result.inter[-1]).all()
    assert result.counts[-1] == 1


def test_nothing_that_varies_is_nan():
    result = gdv(np.full((6, 3), 0.1), [0, 0, 0, 1, 1, 1])
    assert np.isnan(result.value)
    assert np.isnan(result.intra).all()


def test_refusals():
    x = np.random.default_rng(0).normal(size=(6, 2))
    with pytest.raises(ValueError, match="2 classes"):
        gdv(x, np.zeros(6, int))
    with pytest.raises(ValueError, match="2 classes"):
        gdv(x, [0, 0, 0, 0, 0, 1])
    with pytest.raises(ValueError, match="as many rows"):
        gdv(x, [0, 1])
    with pytest.raises(ValueError, match="shape"):
        gdv(x[:, 0], [0, 0, 0, 1, 1, 1])
    with pytest.raises(ValueError, match="integers"):
        gdv(x, [0.5] * 6)
    with pytest.raises(ValueError, match="scale"):
        gdv(x, [0, 0, 0, 1, 1, 1], scale=-1)
    x[[2, 4], 0] = np.inf, np.nan
    with pytest.raises(ValueError, match="rows 2, 4"):
        gdv(x, [0, 0, 0, 1, 1, 1])
