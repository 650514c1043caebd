"""Naming as a stage: at the end of a training, and alone with the dictionary's run left as it is."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from tiny_clip import write_clip
from tiny_lm import CHAT, write_lm

from vlsae import plugins
from vlsae.cli import main
from vlsae.dictionaries.naming import read_names
from vlsae.runs.inventory import changed_files

PLUGIN = ["--plugin", str(Path(__file__).parent / "plugin_files" / "tiny_parts.py")]
QUICK = ["train.epochs=1", "train.batch_size=32", "train.evaluate.bootstrap=2", "train.evaluate.concepts=2"]


@pytest.fixture(autouse=True)
def forgotten():
    """Forget what a test loads."""
    with plugins.loaded():
        yield


@pytest.mark.slow
def test_a_training_names_its_concepts_and_the_probe_leaves_it_alone(runs_dir, capsys):
    words = [*PLUGIN, "model=tiny", "model.dimensions=8", "dataset.n=300", "objective=my_sae", "objective.k=2"]
    assert main(["train", *words, *QUICK, "--name", "one"]) == 0
    run = runs_dir / "train/one/v0001"
    summary = json.loads((run / "summary.json").read_text())["metrics"]
    assert summary["naming/tested"]["value"] > 0
    assert summary["naming/score"]["low"] <= summary["naming/score"]["value"] <= summary["naming/score"]["high"]
    assert 0.3 < summary["naming/score/shuffled"]["value"] < 0.7
    names = read_names(run)
    concepts = [json.loads(line) for line in (run / "concepts.jsonl").read_text().splitlines()]
    assert [concept["name"] for concept in concepts] == [names[concept["id"]].name for concept in concepts]
    assert sum(name.name is not None for name in names.values()) == summary["naming/named"]["value"]

    assert main(["probe", *PLUGIN, "probe=naming", "--run", "train/one/latest"]) == 0
    assert "naming/score" in capsys.readouterr().out
    manifest = json.loads((run / "manifest.json").read_text())
    assert changed_files(run, manifest["files"]) == []
    (probe,) = runs_dir.glob("probe/*/v0001")
    with (probe / "tables/names.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["concept"]) for row in rows] == list(range(len(concepts)))
    assert {"factor", "name_says", "agrees", "score_vision", "score_language"} <= rows[0].keys()
    assert all((row["name"] == row["proposed"]) or row["name"] == "unnamed" for row in rows)
    assert (probe / "figures/name_rates.csv").is_file()


@pytest.mark.slow
def test_an_independent_encoder_scores_the_names_too(runs_dir, tmp_path):
    words = [*PLUGIN, "model=tiny", "model.dimensions=8", "dataset.n=200", "objective=my_sae", "objective.k=2"]
    assert main(["train", *words, *QUICK, "--name", "two"]) == 0
    encoder = f"path:{write_clip(tmp_path / 'clip')}"
    assert main(["probe", *PLUGIN, "probe=naming", "--run", "train/two/latest", f"probe.encoder={encoder}"]) == 0
    (probe,) = runs_dir.glob("probe/*/v0001")
    assert len(json.loads((probe / "manifest.json").read_text())["parents"]) == 2
    metrics = json.loads((probe / "summary.json").read_text())["metrics"]
    # An encoder of random weights tells names hardly apart: a concept's own scores about as the others do.
    own, others = (metrics[f"naming/encoder_score{part}"]["value"] for part in ("", "/shuffled"))
    assert own == pytest.approx(others, abs=0.2)
    with (probe / "tables/names.csv").open(newline="") as stream:
        assert any(row["score_encoder"] for row in csv.DictReader(stream))


@pytest.mark.slow
def test_a_local_language_model_proposes_and_judges(runs_dir, tmp_path):
    words = [*PLUGIN, "model=tiny", "model.dimensions=8", "dataset.n=120", "objective=my_sae", "objective.k=2"]
    assert main(["train", *words, *QUICK, "--name", "three", "train.evaluate.names=false"]) == 0
    chat = write_lm(tmp_path / "chat", "llama", chat=CHAT)
    config = json.loads((chat / "config.json").read_text())
    # Requests of ten texts are longer than what the tiny model was made for.
    (chat / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 16384}))
    asked = ["probe.namer=transformers", f"probe.language_model={chat}", "probe.most_concepts=2"]
    assert main(["probe", *PLUGIN, "probe=naming", "--run", "train/three/latest", *asked]) == 0
    (probe,) = runs_dir.glob("probe/*/v0001")
    with (probe / "tables/names.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    # A model of random weights proposes noise, which no row fits, so that nothing gets a name.
    assert sum(bool(row["proposed"]) for row in rows) == 2
    assert {row["name"] for row in rows} == {"unnamed"}


def test_names_can_be_left_out(runs_dir):
    words = [*PLUGIN, "model=tiny", "dataset.n=60", "objective=my_sae", "train.evaluate.names=false"]
    assert main(["train", *words, *QUICK, "--name", "none"]) == 0
    assert not (runs_dir / "train/none/v0001/tables/names.csv").exists()
