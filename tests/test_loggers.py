"""Second homes of metrics: none, and Weights & Biases without a network."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vlsae.config import build, compose, resolved
from vlsae.environment import with_environment
from vlsae.loggers import NoLogger, WandB, started
from vlsae.runs import Measure, claim


def logger_of(*overrides: str):
    return build(with_environment(resolved(compose("train", overrides))["logger"]))


def test_no_logger_by_default():
    logger = logger_of()
    assert type(logger) is NoLogger
    logger.start("train/a/v0001", "nowhere", {})
    logger.log(1, 0.5, "train", {"loss": 1.0})
    logger.finish({"loss": 1.0})


def test_wandb_is_offline_unless_asked(monkeypatch):
    monkeypatch.setenv("TEAM", "blue")
    logger = logger_of("logger=wandb", "logger.entity='${oc.env:TEAM}'")
    assert type(logger) is WandB
    assert (logger.project, logger.entity, logger.mode) == ("vlsae", "blue", "offline")


def test_constructing_imports_nothing_heavy():
    code = "import sys; from vlsae.loggers import WandB; WandB(); print('wandb' in sys.modules, 'torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["False", "False"]


def test_a_run_starts_and_finishes_its_logger(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(NoLogger, "start", lambda self, run_id, folder, config: kept.append((run_id, config["seed"])))
    monkeypatch.setattr(NoLogger, "finish", lambda self, summary, exit_code=0: kept.append((summary, exit_code)))
    facts = {"command": [], "overrides": [], "seeds": {}, "identity": {}, "parents": [], "choices": {}}
    run = claim(tmp_path, "train", "one", config="seed: 5\n", fingerprint="0" * 64, **facts)
    config = {"logger": {"_target_": "vlsae.loggers.NoLogger"}}
    with started(config, run):
        run.write_summary({"loss": Measure(0.5), "undefined": Measure(float("nan"))})
    with pytest.raises(KeyboardInterrupt), started(config, run):
        raise KeyboardInterrupt
    run.interrupt()
    assert kept[:2] == [(run.id, 5), ({"loss": 0.5, "undefined": None}, 0)]
    assert kept[2:] == [(run.id, 5), ({}, 1)]


@pytest.mark.slow
def test_an_offline_run_lies_in_the_runs_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandB()
    logger.start("train/clip-shapes/v0001", str(tmp_path), {"seed": 0})
    logger.log(1, 0.5, "train", {"loss": 1.0})
    logger.finish({"loss": 1.0, "undefined": None})
    files = [path.name for path in tmp_path.rglob("*.wandb")]
    assert files == ["run-train-clip-shapes-v0001.wandb"]
