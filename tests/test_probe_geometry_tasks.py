"""probe=geometry_tasks: tasks have the alignment asked for, and activations differ where they should and only there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vlsae.cli import main
from vlsae.errors import UserError
from vlsae.probes import ccgp, cka
from vlsae.probes.base import Representations
from vlsae.probes.geometry_tasks import GeometryTasks
from vlsae.probes.hadamard import hadamard_task, unstructured
from vlsae.runs import input_run

FOLDER = Path(__file__).parent / "golden" / "probes"


@pytest.mark.parametrize(("k", "c"), [(1, 0.0), (1, 0.09), (1, 0.18), (5, 0.0), (5, 0.201), (5, 0.402), (3, 0.8)])
def test_inputs_have_norm_one_and_the_alignment_asked_for(k, c):
    x, y = hadamard_task(32, k, c)
    assert x.shape == (32, 31)
    assert y.shape == (32, k)
    np.testing.assert_allclose((x**2).sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-12)
    assert cka(x, y) == pytest.approx(c, abs=1e-6)


def test_the_task_is_the_stored_one_but_for_the_order_of_columns():
    stored = np.load(FOLDER / "align.npz")
    x, y = hadamard_task(32, 5, float(stored["c"]))
    gram = np.sort(np.linalg.eigvalsh(x @ x.T + y @ y.T))
    np.testing.assert_allclose(
        gram, np.sort(np.linalg.eigvalsh(stored["X"] @ stored["X"].T + stored["Y"] @ stored["Y"].T))
    )
    assert cka(x, y) == pytest.approx(float(stored["cka_xy"]), abs=1e-10)


def test_unstructured_inputs_are_equally_far_apart():
    x, _ = hadamard_task(16, 4, unstructured(16, 4))
    gram = x @ x.T
    np.testing.assert_allclose(gram[~np.eye(16, dtype=bool)], gram[0, 1], atol=1e-12)


@pytest.mark.parametrize(
    ("conditions", "labels", "alignment"), [(6, 1, 0), (8, 7, 0), (8, 0, 0), (8, 1, 1.0), (8, 1, -0.1)]
)
def test_tasks_that_cannot_be_are_refused(conditions, labels, alignment):
    with pytest.raises(UserError, match="must be"):
        hadamard_task(conditions, labels, alignment)


def test_some_folds_of_generalisation_hold_each_condition_out_once():
    generator = np.random.default_rng(0)
    conditions = np.repeat(np.arange(8), 12)
    x = generator.normal(size=(8, 6))[conditions] + 0.4 * generator.normal(size=(96, 6))
    positive, negative = [0, 1, 2, 3], [4, 5, 6, 7]
    every, some = (ccgp(x, conditions, positive, negative, most=most) for most in (None, 4))
    np.testing.assert_allclose(some.folds, every.folds[[0, 5, 10, 15]])


def test_tanh_takes_on_the_targets_geometry_and_relu_keeps_the_inputs():
    probe = GeometryTasks(labels=[5], alignments=1, networks=3, points=3, steps=200)
    result = probe.measure(Representations(seed=0), None)
    rows = {row[1]: dict(zip(result.tables[0].columns, row)) for row in result.tables[0].rows}
    assert rows["tanh"]["accuracy"] > 0.99
    assert rows["relu"]["accuracy"] > 0.99
    assert result.metrics["target_alignment_gap/k=5 c=0.00"].low > 0.08
    assert result.metrics["input_alignment_gap/k=5 c=0.00"].high < -0.05
    assert rows["tanh"]["participation ratio"] < rows["relu"]["participation ratio"] - 2
    training = [dict(zip(result.tables[3].columns, row)) for row in result.tables[3].rows]
    first = np.mean([row["targets"] for row in training if row["step"] == 0])
    last = np.mean([row["targets"] for row in training if row["step"] == 200])
    assert last > first + 0.2
    assert any("does not show" in note or "holds" in note for note in result.notes)


def test_xor_of_three_bits_shows_no_difference():
    probe = GeometryTasks(conditions=8, labels=[1], alignments=1, networks=3, points=2, steps=200)
    result = probe.measure(Representations(seed=0), None)
    assert abs(result.metrics["target_alignment_gap/k=1 c=0.00"].value) < 0.05
    assert any("does not show" in note for note in result.notes)


def test_it_reads_no_run_and_refuses_too_many_labels(tmp_path, figures_drawn, capsys):
    words = ["probe", "probe=geometry_tasks", f"runs_dir={tmp_path}", "probe.conditions=8", "probe.networks=2"]
    small = ["probe.steps=2", "probe.points=2", "probe.batch_size=8", "probe.width=8", "probe.activations=[elu]"]
    assert main([*words, *small]) == 0
    assert (input_run("probe/geometry_tasks/latest", tmp_path).path / "figures" / "plane.svg").is_file()
    capsys.readouterr()
    assert main([*words, "probe.labels=[7]"]) == 2
    assert "8 conditions have 6 labels at most" in capsys.readouterr().err
