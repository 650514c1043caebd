"""Weights of layers and the losses that learn them: golden values and gradients, limits, wrong input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlsae.aqi import effect
from vlsae.aqi.pooling import (
    KINDS,
    fisher,
    fisher_matrices,
    hinge_push,
    hinge_push_pull,
    layer_weights,
    median_distance,
    pooled,
    rms_scaled,
)

GOLDEN = Path(__file__).parent / "golden" / "aqi"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "learned_pooling.npz") as file:
        return {name: torch.tensor(file[name]) for name in file.files}


def close(found, expected, tolerance):
    np.testing.assert_allclose(found.detach().numpy(), expected.numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", ["zeros", "ties", "wide", "one", "mix"])
@pytest.mark.parametrize("kind", KINDS)
def test_maps_golden(case, kind):
    with np.load(GOLDEN / "simplex_maps.npz") as file:
        found = layer_weights(torch.tensor(file[f"{case}__logits"]), kind)
        np.testing.assert_allclose(found.numpy(), file[f"{case}__{kind}"], atol=1e-12)


def test_sparsemax_by_hand():
    found = layer_weights(torch.tensor([0.1, 0.5, -0.2, 0.9, 0.4, 0.85], dtype=torch.float64), "sparsemax")
    assert found.tolist() == pytest.approx([0, 0.25 / 3, 0, 1.45 / 3, 0, 1.3 / 3], abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_golden(golden, kind):
    hidden, labels, logits = golden["H"], golden["y"], golden["logits"].clone().requires_grad_()
    weights = layer_weights(logits, kind)
    close(weights, golden[f"{kind}_w"], 1e-12)
    jacobian = torch.autograd.functional.jacobian(lambda a: layer_weights(a, kind), golden["logits"])
    close(jacobian, golden[f"{kind}_jac"], 1e-9)
    margin, inner, beta = (float(golden[name]) for name in ("margin", "m_in", "beta"))
    losses = {
        "push": hinge_push(hidden, weights, golden["pairs"], margin),
        "pushpull": hinge_push_pull(hidden, weights, golden["pairs"], golden["same_pairs"], margin, inner, beta),
        "fisher": fisher(hidden, weights, labels),
    }
    for name, loss in losses.items():
        close(loss, golden[f"{kind}_{name}_loss"], 1e-10)
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
        close(gradient, golden[f"{kind}_{name}_grad_logits"], 1e-9)
        assert float(gradient.sum()) == pytest.approx(0, abs=1e-12)
    (gradient,) = torch.autograd.grad(losses["push"], weights)
    close(gradient, golden[f"{kind}_push_grad_w"], 1e-9)
    value = effect.delta_squared(pooled(hidden, weights), labels)
    assert value == pytest.approx(float(golden[f"{kind}_delta2"]), rel=1e-10)
    assert torch.exp(-losses["fisher"]).item() == pytest.approx(value, rel=1e-10)


def test_quadratic_forms_golden(golden):
    between, within = fisher_matrices(golden["H"], golden["y"])
    close(between, golden["B"], 1e-10)
    close(within, golden["W"], 1e-10)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=12), st.sampled_from(KINDS))
@settings(max_examples=100, deadline=None)
def test_weights_lie_on_the_simplex_and_keep_the_order(values, kind):
    logits = torch.tensor(values, dtype=torch.float64)
    weights = layer_weights(logits, kind)
    assert float(weights.min()) >= 0
    assert float(weights.sum()) == pytest.approx(1, abs=1e-9)
    ordered = weights[logits.argsort()]
    assert bool((ordered[1:] >= ordered[:-1] - 1e-12).all())
    torch.testing.assert_close(layer_weights(logits + 3, kind), weights, atol=1e-8, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_the_maps_are_those_of_differences(kind):
    logits = torch.tensor([0.3, -0.1, 0.45, -2.0, 0.2], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: layer_weights(a, kind), logits)


def test_pairs_together_or_at_the_margin_have_no_gradient():
    hidden = torch.tensor([[[0.0], [0.0]], [[0.0], [0.0]], [[2.0], [2.0]]], dtype=torch.float64)
    weights = torch.tensor([0.5, 0.5], dtype=torch.float64, requires_grad=True)
    for pairs, margin, expected in (([[0, 1]], 3.0, 3.0), ([[0, 2]], 2.0, 0.0)):
        loss = hinge_push(hidden, weights, torch.tensor(pairs), margin)
        assert loss.item() == expected
        (gradient,) = torch.autograd.grad(loss, weights)
        assert gradient.tolist() == [0, 0]


def test_no_signal_is_undefined_not_an_error():
    hidden = torch.tensor([[0.0], [2.0], [0.0], [2.0]], dtype=torch.float64)[:, None]
    assert torch.isnan(fisher(hidden, torch.ones(1, dtype=torch.float64), torch.tensor([0, 0, 1, 1])))


def test_scaling_by_rms():
    hidden = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]])
    assert rms_scaled(hidden)[0, 0].square().mean().item() == pytest.approx(1)
    assert rms_scaled(hidden)[0, 1].tolist() == [0, 0]


def test_half_of_the_pairs_lie_within_the_median(golden):
    margin = median_distance(golden["H"], golden["pairs"])
    z = golden["H"].mean(dim=1)
    distances = (z[golden["pairs"][:, 0]] - z[golden["pairs"][:, 1]]).norm(dim=1)
    assert margin == pytest.approx(float(np.median(distances.numpy())), rel=1e-12)


def test_wrong_input_is_named(golden):
    hidden, labels, pairs = golden["H"], golden["y"], golden["pairs"]
    weights = torch.full((6,), 1 / 6, dtype=torch.float64)
    with pytest.raises(ValueError, match="sparsemx"):
        layer_weights(weights, "sparsemx")
    with pytest.raises(ValueError, match=r"logits has shape \(0,\)"):
        layer_weights(weights[:0], "softmax")
    with pytest.raises(ValueError, match="not finite in logits, row 2"):
        layer_weights(weights.index_fill(0, torch.tensor([2]), float("nan")), "softmax")
    with pytest.raises(ValueError, match=r"weights has shape \(5,\)"):
        hinge_push(hidden, weights[:5], pairs, 1.0)
    with pytest.raises(ValueError, match=r"hidden has shape \(30, 6\)"):
        hinge_push(hidden[:, :, 0], weights, pairs, 1.0)
    with pytest.raises(ValueError, match=r"row numbers in 0…29; got 0…30"):
        hinge_push(hidden, weights, torch.tensor([[0, 30]]), 1.0)
    with pytest.raises(ValueError, match="pairs must be integers"):
        hinge_push(hidden, weights, pairs[:0], 1.0)
    with pytest.raises(ValueError, match="same_pairs must be integers"):
        hinge_push_pull(hidden, weights, pairs, pairs.double(), 1.0, 0.5)
    with pytest.raises(ValueError, match="margin must be a number of at least 0"):
        hinge_push(hidden, weights, pairs, -1.0)
    with pytest.raises(ValueError, match="two classes; got 1"):
        fisher(hidden, weights, labels * 0)
    with pytest.raises(ValueError, match="at least 2 rows; got 29 and 1"):
        fisher(hidden, weights, (torch.arange(30) == 3).long())
    with pytest.raises(ValueError, match="not finite in hidden, row 4"):
        fisher(hidden.index_fill(0, torch.tensor([4]), float("inf")), weights, labels)
