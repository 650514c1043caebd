"""scripts/reproduce.py: every experiment is there, and one that is run tells its numbers."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

from vlsae.groups import choices

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
import reproduce


def test_every_experiment_named_has_its_configuration():
    assert set(reproduce.EXPERIMENTS) <= set(choices("experiment", plugins=False))


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
