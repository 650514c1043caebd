"""probe=feature_bias: features are independent, equal ones explain alike, easy ones more than hard ones."""

from __future__ import annotations

import numpy as np
import pytest

from vlsae.cli import main
from vlsae.probes.base import Representations
from vlsae.probes.feature_bias import CONTRASTS, FeatureBias, factorial_items
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
