"""probe=concept_depth: curves and points on a staircase whose steps are known, noise, rounding, sources as tasks."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from vlsae.errors import UserError
from vlsae.models.rounded import rounded
from vlsae.probes.base import Representations
from vlsae.probes.concept_depth import ConceptDepth
from vlsae.probes.depth_curves import onset
from vlsae.probes.targets import Targets

LAYERS = 6


def staircase(n=800, seed=0, sources=None):
    """Return layers that hold running parities of fair bits, each parity first at its own layer, and three tasks."""
    generator = np.random.default_rng(seed)
    bits = generator.choice([-1, 1], (n, LAYERS))
    parity = np.cumprod(bits, axis=1)
    sites = {}
    for layer in range(LAYERS):
        held = np.concatenate([bits, parity[:, 1 : layer + 1]], axis=1)
        turn = np.linalg.qr(generator.normal(size=(16, 16)))[0][: held.shape[1]]
        sites[f"language.{layer + 1}"] = held @ turn + 0.4 * generator.normal(size=(n, 16))
    labels = [{f"parity{m}": int(parity[row, m - 1] > 0) for m in (1, 3, 5)} for row in range(n)]
    columns = {"sample_id": [str(row) for row in range(n)], "labels": labels}
    columns["source"] = ["one"] * n if sources is None else sources
    samples = pa.table(columns)
    return Representations.of_arrays(sites, samples), Targets(samples)


QUICK = {"penalties": [10.0], "folds": 3, "resamples": 200}


@pytest.fixture(scope="module")
def depth():
    return ConceptDepth(**QUICK).measure(*staircase())


def test_each_parity_becomes_readable_at_its_own_layer(depth):
    for m, at in ((1, 0), (3, 2), (5, 4)):
        assert depth.metrics[f"conv_peak/parity{m}/language"].value == pytest.approx(at / LAYERS)
        assert depth.metrics[f"onset/parity{m}/language"].value == pytest.approx(at / LAYERS)
        gated = depth.metrics[f"gated_jump/parity{m}/language"].value
        assert np.isnan(gated) if m == 1 else gated == pytest.approx(at / LAYERS)
        onset_of = depth.metrics[f"onset/parity{m}/language"]
        assert onset_of.low <= onset_of.value <= onset_of.high


def test_tasks_are_ordered_with_intervals(depth):
    order = depth.tables[1]
    assert [row[0] for row in order.rows] == ["parity1", "parity3", "parity5"]
    assert [row[5] for row in order.rows] == [1, 2, 3]


def test_a_task_that_nothing_holds_has_no_onset_and_no_gated_jump():
    representations, targets = staircase(300)
    noise = {site: np.random.default_rng(3).normal(size=(300, 8)) for site in representations.sites}
    result = ConceptDepth(**QUICK).measure(Representations.of_arrays(noise, targets.samples), targets)
    assert all(np.isnan(result.metrics[f"{name}/parity3/language"].value) for name in ("onset", "gated_jump"))
    assert np.isnan(result.metrics["onset/parity3/language"].high)


def test_sources_are_tasks_of_their_own():
    sources = ["cities.csv" if row % 2 else "reviews.csv" for row in range(400)]
    result = ConceptDepth(targets=["parity1"], **QUICK).measure(*staircase(400, sources=sources))
    assert {row[0] for row in result.tables[0].rows} == {"cities", "reviews"}
    assert all(row[3] == 200 for row in result.tables[0].rows)


def test_variants_stand_beside_the_plain_task():
    representations, targets = staircase(300)
    noise = {site: np.random.default_rng(3).normal(size=(300, 8)) for site in representations.sites}
    from dataclasses import replace

    both = replace(representations, variants={"prefix noise": Representations.of_arrays(noise, targets.samples)})
    result = ConceptDepth(targets=["parity1"], **QUICK).measure(both, targets)
    assert result.metrics["best_accuracy/parity1/language"].low > 0.8
    assert result.metrics["best_accuracy/parity1/language/prefix noise"].value < 0.65
    nodes = ConceptDepth(noise="prefix", bits=[8]).variants({"_target_": "m"}, {"_target_": "d"})
    assert nodes["prefix noise"]["dataset"]["clean"] == {"_target_": "d"}
    assert nodes["8 bits"]["model"]["exact"] == {"_target_": "m"}


def test_the_reference_is_scikit_learn_s_own_split_and_fit():
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split

    representations, targets = staircase(300)
    result = ConceptDepth(targets=["parity3"], reference=True, resamples=100).measure(representations, targets)
    y = targets.select(["parity3"])[0].values
    rows = {row[3]: row for row in result.tables[2].rows}
    for site, own in representations:
        train, test = train_test_split(np.arange(300), test_size=0.4, random_state=42)
        x = own.read().numpy().astype(np.float64)
        model = LogisticRegression().fit(x[train], y[train])
        assert rows[site][5] == model.score(x[test], y[test])


def test_onset_lies_halfway_up():
    assert onset(np.array([0.5, 0.6, 0.74, 0.76, 1.0]), 0.5) == pytest.approx(3 / 5)
    assert np.isnan(onset(np.array([0.4, 0.45]), 0.5))


def test_rounding_keeps_the_largest_of_a_row_and_every_value_within_half_a_step():
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    for bits in (8, 4):
        step = weight.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
        close = rounded(weight, bits)
        assert ((close - weight).abs() <= step / 2 * (1 + 1e-5)).all()
        assert torch.allclose(close.abs().amax(dim=1), weight.abs().amax(dim=1))
    assert torch.equal(rounded(weight, 16), weight.bfloat16().float())
    assert torch.equal(rounded(weight[0], 8), weight[0])


def test_noise_is_a_prefix_of_three_letters_that_hangs_on_the_sample():
    from vlsae.datasets import Shapes
    from vlsae.datasets.noisy import Noisy
    from vlsae.testing import check

    clean = Shapes(n=20)
    noisy, again = Noisy(clean=clean), Noisy(clean=clean)
    pairs = list(zip(clean.table["texts"], noisy.table["texts"]))
    assert all(after[0] in (f"aaa{before[0]}", f"bbb{before[0]}") for before, after in pairs)
    assert {after[0][:3] for _, after in pairs} == {"aaa", "bbb"}
    assert noisy.table["texts"] == again.table["texts"]
    swapped = Noisy(clean=clean, kind="swapped", share=0.2).table["texts"][0][0]
    assert sorted(swapped) == sorted(clean.table["texts"][0][0]) != list(swapped)
    check(Noisy, clean=clean)


def test_one_class_and_too_few_samples_are_named():
    targets = staircase(12)[1]
    with pytest.raises(UserError, match="No task can be fitted"):
        ConceptDepth(folds=20).check(targets)
