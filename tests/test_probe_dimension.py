"""Participation ratio and TwoNN against stored values and known clouds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlsae.probes import distances, participation_ratio, twonn

FOLDER = Path(__file__).parent / "golden" / "probes"
GOLDEN, ALIGN = np.load(FOLDER / "dim.npz"), np.load(FOLDER / "align.npz")


@pytest.mark.parametrize("name", ["a", "b"])
def test_stored_values(name, monkeypatch):
    x = GOLDEN[f"{name}_X"]
    result = twonn(x)
    assert result.mle == pytest.approx(float(GOLDEN[f"{name}_twonn_mle"]), abs=1e-9)
    assert result.fit == pytest.approx(float(GOLDEN[f"{name}_twonn_fit"]), abs=1e-9)
    assert participation_ratio(x) == pytest.approx(float(GOLDEN[f"{name}_pr"]), abs=1e-9)
    monkeypatch.setattr(distances, "TILE", 3000)
    assert twonn(x) == pytest.approx(result, abs=1e-10)


@pytest.mark.parametrize(("rows", "stored"), [("Z", "pr_z"), ("X", "pr_x"), ("gen_Z", "gen_pr_z")])
def test_stored_participation_ratios(rows, stored):
    assert participation_ratio(ALIGN[rows]) == pytest.approx(float(ALIGN[stored]), abs=1e-10)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 20), st.integers(1, 30))
def test_participation_ratio_is_that_of_the_eigenvalues(seed, n, d):
    x = np.random.default_rng(seed).normal(size=(n, d)) * 1e90
    values = np.linalg.svd((x - x.mean(0)) / 1e90, compute_uv=False) ** 2
    assert participation_ratio(x) == pytest.approx(values.sum() ** 2 / (values**2).sum(), rel=1e-10)
    assert 1 - 1e-12 <= participation_ratio(x) <= min(n - 1, d) + 1e-9


def test_cubes_and_simplices():
    cube = np.array(np.meshgrid([1, -1], [1, -1], [1, -1])).reshape(3, -1).T
    assert participation_ratio(cube) == pytest.approx(3)
    assert participation_ratio(np.eye(8)) == pytest.approx(7)


def test_repeated_rows_are_left_out_and_counted():
    x = GOLDEN["a_X"]
    result = twonn(np.vstack([x, x[:7], x[:7]]))
    assert result.duplicates == 14
    assert result[:2] == pytest.approx(twonn(x)[:2], abs=1e-12)


def test_degenerate_clouds():
    assert np.isnan(participation_ratio(np.full((5, 3), 0.1)))
    two = twonn(np.repeat(np.eye(2), 4, axis=0))
    assert np.isnan(two.mle)
    assert np.isnan(two.fit)
    assert two.duplicates == 6
    assert twonn(np.eye(5))[:2] == (np.inf, np.inf)


def test_scale_and_rotation_change_nothing():
    x = GOLDEN["b_X"]
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(50, 50)))[0]
    assert twonn(1e-150 * (x @ rotation))[:2] == pytest.approx(twonn(x)[:2], abs=1e-8)


def test_refusals():
    with pytest.raises(ValueError, match="row 1"):
        twonn([[0.0], [np.nan], [1.0]])
    with pytest.raises(ValueError, match="shape"):
        participation_ratio(np.zeros(4))
