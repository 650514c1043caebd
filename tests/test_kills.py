"""Every stage, killed at seeded moments and gone on with, and run twice: the same bytes of every artefact."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import pytest
import torch
from killing import (
    COMMANDS,
    PARTS,
    content,
    differing,
    kill_and_resume,
    kill_at_rename_and_resume,
    parts_at_hand,
    run_of,
    whole_run,
)
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
def whole(place) -> dict[str, tuple[float, dict]]:
    """How long each stage takes that nobody kills, upstream and all, and its artefacts."""
    found = {}
    os.environ["VLSAE_RUNS"] = str(place / "warm")
    assert main(list(COMMANDS["enhance"])) == 0  # what is imported here need not be in the children
    for stage in COMMANDS:
        found[stage] = whole_run(stage, place / "whole" / stage)
    return found


@pytest.mark.parametrize("stage", list(COMMANDS))
def test_two_runs_of_one_seed_are_equal_to_the_byte(stage, whole, place):
    _, again = whole_run(stage, place / "again" / stage)
    assert len(again) >= 4
    assert differing(again, whole[stage][1]) == []


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("stage", list(COMMANDS))
def test_a_killed_stage_goes_on_to_the_same_bytes(stage, seed, whole, tmp_path):
    killed = kill_and_resume(stage, seed, *whole[stage], tmp_path / "killed")
    assert killed.wrong == [], killed


@pytest.mark.parametrize("number", [1, 2])
def test_a_training_killed_while_a_checkpoint_has_no_name_goes_on_to_the_same_bytes(number, whole, tmp_path):
    """What it had written under another name is no artefact, and before the first checkpoint no step counts as done."""
    killed = kill_at_rename_and_resume("train", number, whole["train"][1], tmp_path / "killed", "step-")
    assert killed is not None
    assert killed.wrong == [], killed


@pytest.mark.stress
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("stage", list(COMMANDS))
def test_a_stage_killed_before_any_of_its_renames_goes_on_to_the_same_bytes(stage, whole, tmp_path):
    for number in itertools.count(1):
        killed = kill_at_rename_and_resume(stage, number, whole[stage][1], tmp_path / str(number))
        if killed is None:
            break
        assert killed.wrong == [], (number, killed)
    assert number > 8


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
