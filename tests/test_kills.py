"""Every stage, killed at seeded moments and gone on with, and run twice: the same bytes of every artefact."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import torch
from killing import COMMANDS, PARTS, content, differing, end, in_child, kill_and_resume, parts_at_hand, run_of
from PIL import Image

from vlsae.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    before = os.environ.get("VLSAE_RUNS")
    with parts_at_hand():
        yield tmp_path_factory.mktemp("kills")
    os.environ.pop("VLSAE_RUNS", None) if before is None else os.environ.update(VLSAE_RUNS=before)


@pytest.fixture(scope="module")
def whole(place) -> dict[str, tuple[dict, float]]:
    """The artefacts of each stage's run that nobody killed, and how long it took from the start, upstream and all."""
    found = {}
    os.environ["VLSAE_RUNS"] = str(place / "warm")
    assert main(list(COMMANDS["enhance"])) == 0  # what is imported here need not be in the children
    for stage in COMMANDS:
        runs, start = place / "whole" / stage, time.monotonic()
        assert end(in_child(COMMANDS[stage], runs, place / "whole.txt")) == 0, (place / "whole.txt").read_text()
        found[stage] = content(run_of(runs, stage)), time.monotonic() - start
    return found


@pytest.mark.parametrize("stage", list(COMMANDS))
def test_two_runs_of_one_seed_are_equal_to_the_byte(stage, whole, place):
    runs = place / "again" / stage
    assert end(in_child(COMMANDS[stage], runs, place / "again.txt")) == 0, (place / "again.txt").read_text()
    again = content(run_of(runs, stage))
    assert len(again) >= 4
    assert differing(again, whole[stage][0]) == []


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("stage", list(COMMANDS))
def test_a_killed_stage_goes_on_to_the_same_bytes(stage, seed, whole, tmp_path):
    artefacts, seconds = whole[stage]
    killed = kill_and_resume(stage, seed, seconds, artefacts, tmp_path / "killed")
    assert killed.wrong == [], killed


def test_one_and_two_data_workers_make_the_same_bytes(place, tmp_path):
    for number in range(12):
        Image.new("RGB", (9, 7), (20 * number, 9, 30)).save(tmp_path / f"{number:02d}.png")
    captions = {f"{number:02d}.png": [f"word {number}"] for number in range(12)}
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    words = [
        "extract",
        *PARTS,
        "dataset=captions",
        f"dataset.path='{tmp_path}'",
        "extract.batch_size=4",
        "model.pause=0",
    ]
    found = []
    for workers in (0, 1, 2):
        os.environ["VLSAE_RUNS"] = str(place / f"workers {workers}")
        assert main([*words, f"hardware.workers={workers}"]) == 0
        found.append(content(run_of(place / f"workers {workers}", "extract")))
    for one in found[1:]:
        assert differing(one, found[0]) == ["config.yaml", "overrides.yaml"]
