"""probe=information_plane: the task is the published one, networks train alike alone and together, estimators agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vlsae.cli import main
from vlsae.errors import UserError
from vlsae.probes import mi_kde
from vlsae.probes.base import Representations
from vlsae.probes.icosahedron import icosahedron_task
from vlsae.probes.information_plane import ESTIMATORS, InformationPlane
from vlsae.probes.nearest_information import mi_nearest
from vlsae.probes.network_batch import NetworkBatch
from vlsae.runs import input_run

FOLDER = Path(__file__).parent / "golden" / "probes"


def test_the_task_is_the_published_one():
    stored = np.load(FOLDER / "ib_task.npz")
    inputs, labels = icosahedron_task()
    assert labels.mean() == 0.51708984375
    assert (inputs[1] == [0] * 11 + [1]).all()
    np.testing.assert_array_equal(labels, np.unpackbits(stored["labels_packed"]))


def test_nearest_neighbours_tell_known_information():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 2000)
    noise = generator.normal(size=(2000, 1))
    assert mi_nearest(noise, labels) == pytest.approx(0, abs=0.03)
    assert mi_nearest(noise + 100 * labels[:, None], labels) == pytest.approx(1, abs=0.02)
    # Two normals a distance of 2 apart: by quadrature.
    grid = np.linspace(-8, 10, 20001)
    densities = [np.exp(-((grid - mean) ** 2) / 2) / np.sqrt(2 * np.pi) for mean in (0, 2)]
    mixed = (densities[0] + densities[1]) / 2
    known = sum(0.5 * np.trapezoid(one * np.log2(one / mixed), grid) for one in densities)
    assert mi_nearest(noise + 2 * labels[:, None], labels) == pytest.approx(known, abs=0.05)
    with pytest.raises(UserError, match="at least 2 rows"):
        mi_nearest(noise[:3], np.arange(3))


def test_nearest_neighbours_lie_between_the_gaussian_bounds():
    generator = np.random.default_rng(1)
    t = np.tanh(3 * generator.normal(size=(400, 3)))
    bounds = mi_kde(t, np.zeros(400, dtype=int), 0.05)
    noisy = np.tile(t, (4, 1)) + np.sqrt(0.05) * generator.normal(size=(1600, 3))
    found = mi_nearest(noisy, np.tile(np.arange(400), 4), 3)
    assert bounds.i_xt_lower - 0.1 < found < bounds.i_xt_upper + 0.1


def test_networks_of_a_batch_are_those_alone():
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    batch = NetworkBatch(3, [5, 4, 2], "tanh", seed=1)
    layers = batch.layers(x)
    for network in range(3):
        weights = [(w[network], b[network]) for w, b in zip(batch.weights, batch.biases)]
        hidden = torch.tanh(x @ weights[0][0] + weights[0][1])
        torch.testing.assert_close(layers[0][network], hidden)
        torch.testing.assert_close(layers[1][network], hidden @ weights[1][0] + weights[1][1])
    assert not torch.equal(layers[1][0], layers[1][1])


def test_a_short_training_gives_every_number():
    probe = InformationPlane(networks=2, epochs=30, points=4, rows=64, learning_rate=5e-3, activations=["tanh"])
    result = probe.measure(Representations(seed=0), None)
    rows = [dict(zip(result.tables[1].columns, row)) for row in result.tables[1].rows]
    assert {row["estimator"] for row in rows} == set(ESTIMATORS)
    assert all(-0.2 <= row["I(X;T)"] <= 12.0 + 1e-9 for row in rows)
    assert result.metrics["accuracy/tanh"].value > 0.75
    edges = [row for row in rows if row["estimator"] == "edges" and row["epoch"] == 30]
    # A deterministic layer holds no more of the input than the one before it.
    by_layer = [np.mean([row["I(X;T)"] for row in edges if row["layer"] == f"layer {k}"]) for k in (1, 3, 5)]
    assert by_layer[0] > by_layer[1] > by_layer[2]
    assert any(note.startswith("edges:") for note in result.notes)


def test_it_reads_no_run(tmp_path, figures_drawn, capsys):
    words = ["probe", "probe=information_plane", f"runs_dir={tmp_path}"]
    small = ["probe.networks=2", "probe.epochs=3", "probe.points=2", "probe.rows=32", "probe.activations=[relu]"]
    assert main([*words, *small]) == 0
    assert (input_run("probe/information_plane/latest", tmp_path).path / "figures" / "plane.svg").is_file()
    capsys.readouterr()
    assert main([*words, "probe.activations=[sigmoid]"]) == 2
    assert "Traceback" not in capsys.readouterr().err
