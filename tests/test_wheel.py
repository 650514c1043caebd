"""The wheel carries configurations and bundled weights, and runs away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_an_unpacked_wheel_runs_the_main_command_elsewhere(tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(CHECKOUT)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    wheel = next(tmp_path.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "installed")
    assert "vlsae/configs/train.yaml" in names
    assert "vlsae/bundled/clip-v2/model.safetensors" in names
    assert not [name for name in names if name.startswith(("configs/", "tests/"))]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed"), "OMP_NUM_THREADS": "1"}
    for name in ("VLSAE_RUNS", "VLSAE_FIGURES"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "vlsae", "train", "model=clip", "--limit", "200", "train.epochs=1"]
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert (elsewhere / "runs/train/clip-shapes-vl_sae/v0001/report.html").is_file()
    where = "import vlsae, vlsae.config; print(vlsae.__file__, vlsae.config.config_dir())"
    shown = subprocess.run(
        [sys.executable, "-c", where], cwd=elsewhere, env=environment, capture_output=True, text=True
    ).stdout
    assert str(CHECKOUT) not in shown
