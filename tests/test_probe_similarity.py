"""CKA, HSIC and RSA against stored values, their definitions with whole Gram matrices, and their invariances."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr

from vlsae.probes import cka, cka_unbiased, distances, hsic_unbiased, rsa

GOLDEN = np.load(Path(__file__).parent / "golden" / "probes" / "align.npz")
MEASURES = {"cka": cka, "ucka": cka_unbiased, "uhsic": hsic_unbiased, "rsa": rsa}
STORED = [name for name in GOLDEN if name.removeprefix("gen_").split("_")[0] in MEASURES]


@pytest.mark.parametrize("name", STORED)
def test_stored_values(name):
    prefix = "gen_" if name.startswith("gen_") else ""
    measure, (a, b) = name.removeprefix("gen_").split("_")
    value = MEASURES[measure](GOLDEN[prefix + a.upper()], GOLDEN[prefix + b.upper()])
    assert value == pytest.approx(float(GOLDEN[name]), abs=1e-10)


def gram_hsic(x, y):
    """The definition, Song et al. (2012), equation 5."""
    n = len(x)
    k, l = x @ x.T, y @ y.T  # noqa: E741
    np.fill_diagonal(k, 0)
    np.fill_diagonal(l, 0)
    ones = np.ones(n)
    third = k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 * (ones @ k @ l @ ones) / (n - 2)
    return (np.trace(k @ l) + third) / (n * (n - 3))


def gram_cka(x, y):
    center = np.eye(len(x)) - 1 / len(x)
    k, l = center @ x @ x.T @ center, center @ y @ y.T @ center  # noqa: E741
    return (k * l).sum() / np.sqrt((k * k).sum() * (l * l).sum())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(5, 25), st.integers(1, 40), st.integers(1, 40))
def test_definitions_with_gram_matrices(seed, n, p, q):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, p)) + 2
    y = generator.normal(size=(n, q)) + x[:, :1]
    assert cka(x, y) == pytest.approx(gram_cka(x, y), abs=1e-9)
    assert hsic_unbiased(x, y) == pytest.approx(gram_hsic(x, y), rel=1e-9, abs=1e-9)
    own = np.sqrt(gram_hsic(x, x) * gram_hsic(y, y))
    assert cka_unbiased(x, y) == pytest.approx(gram_hsic(x, y) / own, abs=1e-8)
    assert rsa(x, y) == pytest.approx(spearmanr(pdist(x), pdist(y))[0], abs=1e-10)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-120, 1e-3, 1.0, 1e5, 1e120]))
def test_rotation_scale_and_shift_change_nothing(seed, scale):
    generator = np.random.default_rng(seed)
    x, y = generator.normal(size=(20, 6)), generator.normal(size=(20, 3))
    rotation = np.linalg.qr(generator.normal(size=(6, 6)))[0]
    moved = scale * (x @ rotation + 3)
    for measure in (cka, cka_unbiased, rsa):
        assert measure(moved, y) == pytest.approx(measure(x, y), abs=1e-10)
        assert measure(y, moved) == pytest.approx(measure(x, y), abs=1e-10)
        assert measure(moved, x) == pytest.approx(1, abs=1e-12)
    assert 0 <= cka(x, y) <= 1
    assert abs(cka(x * np.arange(1, 7), y) - cka(x, y)) > 1e-9


def test_unbiased_values_do_not_grow_with_width():
    generator = np.random.default_rng(0)
    draws = [(generator.normal(size=(20, 300)), generator.normal(size=(20, 300))) for _ in range(40)]
    assert np.mean([cka(x, y) for x, y in draws]) > 0.9
    assert np.mean([cka_unbiased(x, y) for x, y in draws]) == pytest.approx(0, abs=0.05)


def test_tiles_give_the_same(monkeypatch):
    x, y = np.random.default_rng(1).normal(size=(2, 30, 200))
    whole = cka(x, y), cka_unbiased(x, y)
    monkeypatch.setattr("vlsae.probes.products.TILE", 100)
    assert (cka(x, y), cka_unbiased(x, y)) == pytest.approx(whole, abs=1e-13)


def test_close_rows_far_from_the_origin_keep_their_distances():
    x = 1e6 + np.random.default_rng(2).normal(size=(8, 5)) * 1e-3
    tile = np.concatenate([squared for _, squared in distances.distance_tiles(x)])
    exact = ((x[:, None] - x) ** 2).sum(-1)
    np.testing.assert_allclose(tile, exact, rtol=1e-6)
    np.testing.assert_array_equal(distances.squared_distances(x, x).diagonal(), 0)


def test_degenerate_rows_are_nan():
    constant, y = np.full((6, 3), 0.1), np.random.default_rng(3).normal(size=(6, 2))
    for measure in (cka, cka_unbiased, rsa):
        assert np.isnan(measure(constant, y))
        assert np.isnan(measure(y, constant))
    # Rows equally far apart: nothing is left after the diagonal.
    assert np.isnan(cka_unbiased(np.eye(6), y))
    assert np.isnan(rsa(np.eye(6), y))
    assert np.isnan(rsa(y[:2], y[:2]))
    assert np.isnan(cka(y[:1], y[:1]))
    assert hsic_unbiased(constant, y) == 0


def test_torch_of_any_type():
    x, y = GOLDEN["gen_X"], GOLDEN["gen_Z"]
    assert cka(torch.from_numpy(x), torch.from_numpy(y).requires_grad_()) == cka(x, y)
    low = torch.from_numpy(x).bfloat16()
    assert cka(low, y) == cka(low.double().numpy(), y)


def test_refusals():
    x = np.random.default_rng(4).normal(size=(6, 2))
    for measure in MEASURES.values():
        with pytest.raises(ValueError, match="as many rows"):
            measure(x, x[:5])
        with pytest.raises(ValueError, match="shape"):
            measure(x[0], x)
        with pytest.raises(ValueError, match="rows 0, 1"):
            measure(np.full((6, 2), np.inf), x)
        with pytest.raises(ValueError, match="real"):
            measure(x.astype(str), x)
        with pytest.raises(ValueError, match="at least one"):
            measure(np.zeros((6, 0)), x)
    for measure in (hsic_unbiased, cka_unbiased):
        with pytest.raises(ValueError, match="at least 4 rows"):
            measure(x[:3], x[:3])
