"""Choosing layers held out, and one row of a prompt's tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vlsae.aqi import effect
from vlsae.aqi.accumulators import ClassMoments
from vlsae.aqi.layers import crossfit_layer
from vlsae.aqi.tokens import POOLS, pool_tokens

GOLDEN = Path(__file__).parent / "golden" / "aqi"


def cells(layers, labels, folds):
    return [ClassMoments(10, x.shape[1]).update(x, folds * 2 + labels) for x in layers]


def test_chosen_layer_has_no_effect_on_noise_where_the_best_has():
    labels, folds = np.arange(80) % 2, np.arange(80) // 2 % 5
    found = []
    for seed in range(40):
        layers = np.random.default_rng(seed).normal(size=(20, 80, 64))
        found.append(crossfit_layer(cells(layers, labels, folds), 5))
    assert abs(np.mean([one.delta_squared for one in found])) < 0.013
    assert np.mean([one.max_over_layers for one in found]) > 0.012


def test_the_layer_with_the_effect_is_chosen_in_every_fold():
    labels, folds = np.arange(80) % 2, np.arange(80) // 2 % 5
    layers = np.random.default_rng(0).normal(size=(4, 80, 8))
    layers[2, :, 0] += 5 * labels
    found = crossfit_layer(cells(layers, labels, folds), 5)
    assert found.chosen.tolist() == [2] * 5
    held = [effect.delta_squared(layers[2][folds == f], labels[folds == f]) for f in range(5)]
    assert found.by_fold.tolist() == pytest.approx(held)
    assert found.max_over_layers == pytest.approx(effect.delta_squared(layers[2], labels))
    with pytest.raises(ValueError, match="2 folds"):
        crossfit_layer(cells(layers, labels, folds), 1)
    with pytest.raises(ValueError, match="for 3 folds"):
        crossfit_layer(cells(layers, labels, folds), 3)


def test_folds_without_a_class_are_undefined():
    labels = np.arange(20) // 10
    found = crossfit_layer(cells(np.random.default_rng(0).normal(size=(2, 20, 3)), labels, labels), 5)
    assert np.isnan(found.delta_squared)


@pytest.mark.parametrize("pool", POOLS)
def test_padding_does_not_matter(pool):
    with np.load(GOLDEN / "token_pooling.npz") as file:
        golden = {name: torch.tensor(file[name]) for name in file.files}
    for side in ("left", "right"):
        found = pool_tokens(
            golden[f"hidden_{side}"],
            golden[f"mask_{side}"],
            pool,
            k=int(golden["k"]),
            completion=golden[f"completion_{side}"],
        )
        torch.testing.assert_close(found, golden[pool], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(golden["official_unmasked_mean_right"], golden["mean"])


def test_what_is_left_out_may_be_anything():
    hidden = torch.tensor([[[1.0], [float("nan")], [3.0]]])
    mask = torch.tensor([[1, 0, 1]])
    assert pool_tokens(hidden, mask).tolist() == [[2.0]]
    assert pool_tokens(hidden.bfloat16(), mask, "last").dtype == torch.float32
    with pytest.raises(ValueError, match="AQI-D11: mean keeps no token of prompts 0"):
        pool_tokens(hidden, mask * 0)
    with pytest.raises(ValueError, match="token pool 'first'"):
        pool_tokens(hidden, mask, "first")
    with pytest.raises(ValueError, match="needs completion"):
        pool_tokens(hidden, mask, "completion_last")
    with pytest.raises(ValueError, match="k must be"):
        pool_tokens(hidden, mask, "last_k", k=0)
    with pytest.raises(ValueError, match="were expected"):
        pool_tokens(hidden[0], mask)
