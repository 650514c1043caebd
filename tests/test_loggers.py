"""Second homes of metrics: none, and Weights & Biases without a network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from run_factory import new_run

from vlsae import plugins
from vlsae.cli import main
from vlsae.config import build, compose, resolved
from vlsae.environment import with_environment
from vlsae.loggers import NoLogger, WandB, started
from vlsae.reporting.figures import canvas
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


def test_every_stage_is_logged_once(runs_dir, monkeypatch):
    kept = []
    monkeypatch.setattr(NoLogger, "start", lambda self, run_id, folder, config: kept.append(run_id))
    monkeypatch.setattr(
        NoLogger, "describe", lambda self, lineage: kept.append((lineage["run_id"], lineage["parents"]))
    )
    tiny = ["--plugin", str(Path(__file__).parent / "plugin_files" / "tiny_parts.py"), "model=tiny", "dataset.n=60"]
    quick = ["train.epochs=1", "train.batch_size=16", "train.evaluate.bootstrap=2", "train.evaluate.names=false"]
    with plugins.loaded():
        assert main(["train", *tiny, "objective=my_sae", *quick, "--name", "one"]) == 0
    train, extract = "train/one/v0001", "extract/tiny-shapes/v0001"
    assert kept == [train, extract, (extract, []), (train, [extract])]


@pytest.mark.slow
@pytest.mark.parametrize("upload_media", [False, True])
def test_an_offline_run_holds_metrics_lineage_and_media_where_allowed(
    tmp_path, figures_drawn, monkeypatch, upload_media
):
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = new_run(tmp_path, "one", "train", config="seed: 5\n", parents=["extract/parent/v0007"])
    (run.path / "figures").mkdir()
    (run.path / "report.html").write_text("<p>page</p>")
    with canvas("curve") as (axes, drawn):
        axes.plot([1, 2])
    (run.path / "figures/curve.png").write_bytes(drawn.png)
    config = {"logger": {"_target_": "vlsae.loggers.WandB", "project": "words", "upload_media": upload_media}}
    with started(config, run) as logger:
        logger.log(1, 0.5, "train", {"loss/vision": 1.0})
        run.write_summary({"final/number": Measure(0.25)})
    (file,) = run.path.rglob("*.wandb")
    assert file.name == "run-train-one-v0001.wandb"
    content = file.read_bytes()
    for expected in ("train/loss/vision", "train/one/v0001", "extract/parent/v0007", "final/number", "words"):
        assert expected.encode() in content, expected
    media = sorted(path.suffix for path in run.path.rglob("files/media/**/*") if path.is_file())
    assert media == ([".html", ".png"] if upload_media else [])
    run.interrupt()
