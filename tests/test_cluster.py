"""Jobs of a sweep on a cluster: submitit's local executor and a Ray cluster of this machine stand for large ones."""

from __future__ import annotations

import json
import os
import signal
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from vlsae import plugins
from vlsae.cli import main
from vlsae.runs import open_run, read_manifest

PLUGIN = ["--plugin", str(Path(__file__).parent / "plugin_files" / "tiny_parts.py")]
LOCAL = ["launcher=slurm", "launcher.cluster=local"]

needs_submitit = pytest.mark.skipif(find_spec("submitit") is None, reason="needs the extra slurm")
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra ray")

#: A dataset that waits within its second shard, the first time that it comes there.
WAITS = """
import os, pathlib, time
from vlsae.plugins import register
from vlsae.datasets.shapes import Shapes

@register("dataset", "waits")
class Waits(Shapes):
    '''Drawn scenes, slow once.'''

    def __init__(self, *, n: int = 24, seed: int = 0, folder: str = "") -> None:
        super().__init__(n=n, seed=seed)
        self.folder = pathlib.Path(folder)

    def images(self, indices):
        mark = self.folder / "waited"
        if min(indices) >= 8 and not mark.exists():
            mark.write_text(str(os.getpid()))
            time.sleep(600)
        return super().images(indices)
"""


@pytest.fixture(autouse=True)
def forgotten():
    """Forget what a test loads."""
    with plugins.loaded():
        yield


def only_sweep(runs_dir: Path) -> dict:
    (record,) = runs_dir.glob("sweeps/*/v*/sweep.json")
    return json.loads(record.read_text())


def until(condition, seconds: float = 280) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "this takes too long"
        time.sleep(0.2)


@needs_submitit
@pytest.mark.slow
def test_slurm_runs_every_job_and_records_it(runs_dir, capsys):
    words = [*PLUGIN, "model=tiny", "dataset.n=24", "model.dimensions=2,3", *LOCAL, "launcher.jobs=2"]
    assert main(["extract", "-m", *words]) == 0
    record = only_sweep(runs_dir)
    assert (record["status"], record["launcher"]) == ("done", "slurm")
    for number, job in enumerate(record["jobs"]):
        manifest = read_manifest(runs_dir / job["run_id"])
        assert (manifest["sweep"], manifest["job"], manifest["status"]) == (record["sweep_id"], number, "done")
        assert f"model.dimensions={number + 2}" in manifest["overrides"]
        assert manifest["command"] == record["command"]
        assert job["cluster_job"].isdigit()


@needs_submitit
@pytest.mark.slow
def test_a_requeued_job_goes_on_in_its_own_run(runs_dir, tmp_path, capsys):
    (tmp_path / "waits_part.py").write_text(WAITS)
    words = [*PLUGIN, "--plugin", str(tmp_path / "waits_part.py"), "model=tiny", "dataset=waits", "dataset.n=24"]
    words += [f"dataset.folder={tmp_path}", "extract.shard_samples=8", "extract.batch_size=8", "hardware.workers=0"]
    assert main(["extract", "-m", *words, *LOCAL, "--detach"]) == 0
    assert "1 jobs submitted" in capsys.readouterr().out.replace("\n", "")
    until((tmp_path / "waited").exists)
    os.kill(int((tmp_path / "waited").read_text()), signal.SIGUSR2)
    until(lambda: only_sweep(runs_dir)["status"] == "done")
    (job,) = only_sweep(runs_dir)["jobs"]
    assert job["run_id"].endswith("/v0001")
    run = open_run(job["run_id"])
    assert run.status == "done"
    assert run.summary["metrics"]["samples"]["value"] == 24
    log = (run.path / "log.txt").read_text()
    assert log.count(" starts") == 2
    assert "was interrupted" in log or "SystemExit" in log
    assert len(list(run.path.parent.glob("v*"))) == 1


@needs_ray
@pytest.mark.slow
@pytest.mark.stress
def test_ray_runs_every_job(runs_dir):
    words = [*PLUGIN, "model=tiny", "dataset.n=24", "model.dimensions=2,3", "launcher=ray"]
    assert main(["extract", "-m", *words]) == 0
    record = only_sweep(runs_dir)
    assert (record["status"], record["launcher"]) == ("done", "ray")
    assert [job["status"] for job in record["jobs"]] == ["done", "done"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["launcher=slurm"], "Add -m"),
        (["--detach"], "Add -m"),
        (["-m", "launcher=joblib", "--detach", "seed=1,2"], "Use launcher=slurm"),
        (["-m", "launcher=slurm", "launcher.gpus=0.5"], "whole GPUs"),
        (["-m", "launcher=slurm", "launcher.time=0"], "launcher.time is 0"),
        (["-m", "launcher=slurm", "logger=wandb", "+logger.api_key=abc"], "logger"),
        (["-m", "launcher=ray", "--detach"], "Use launcher=slurm"),
    ],
)
def test_what_a_cluster_cannot_do_is_refused(runs_dir, capsys, words, expected):
    assert main(["extract", "dataset.n=8", *words]) == 2
    assert expected in capsys.readouterr().err
    assert not runs_dir.exists()


@needs_submitit
def test_a_machine_without_slurm_is_told_so(runs_dir, capsys):
    assert main(["extract", "-m", "launcher=slurm", *PLUGIN, "model=tiny", "dataset.n=8"]) == 2
    assert "launcher.cluster=local" in capsys.readouterr().err
    assert not runs_dir.exists()
