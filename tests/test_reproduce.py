"""scripts/reproduce.py: every experiment is there, and one that is run tells its numbers."""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vlsae.groups import choices

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
import reproduce

CONFIGS = Path(__file__).parent.parent / "configs" / "experiment"


def test_every_experiment_named_has_its_configuration():
    assert set(reproduce.EXPERIMENTS) <= set(choices("experiment", plugins=False))


def test_every_experiment_of_a_probe_is_run_again():
    probes = {one.stem for one in CONFIGS.glob("*.yaml") if "override /probe:" in one.read_text(encoding="utf-8")}
    assert probes == {name for name, one in reproduce.EXPERIMENTS.items() if one.stage == "probe"}


def test_a_network_is_trained_and_probed_once_a_seed(tmp_path, monkeypatch):
    """Tagged text of random words, one seed."""
    drawn = np.random.default_rng(0).integers(0, 24, (60, 12))
    tagged = "".join(
        "".join(f"{place}\tw{word}\t_\t{('DET', 'NOUN', 'VERB')[word % 3]}\n" for place, word in enumerate(one, 1))
        + "\n"
        for one in drawn
    )
    for name in (reproduce.READ, reproduce.TAGGED):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(tagged, encoding="utf-8")
    (tmp_path / reproduce.NOVEL).parent.mkdir()
    (tmp_path / reproduce.NOVEL).write_text("w1 w2 w3 w4 " * 400, encoding="utf-8")
    one = reproduce.EXPERIMENTS["word_class"]
    small = {
        "train": ["train.epochs=1", "objective.words=8", "objective.width=8"],
        "probe": ["probe.permutations=19", "probe.fewest=3", "probe.map=none", "probe.untrained=false"],
    }
    whole = reproduce.finished
    monkeypatch.setattr(reproduce, "finished", lambda stage, name, own: whole(stage, name, [*own, *small[stage]]))
    monkeypatch.setenv("VLSAE_RUNS", str(tmp_path / "runs"))
    rows = reproduce.measured("word_class", replace(one, seeds=(3,)), tmp_path, [])
    found = {row[2]: row[3:] for row in rows}
    value, interval = found["gdv/next_class/language.2, seed 3"]
    assert " to " in interval
    # A single network leaves the mean over networks without an interval.
    assert found["gdv/next_class/language.2, over seeds"] == [value, "– to –"]


def test_a_run_gives_its_rows(tmp_path, monkeypatch):
    small = ["probe.conditions=8", "probe.networks=2", "probe.steps=2", "probe.points=2", "probe.width=8"]
    monkeypatch.setenv("VLSAE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "geometry_tasks", "--out", str(tmp_path / "rows.csv"), *small])
    assert reproduce.main() == 0
    rows = list(csv.DictReader((tmp_path / "rows.csv").open()))
    assert {row["number"].split("/")[0] for row in rows} == {"target_alignment_gap"}
    assert all(" to " in row["interval"] for row in rows)


def test_an_unknown_experiment_and_missing_data_are_named(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "geometry"])
    with pytest.raises(SystemExit):
        reproduce.main()
    assert "there is no experiment 'geometry'" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "concept_depth"])
    assert reproduce.main() == 0
    assert "is left out: it needs --data" in capsys.readouterr().out
