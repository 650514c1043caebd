"""Codebook and prototype functions against stored vectors: the published code's, and float64 formulas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vlsae.dictionaries import codebook_snap, prototype_loss
from vlsae.dictionaries.prototype import prototype_distances

GOLDEN = Path(__file__).parent / "golden" / "structured"


@pytest.fixture(scope="module")
def snap() -> dict[str, torch.Tensor]:
    file = np.load(GOLDEN / "codebook_snap.npz")
    return {name: torch.as_tensor(file[name]) for name in file.files}


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize(("metric", "name"), [("cosine", "ip"), ("l2", "euc")])
def test_snap_forward(snap, metric, name, k):
    output, indices = codebook_snap(snap["x"], snap["codebook"], k, metric=metric)
    assert torch.equal(indices, snap[f"{name}_k{k}_ids"])
    torch.testing.assert_close(output, snap[f"{name}_k{k}_out"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["base", "aeloss", "fullaeloss-0.25", "vqvae-0.25"])
def test_snap_gradients(snap, name):
    x, codebook = snap["x"].clone().requires_grad_(), snap["codebook"].clone().requires_grad_()
    output, _ = codebook_snap(x, codebook, 3, gradient=name.split("-")[0], beta=0.25)
    output.backward(snap["grad_out"])
    torch.testing.assert_close(x.grad, snap[f"grad_x_{name}"], atol=1e-5, rtol=0)
    torch.testing.assert_close(codebook.grad, snap[f"grad_codebook_{name}"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("refill", [True, False])
def test_snap_with_disabled_codes(snap, refill):
    name = "refill" if refill else "drop"
    output, indices = codebook_snap(snap["x"], snap["codebook"], 3, disabled=snap["disabled"].tolist(), refill=refill)
    assert torch.equal(indices, snap[f"ip_k3_disabled_{name}_ids"])
    torch.testing.assert_close(output, snap[f"ip_k3_disabled_{name}_out"], atol=1e-6, rtol=0)


def test_snap_behind_a_layer_norm(snap):
    normed = F.layer_norm(snap["layer_in"], (8,), eps=1e-5)
    output, indices = codebook_snap(normed, snap["codebook"], 3)
    torch.testing.assert_close(output, snap["layer_out"], atol=1e-6, rtol=0)
    error = (output - normed).square().sum(dim=-1).mean()
    assert error.item() == pytest.approx(float(snap["layer_mse"]), rel=1e-6)
    assert len(indices.unique()) == int(snap["layer_active"])


def test_snap_in_groups(snap):
    halves = [F.layer_norm(half, (4,), eps=1e-5) for half in snap["x"].chunk(2, dim=-1)]
    outputs = [codebook_snap(half, codes, 2)[0] for half, codes in zip(halves, snap["group_codebooks"])]
    torch.testing.assert_close(torch.cat(outputs, dim=-1), snap["group_out"], atol=1e-6, rtol=0)


def test_prototype_loss():
    file = np.load(GOLDEN / "prototype_loss.npz")
    given = {name: torch.as_tensor(file[name]) for name in file.files}
    leaves = {name: given[name].clone().requires_grad_() for name in ("z", "prototypes", "W", "x_decoded")}
    total, terms = prototype_loss(
        leaves["z"], leaves["prototypes"], leaves["W"], given["x"], leaves["x_decoded"], given["y"]
    )
    distances = prototype_distances(given["z"], given["prototypes"])
    torch.testing.assert_close(distances, given["distances"], atol=1e-9, rtol=0)
    torch.testing.assert_close(distances @ given["W"], given["logits"], atol=1e-9, rtol=0)
    for name, value in {**terms, "total": total}.items():
        assert value.item() == pytest.approx(float(given[name]), abs=1e-9), name
    total.backward()
    for name, leaf in leaves.items():
        torch.testing.assert_close(leaf.grad, given[f"grad_{name}"], atol=1e-8, rtol=0)
