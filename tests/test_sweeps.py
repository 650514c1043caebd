"""Sweeps through Hydra's launchers: what runs, what is recorded, what is shared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vlsae import plugins
from vlsae.cli import main
from vlsae.commands.sweeps import expand
from vlsae.errors import UserError
from vlsae.sweep_record import claim_sweep, finish_sweep, read_sweep, record_job

PLUGIN = ["--plugin", str(Path(__file__).parent / "plugin_files" / "tiny_parts.py")]
TINY = [*PLUGIN, "model=tiny", "dataset.n=24"]


@pytest.fixture(autouse=True)
def forgotten():
    """Forget what a test loads."""
    with plugins.loaded():
        yield


def only_sweep(runs_dir: Path) -> tuple[Path, dict]:
    (record,) = runs_dir.glob("sweeps/*/v*/sweep.json")
    return record.parent, json.loads(record.read_text())


def manifest_of(runs_dir: Path, run_id: str) -> dict:
    return json.loads((runs_dir / run_id / "manifest.json").read_text())


def test_jobs_are_the_combinations_in_hydras_order():
    jobs = expand(["model=clip", "seed=1,2", "objective.k=choice(3,4)", "train.lr=range(1,3)"])
    assert len(jobs) == 8
    assert jobs[0] == ["model=clip", "seed=1", "objective.k=3", "train.lr=1"]
    assert jobs[1] == ["model=clip", "seed=1", "objective.k=3", "train.lr=2"]
    assert expand(["model=clip"]) == [["model=clip"]]
    with pytest.raises(UserError, match="choose a sweeper"):
        expand(["train.lr=interval(1,3)"])


def test_sweep_one_after_another(runs_dir, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["extract", "-m", *TINY, "model.dimensions=2,3", "--name", "sizes"]) == 0
    folder, record = only_sweep(runs_dir)
    assert record["sweep_id"] == "sweeps/extract-sizes/v0001"
    assert record["status"] == "done"
    assert record["launcher"] == "local"
    ids = [job["run_id"] for job in record["jobs"]]
    assert ids == ["extract/sizes/v0001", "extract/sizes/v0002"]
    for number, run_id in enumerate(ids):
        manifest = manifest_of(runs_dir, run_id)
        assert (manifest["sweep"], manifest["job"], manifest["status"]) == (record["sweep_id"], number, "done")
        assert manifest["choices"]["model"] == "tiny"
        assert f"model.dimensions={number + 2}" in manifest["overrides"]
        assert record["jobs"][number]["overrides"] == manifest["overrides"]
    # Hydra leaves nothing behind: no output folders, no logs, no multirun.yaml.
    assert list(tmp_path.iterdir()) == [runs_dir]
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    assert names == ["figures", "report.html", "sweep.json", "tables"]
    printed = capsys.readouterr().out.replace("\n", "")
    assert str(folder / "sweep.json") in printed
    assert str(folder / "report.html") in printed


def test_a_failing_job_leaves_the_others_alone(runs_dir, tmp_path, capsys):
    (tmp_path / "picky_part.py").write_text(
        "from vlsae.errors import UserError\nfrom vlsae.plugins import register\n"
        "from vlsae.datasets.shapes import Shapes\n"
        "@register('dataset', 'picky')\nclass Picky(Shapes):\n    '''Picky.'''\n"
        "    def images(self, indices):\n"
        "        if len(self) == 7:\n            raise UserError('seven is too many')\n"
        "        return super().images(indices)\n"
    )
    words = [*PLUGIN, "--plugin", str(tmp_path / "picky_part.py"), "model=tiny", "dataset=picky", "dataset.n=6,7,8"]
    assert main(["extract", "-m", *words]) == 2
    _, record = only_sweep(runs_dir)
    assert record["status"] == "failed"
    assert [job["status"] for job in record["jobs"]] == ["done", "failed", "done"]
    failed = record["jobs"][1]
    assert failed["error"] == "seven is too many"
    assert manifest_of(runs_dir, failed["run_id"])["status"] == "failed"


def test_nothing_starts_when_a_job_is_wrong(runs_dir, capsys):
    assert main(["extract", "-m", *TINY, "model.dimensions=2,1"]) == 2
    assert "model.dimensions is 1" in capsys.readouterr().err
    assert main(["extract", "-m", *TINY, "--dry-run", "model.dimensions=2,3"]) == 0
    assert "job 1: model=tiny dataset.n=24 model.dimensions=3" in capsys.readouterr().out
    assert not runs_dir.exists()


@pytest.mark.slow
def test_two_jobs_at_once_share_one_extraction(runs_dir):
    words = ["train", "-m", *TINY, "objective=my_sae", "objective.k=1,2", "launcher=joblib"]
    quick = ["train.epochs=1", "train.batch_size=8", "train.evaluate.bootstrap=2", "train.evaluate.concepts=1"]
    done = subprocess.run(
        [sys.executable, "-m", "vlsae.cli", *words, *quick],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    _, record = only_sweep(runs_dir)
    assert record["launcher"] == "joblib"
    manifests = [manifest_of(runs_dir, job["run_id"]) for job in record["jobs"]]
    assert [manifest["parents"] for manifest in manifests] == [["extract/tiny-shapes/v0001"]] * 2
    assert len(list(runs_dir.glob("extract/*/v*"))) == 1


def claimed(root: Path) -> Path:
    jobs = [["seed=1", "logger.token=abc"], ["seed=2"]]
    return claim_sweep(
        root, "one", stage="train", command=["vlsae"], overrides=["seed=1,2"], jobs=jobs, launcher="local"
    )


def test_versions_are_never_used_twice(tmp_path):
    folders = [claimed(tmp_path) for _ in range(3)]
    assert [folder.name for folder in folders] == ["v0001", "v0002", "v0003"]


def test_record_of_an_interrupted_sweep(tmp_path):
    folder = claimed(tmp_path)
    assert read_sweep(folder)["jobs"][0]["overrides"] == ["seed=1", "logger.token=***"]
    record_job(folder, 0, status="running", overrides=["seed=1"])
    record = finish_sweep(folder, interrupted=True)
    assert record["status"] == "interrupted"
    assert [job["status"] for job in record["jobs"]] == ["interrupted", "waiting"]


def test_damaged_record_is_named(tmp_path):
    folder = claimed(tmp_path)
    (folder / "sweep.json").write_text("{")
    with pytest.raises(UserError, match=r"sweep\.json is damaged"):
        read_sweep(folder)
