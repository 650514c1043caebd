"""probe=geometry: known shapes are told, maps equal the pairwise measures, and another run is compared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tiny_clip import write_clip
from tiny_lm import write_lm

from vlsae.cli import main
from vlsae.errors import UserError
from vlsae.probes import ccgp, cka, cka_unbiased, rsa
from vlsae.probes.base import Representations
from vlsae.probes.conditions import across_contexts
from vlsae.probes.geometry import Geometry
from vlsae.probes.similarity_maps import similarity_maps
from vlsae.probes.targets import Targets
from vlsae.runs import input_run

GOLDEN = np.load(Path(__file__).parent / "golden" / "probes" / "align.npz")


def test_maps_equal_the_pairwise_measures():
    arrays = [GOLDEN[f"gen_{name}"] for name in "XYZ"]
    maps = similarity_maps(arrays)
    for found, measure in zip(maps, (cka, cka_unbiased, rsa)):
        pairwise = [[measure(a, b) for b in arrays] for a in arrays]
        np.testing.assert_allclose(found, pairwise, atol=1e-10)
    assert maps.cka[2, 0] == pytest.approx(float(GOLDEN["gen_cka_zx"]), abs=1e-10)
    assert maps.rsa[2, 1] == pytest.approx(float(GOLDEN["gen_rsa_zy"]), abs=1e-10)


def test_maps_of_rows_that_are_all_alike_are_undefined():
    maps = similarity_maps([np.ones((6, 3)), np.random.default_rng(0).normal(size=(6, 2))])
    assert np.isnan(maps.cka[0, 1])
    assert np.isnan(maps.cka_unbiased[0, 1])
    assert maps.cka[1, 1] == pytest.approx(1)
    with pytest.raises(UserError, match="as many rows as representation 0"):
        similarity_maps([np.ones((6, 3)), np.ones((5, 3))])


def world(n=240, seed=0):
    """Return three layers: noise of 12 dimensions, both factors apart on a plane, and only their xor."""
    generator = np.random.default_rng(seed)
    a, b = generator.integers(0, 2, (2, n))
    noise = generator.normal(size=(3, n, 12))
    apart = np.zeros((n, 12))
    apart[:, 0], apart[:, 1] = 6 * a, 6 * b
    mixed = np.zeros((n, 12))
    mixed[:, 0] = 6 * (a ^ b)
    labels = [{"a": int(one), "b": int(other)} for one, other in zip(a, b)]
    samples = pa.table({"sample_id": [f"s{row}" for row in range(n)], "labels": labels, "split": ["train"] * n})
    sites = {"vision.0": noise[0], "vision.1": apart + 0.3 * noise[1], "vision.2": mixed + 0.3 * noise[2]}
    return Representations.of_arrays(sites, samples), Targets(samples)


def test_known_shapes_are_told():
    metrics = Geometry(blocks=5).measure(*world()).metrics
    assert metrics["participation_ratio/vision.0"].value == pytest.approx(12, abs=1)
    assert metrics["participation_ratio/vision.1"].value == pytest.approx(2, abs=0.2)
    assert metrics["participation_ratio/vision.2"].value == pytest.approx(1, abs=0.4)
    assert metrics["input_alignment/vision.0"].value == pytest.approx(1)
    assert metrics["ccgp/a|b/vision.1"].value > 0.99
    assert metrics["parallelism/a|b/vision.1"].value > 0.95
    assert metrics["shattering/a|b/vision.0"].low < 0.5 < metrics["shattering/a|b/vision.0"].high
    # Two factors on a plane: both and not their xor are linearly readable; the xor alone: only it.
    assert metrics["ccgp/a xor b/vision.1"].value < 0.3
    assert metrics["shattering/a|b/vision.1"].value == pytest.approx(5 / 6, abs=0.12)
    assert metrics["ccgp/a xor b/vision.2"].value > 0.99
    assert metrics["ccgp/a|b/vision.2"].value < 0.3
    alignment = metrics["target_alignment/a/vision.1"]
    assert alignment.low < alignment.value < alignment.high
    assert alignment.value > metrics["target_alignment/a/vision.0"].high


def test_contexts_are_folds_of_the_general_measure():
    """Across contexts the folds are those of ``ccgp``; without a block, those of the other rows."""
    representations, targets = world(80)
    x = representations.rows("vision.1").read().numpy()[:, :4]
    conditions = (2 * targets.select(["a"])[0].values + targets.select(["b"])[0].values).astype(int)
    blocks = np.arange(80) % 4
    found = across_contexts(x, conditions, blocks)
    for row, kept in enumerate([np.arange(80), *(np.flatnonzero(blocks != block) for block in range(4))]):
        for number, (positive, negative, folds) in enumerate(
            [([2, 3], [0, 1], [0, 3]), ([1, 3], [0, 2], [0, 3]), ([1, 2], [0, 3], [0, 1, 2, 3])]
        ):
            general = ccgp(x[kept], conditions[kept], positive, negative).folds[folds].mean()
            assert found[row, number] == pytest.approx(general, abs=1e-9)
    with pytest.raises(UserError, match=r"Condition \d must have rows in at least two blocks"):
        across_contexts(x, conditions, (conditions == 3).astype(int))


def test_factors_that_never_meet_are_no_pair_and_it_is_said():
    representations, targets = world(60)
    table = targets.samples.set_column(1, "labels", pa.array([{"a": row % 2, "b": (row + 1) % 2} for row in range(60)]))
    result = Geometry(blocks=5).measure(representations, Targets(table))
    assert any("No two binary targets" in note for note in result.notes)
    assert not any(name.startswith("ccgp") for name in result.metrics)


def test_a_site_that_does_not_vary_is_no_input():
    representations, targets = world(60)
    sites = {site: rows.read() for site, rows in representations}
    still = Representations.of_arrays({"vision.before": np.ones((60, 3)), **sites}, targets.samples)
    result = Geometry(blocks=5).measure(still, targets)
    assert result.metrics["input_alignment/vision.0"].value == pytest.approx(1)
    assert "the input is vision.0" in result.notes[0]


def test_mistakes_are_named():
    representations, targets = world(60)
    with pytest.raises(UserError, match=r"There is no site 'pixels'"):
        Geometry(input="pixels").measure(representations, targets)
    with pytest.raises(UserError, match="60 groups of samples for 80 blocks"):
        Geometry(blocks=80).check(targets)


def test_another_run_is_compared_sample_by_sample(tmp_path, capsys):
    words = ["dataset.n=60", f"runs_dir={tmp_path}", "split.validation=0.2"]
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        checkpoint = f"model.checkpoint=path:{write_clip(folder)}"
        assert main(["extract", checkpoint, *words, "--layer", "1", "--name", name]) == 0
    probe = ["probe", "probe=geometry", f"runs_dir={tmp_path}", "--run", "extract/one/latest", "probe.pairs=0"]
    assert main([*probe, "probe.other=extract/two/latest", "probe.samples=40", "--name", "both"]) == 0
    path = input_run("probe/both/latest", tmp_path).path
    rows = (path / "tables" / "similarity.csv").read_text().splitlines()
    assert any("vision.1,other:vision.1" in row for row in rows)
    assert "participation_ratio/vision.1" in json.loads((path / "summary.json").read_text())["metrics"]
    capsys.readouterr()
    assert main([*probe, "probe.other=extract/three/latest"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_samples_of_one_name_and_other_texts_are_told(tmp_path):
    generator = np.random.default_rng(0)
    model = f"model.checkpoint=path:{write_lm(tmp_path)}"
    for name in ("one", "two"):
        lines = (f"{' '.join(generator.choice(['a', 'cat', 'sat', 'on', 'mats'], 6))}" for _ in range(40))
        (tmp_path / f"{name}.csv").write_text("text\n" + "\n".join(lines) + "\n", encoding="utf-8")
        words = ["model=lm", model, "dataset=text", f"dataset.path={tmp_path / name}.csv", "--layer", "1"]
        assert main(["extract", *words, "--name", name, f"runs_dir={tmp_path}"]) == 0
    probe = ["probe", "probe=geometry", f"runs_dir={tmp_path}", "--run", "extract/one/latest", "probe.pairs=0"]
    for other, expected in (("one", False), ("two", True)):
        assert main([*probe, f"probe.other=extract/{other}/latest", "--name", f"beside-{other}"]) == 0
        found = json.loads((input_run(f"probe/beside-{other}/latest", tmp_path).path / "result.json").read_text())
        assert any("samples have other texts in the other run" in note for note in found["notes"]) is expected
