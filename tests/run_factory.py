"""Runs for tests, and a stage small enough to be killed, in this process or in another."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

from vlsae.runs import Run, claim

STAGE = """
import os, pathlib, time
from vlsae.errors import UserError

SCHEMA = 1

def run(config, run):
    done = run.path / "step.txt"
    first = int(done.read_text()) + 1 if done.exists() else 0
    run.truncate_metrics(first - 1)
    for step in range(first, config["steps"]):
        if config["mode"] == "mistake" and step == 2:
            raise UserError("dataset.path is 'nowhere'.", "Name a folder.")
        if config["mode"] == "bug" and step == 2:
            raise KeyError("boom\\nsecond line")
        run.log_metrics(step, step / 2, "train", **{"loss/vision": 1.0 / (1 + step)})
        done.write_text(str(step))
        if config["mode"] == "wait" and step == 2:
            (run.path / "waiting").touch()
            time.sleep(60)
    run.write_summary({"steps": config["steps"]})
"""

BOOT = """
import sys
sys.path.insert(0, {modules!r})
from vlsae.stages import STAGES
STAGES["tiny"] = "tiny_stage"
"""


def new_run(root: Path, name: str = "one", stage: str = "tiny", config: str = "steps: 5\nmode: plain\n", **more) -> Run:
    """Claim a run; whatever is not given is plain."""
    facts = {
        "command": ["vlsae", stage],
        "overrides": [],
        "seeds": {"seed": 0},
        "identity": {},
        "fingerprint": "f" * 64,
        "parents": [],
        "choices": {"model": "clip"},
    }
    return claim(root, stage, name, config=config, **{**facts, **more})


def done_run(root: Path, name: str = "one", stage: str = "tiny", **more) -> Run:
    """Claim a run and finish it."""
    run = new_run(root, name, stage, **more)
    run.finish()
    return run


def write_stage(folder: Path) -> None:
    """Write the module of the tiny stage."""
    (folder / "tiny_stage.py").write_text(STAGE)


def python(modules: Path, code: str, *arguments: str, **options) -> subprocess.Popen:
    """Start Python with the tiny stage registered, then the code."""
    text = BOOT.format(modules=str(modules)) + textwrap.dedent(code)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", text, *arguments], env=environment, **pipes, **options)


def wait_for(path: Path, process: subprocess.Popen, seconds: float = 30) -> None:
    """Wait until a file is there, while the process lives."""
    last = time.monotonic() + seconds
    while not path.exists():
        if process.poll() is not None:
            raise RuntimeError(f"the process ended early:\n{process.communicate()[1]}")
        if time.monotonic() > last:
            process.kill()
            raise TimeoutError(path)
        time.sleep(0.02)
