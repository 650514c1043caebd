"""probe=neuron: rules on known factors, tuning that is found on one half and measured on the other."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from vlsae.errors import UserError
from vlsae.probes.base import Representations
from vlsae.probes.neuron import Neuron
from vlsae.probes.rules import best_rule
from vlsae.probes.targets import Targets


def world(n=400, seed=0):
    """Return three units (a conjunction, a single factor, noise) and the factors behind them."""
    generator = np.random.default_rng(seed)
    shown = generator.integers(0, 2, (n, 4)).astype(bool)
    noise = generator.normal(size=(n, 3)) * 0.3
    units = np.column_stack([shown[:, 0] & shown[:, 1], shown[:, 2], np.zeros(n)]) * 2.0 + noise
    names = ["color=red", "shape=star", "size=large", "place=left"]
    samples = pa.table({"sample_id": [f"s{row}" for row in range(n)], "texts": [[f"scene {row}"] for row in range(n)]})
    targets = Targets(samples, (names, [name.split("=")[0] for name in names], shown))
    return Representations.of_arrays({"vision.1": units}, samples), targets, units, shown


def test_a_conjunction_is_found_and_explains_what_it_should():
    _, _, units, shown = world()
    names = ["red", "star", "large", "left"]
    rule = best_rule(units[:, 0], shown.astype(float), names, np.arange(400) % 5)
    signal = np.var(2.0 * (shown[:, 0] & shown[:, 1]))
    assert set(rule.words.split(" and ")) == {"red", "star"}
    assert rule.explained == pytest.approx(signal / (signal + 0.09), abs=0.05)
    nothing = best_rule(units[:, 2], shown.astype(float), names, np.arange(400) % 5)
    assert -0.1 < nothing.explained < 0.05
    assert np.isnan(best_rule(np.zeros(400), shown.astype(float), names, np.arange(400) % 5).explained)


def test_units_are_tuned_to_their_factors():
    representations, targets, units, _ = world()
    result = Neuron(units=[0, 1, 2], top=3, resamples=200).measure(representations, targets)
    table = {row[1]: dict(zip(result.tables[0].columns, row)) for row in result.tables[0].rows}
    assert table[1]["tuned to"] == "size=large"
    assert table[1]["AUROC"] > 0.95
    assert table[1]["selectivity"] > 0.3
    assert table[1]["rule"] == "size=large"
    assert result.metrics["tuning/vision.1/2"].low < 0.5 < result.metrics["tuning/vision.1/2"].high
    inputs = [row for row in result.tables[2].rows if row[1] == 0]
    assert inputs[0][3] == pytest.approx(units[:, 0].max())
    assert inputs[0][5] == f"scene {units[:, 0].argmax()}"


def test_noise_has_no_rule_over_many_units():
    """Of 30 units of noise, with 4 factors to choose from: what is measured is 0 on average."""
    _, _, _, shown = world(120)
    noise = np.random.default_rng(1).normal(size=(120, 30))
    found = [best_rule(one, shown.astype(float), list("abcd"), np.arange(120) % 4).explained for one in noise.T]
    assert np.mean(found) < 0.01


def test_a_unit_that_is_not_there_is_named():
    representations, targets, *_ = world(60)
    with pytest.raises(UserError, match=r"There is no unit 7 at vision\.1"):
        Neuron(units=[7]).measure(representations, targets)
