"""probe=information_series: the models that a training kept, each measured on one scale."""

from __future__ import annotations

import csv
import json

import numpy as np
import pyarrow as pa
import pytest
from tiny_lm import write_lm

from vlsae.cli import main
from vlsae.dictionaries import from_pretrained
from vlsae.probes.base import Representations
from vlsae.probes.information_series import ESTIMATORS, InformationSeries
from vlsae.probes.targets import Targets
from vlsae.runs import input_run
from vlsae.training.series import kept_steps, series_of

NOUNS, VERBS = ["cat", "dog", "cow", "hen"], ["sat", "ran", "ate", "hid"]


@pytest.mark.parametrize(("total", "kept"), [(1, 2), (10, 2), (100, 6), (7, 20)])
def test_kept_steps_hold_the_start_and_the_end(total, kept):
    steps = kept_steps(total, kept)
    assert steps[0] == 0
    assert total in steps or kept == 2
    assert len(steps) <= kept
    assert steps == sorted(set(steps))


def _rows(noise: float, size: int = 120) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    label = np.arange(size) % 2
    x = generator.normal(size=(size, 6)) * 0.3
    x[:, 0] += 3 * label
    return x + noise * generator.normal(size=x.shape), label


def test_a_series_that_comes_to_hold_the_label_alone_gains_label_and_loses_input_information():
    rows, label = _rows(0)
    alone = np.zeros_like(rows)
    alone[:, 0] = 3 * label
    samples = pa.table({"sample_id": [str(k) for k in range(120)], "labels": [{"y": "ab"[one]} for one in label]})
    start = _rows(3)[0]
    series = {"0": start, "10": rows}
    variants = {name: Representations.of_arrays({"language.1": x}, samples) for name, x in series.items()}
    representations = Representations.of_arrays({"language.1": alone}, samples, variants=variants)
    result = InformationSeries().measure(representations, Targets(samples))
    found = {name: measure.value for name, measure in result.metrics.items()}
    for estimator in ESTIMATORS:
        assert result.metrics[f"compression/language.1/{estimator}"].low > 0.5, estimator
    assert found["label_information/y/language.1"] == pytest.approx(1, abs=0.05)
    rows_of = [dict(zip(result.tables[1].columns, row)) for row in result.tables[1].rows]
    linear = [row["I(T;Y)"] for row in rows_of if row["estimator"] == "linear"]
    assert linear[0] < 0.5 < linear[1]
    ends = {row["estimator"]: row for row in rows_of if row["model"] == "model"}
    # Two points a distance apart hold one bit, whatever reads them.
    for estimator in ("bins", "kde upper", "kde lower"):
        assert ends[estimator]["I(X;T)"] == pytest.approx(1, abs=0.02)
        assert ends[estimator]["I(T;Y)"] == pytest.approx(1, abs=0.02)


def test_a_series_of_models_alike_loses_nothing():
    rows, label = _rows(0.2)
    samples = pa.table({"sample_id": [str(k) for k in range(120)], "labels": [{"y": "ab"[one]} for one in label]})
    same = Representations.of_arrays({"vision.1": rows}, samples)
    result = InformationSeries().measure(
        Representations.of_arrays({"vision.1": rows}, samples, variants={"0": same}), Targets(samples)
    )
    assert all(result.metrics[f"compression/vision.1/{one}"].value == 0 for one in ESTIMATORS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the runs' folder with a small language model's training that kept five models, and its table of texts."""
    folder = tmp_path_factory.mktemp("series")
    with (folder / "texts.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "last"])
        for number in range(96):
            words = [NOUNS[number % 4], VERBS[number // 4 % 4]]
            writer.writerow([f"the {words[0]} {words[1]} {number}", words[1]])
    data = ["dataset=text", f"dataset.path={folder / 'texts.csv'}", "dataset.columns.label=last"]
    words = [
        "objective=next_token",
        f"objective.architecture={write_lm(folder)}",
        "train.batch_size=16",
        "train.epochs=4",
    ]
    assert main(["train", "model=lm", *words, *data, f"runs_dir={folder}", "--name", "small", "train.keep=5"]) == 0
    return folder, data


def test_every_kept_model_is_probed(trained, capsys):
    folder, data = trained
    run = input_run("train/small/latest", folder)
    steps = list(series_of(run.path))
    assert steps[0] == 0
    assert len(steps) == 5
    words = ["model=lm", f"model.checkpoint=path:{run.path / 'model'}", *data, f"runs_dir={folder}", "--layer", "1"]
    words += ["extract.tokens.pooling=last", "probe=information_series", "probe.blocks=4", "probe.samples=60"]
    assert main(["probe", *words, "probe.run=train/small/latest", "--name", "plane"]) == 0, capsys.readouterr().err
    path = input_run("probe/plane/latest", folder).path
    table = list(csv.DictReader((path / "tables" / "plane.csv").open()))
    assert list(dict.fromkeys(row["model"] for row in table)) == [*map(str, steps), "model"]
    last = {row["model"]: row["I(T;Y)"] for row in table if row["estimator"] == "linear"}
    # The last kept is the model at the end, unless an earlier epoch was the best.
    assert len(set(last.values())) >= 5
    assert len(json.loads((path / "manifest.json").read_text())["parents"]) >= 5


def test_a_training_that_kept_nothing_is_refused(trained, capsys):
    folder, data = trained
    run = input_run("train/small/latest", folder)
    words = ["objective=next_token", f"objective.architecture={run.path / 'model'}", "train.epochs=1", "--limit", "24"]
    assert main(["train", "model=lm", *words, *data, f"runs_dir={folder}", "--name", "bare"]) == 0
    capsys.readouterr()
    words = ["model=lm", f"model.checkpoint=path:{run.path / 'model'}", *data, f"runs_dir={folder}"]
    assert main(["probe", "probe=information_series", *words, "probe.run=train/bare/latest"]) == 2
    assert "kept no models of its training" in capsys.readouterr().err
    assert main(["train", "model=lm", "train.keep=1", *data, f"runs_dir={folder}"]) == 2
    assert "train.keep" in capsys.readouterr().err


def test_a_dictionary_keeps_its_series_too(tmp_path):
    words = ["model=clip", "--limit", "160", f"runs_dir={tmp_path}", "train.epochs=2", "train.batch_size=32"]
    small = ["objective.n_concepts=32", "objective.k=4", "train.evaluate.names=false", "train.evaluate.bootstrap=10"]
    assert main(["train", *words, *small, "--name", "sae", "train.keep=3"]) == 0
    run = input_run("train/sae/latest", tmp_path)
    first, *_, last = (from_pretrained(folder) for folder in series_of(run.path).values())
    assert first.n_concepts == 32
    assert any((a != b).any() for a, b in zip(first.parameters(), last.parameters()))
    words = ["probe=information_series", "probe.targets=['size=large']", "probe.samples=60", "probe.blocks=4"]
    assert main(["probe", *words, "--run", "train/sae/latest", f"runs_dir={tmp_path}", "--name", "sae"]) == 0
    table = list(csv.DictReader((input_run("probe/sae/latest", tmp_path).path / "tables" / "plane.csv").open()))
    assert {row["site"] for row in table} == {"vision.embedding.concepts", "language.embedding.concepts"}
    assert len({row["model"] for row in table}) == 4
