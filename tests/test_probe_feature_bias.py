"""probe=feature_bias: features are independent, equal ones explain alike, easy ones more than hard ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vlsae.cli import main
from vlsae.errors import UserError
from vlsae.probes.base import Representations
from vlsae.probes.feature_bias import CONTRASTS, FeatureBias, factorial_items
from vlsae.probes.feature_networks import ConvolutionalNetwork, DecodingNetwork
from vlsae.probes.module_batch import ModuleBatch
from vlsae.runs import input_run


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_features_are_fair_and_independent(contrast):
    bits, features = factorial_items(contrast, 4096, 4, 0)
    assert bits.shape == (4096, 16)
    assert abs(features.mean(axis=0) - 0.5).max() < 0.03
    assert abs(np.corrcoef(features.T)[0, 1]) < 0.05
    hard = contrast == "difficulty"
    np.testing.assert_array_equal(features[:, 1], bits[:, 1:5].sum(axis=1) % 2 if hard else bits[:, 1])


def test_an_easy_feature_explains_more_and_equal_ones_alike():
    settings = {"networks": 3, "steps": 900, "items": 2048, "widths": [64, 64, 64], "learning_rate": 3e-3}
    probe = FeatureBias(contrasts=["difficulty", "equal"], parity=4, **settings)
    result = probe.measure(Representations(seed=0), None)
    rows = {(row[0], row[1]): dict(zip(result.tables[0].columns, row)) for row in result.tables[0].rows}
    assert rows["difficulty", 2]["networks"] == 3
    assert rows["difficulty", 2]["first is more"] == 3
    assert rows["difficulty", 2]["difference"] > 0.1
    assert rows["equal", 2]["low"] < 0 < rows["equal", 2]["high"]
    assert rows["equal", 2]["joint"] == pytest.approx(rows["equal", 2]["first"] + rows["equal", 2]["second"], abs=0.05)


def test_networks_that_learned_nothing_are_left_out_and_it_is_said(tmp_path):
    words = ["probe", "probe=feature_bias", f"runs_dir={tmp_path}", "probe.networks=2", "probe.steps=2"]
    assert main([*words, "probe.items=64", "probe.contrasts=[prevalence]"]) == 0
    path = input_run("probe/feature_bias/latest", tmp_path).path
    assert "2 of 2 networks did not learn both features" in (path / "result.json").read_text()


def test_modules_of_a_batch_are_those_alone():
    made = []

    def make() -> ConvolutionalNetwork:
        made.append(ConvolutionalNetwork([4, 4], 2, "relu", residual=True))
        return made[-1]

    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0)).sign()
    batch = ModuleBatch(3, make, seed=2)
    for found, *alone in zip(batch.layers(x), *(one(x) for one in made), strict=True):
        torch.testing.assert_close(found, torch.stack(alone))
    assert not torch.equal(*(one(x)[-1] for one in made[:2]))
    batch(x).sum().backward()
    made[1](x)[-1].sum().backward()
    gradients = [one.grad[1] for one in batch.stacked]
    torch.testing.assert_close(gradients, [one.grad for one in made[1].parameters()])


def test_a_decoding_network_reads_only_what_was_written_before():
    torch.manual_seed(0)
    network = DecodingNetwork(12, 8, 2, 4)
    x, y = torch.ones(2, 12), torch.tensor([[0, 1, 0, 1], [0, 1, 1, 1]])
    *layers, outputs = network(x, y)
    assert [one.shape for one in layers] == [(2, 8)] * 2
    torch.testing.assert_close(outputs[0, :3], outputs[1, :3])
    assert not torch.equal(outputs[0, 3], outputs[1, 3])


def test_a_convolutional_network_favours_the_easy_feature_too():
    probe = FeatureBias(
        architecture="cnn", contrasts=["difficulty"], networks=2, steps=300, items=1024, parity=3, learning_rate=3e-3
    )
    result = probe.measure(Representations(seed=0), None)
    last = dict(zip(result.tables[0].columns, result.tables[0].rows[-1]))
    assert (last["networks"], last["first is more"]) == (2, 2)
    assert last["difference"] > 0.03


@pytest.mark.parametrize("contrast", ["difficulty", "position"])
def test_a_transformer_gives_every_number(contrast):
    probe = FeatureBias(architecture="transformer", contrasts=[contrast], networks=2, steps=3, items=64, widths=[8])
    result = probe.measure(Representations(seed=0), None)
    networks = [dict(zip(result.tables[1].columns, row)) for row in result.tables[1].rows]
    assert len(networks) == 2
    assert all(row["joint"] <= 1 for row in networks)
    if contrast == "position":
        assert [row[2] for row in result.tables[2].rows] == [1, 2, 3, 4] * 2


def test_what_an_architecture_cannot_do_is_refused():
    with pytest.raises(UserError, match="decodes nothing"):
        FeatureBias(contrasts=["position"])
    with pytest.raises(UserError, match="one even width"):
        FeatureBias(architecture="transformer", widths=[8, 16])
