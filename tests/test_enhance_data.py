"""Zero-shot classification of real pictures: digits by an own model, small photographs by the bundled CLIP."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from vlsae import plugins
from vlsae.cli import main

pytestmark = pytest.mark.slow

PLUGIN = Path(__file__).parent / "plugin_files" / "mnist_pair.py"
SMALL = ["hardware.threads=1", "train.evaluate.bootstrap=20", "enhance.resamples=100", "train.batch_size=64"]


def summary(run: Path) -> dict[str, dict]:
    return json.loads((run / "summary.json").read_text())["metrics"]


@pytest.mark.shared_data
def test_the_digits_model_is_right_as_often_as_its_source_says(shared_data):
    folder = shared_data / "mnist_pair"
    with plugins.loaded():
        plugins.load([str(PLUGIN)])
        parts = sys.modules["mnist_pair"]
        model, data = parts.DigitPair(path=str(folder / "dual_encoder.safetensors")), parts.Digits(path=str(folder))
        pictures = [model.prepare(data.images(range(first, first + 1000))) for first in range(0, 10_000, 1000)]
        found = [model.represent(batch, ["vision.embedding"])["vision.embedding"].values for batch in pictures]
        texts = model.represent(model.prepare(None, list("0123456789")), ["language.embedding"])
        answers = (torch.cat(found) @ texts["language.embedding"].values.T).argmax(1).tolist()
    right = [str(answer) == texts[0] for answer, texts in zip(answers, data.table["texts"])]
    assert sum(right) == 9802


@pytest.mark.shared_data
def test_digits_by_an_own_model(shared_data, runs_dir):
    folder = shared_data / "mnist_pair"
    words = [
        "enhance", "--plugin", str(PLUGIN), "model=digit_pair", f"model.path={folder / 'dual_encoder.safetensors'}",
        "dataset=digits", f"dataset.path={folder}", "dataset.n=3000", "~dataset@task.data",
        "task.prompts=null", "task.templates=['{}']", "train.epochs=3", "objective.n_concepts=64", "objective.k=4",
        "task.controls=[dense]", *SMALL,
    ]  # fmt: skip
    assert main(words) == 0
    metrics = summary(runs_dir / "enhance/digit_pair-digits-zero_shot/v0001")
    assert metrics["before/accuracy"]["high"] > 0.97


@pytest.mark.shared_data
def test_small_photographs_by_the_bundled_clip(shared_data, runs_dir, capsys):
    words = [
        "enhance", "dataset.n=300", "train.epochs=1", "dataset@task.data=image_folder",
        f"task.data.path={shared_data / 'cifar10'}", "task.data.metadata=labels.csv", "task.data.columns.image=file",
        "task.data.columns.label=class", "task.data.columns.split=split", "task.prompts=cifar10", "--limit", "300",
        "task.controls=[dense]", *SMALL,
    ]  # fmt: skip
    assert main(words) == 0
    metrics = summary(runs_dir / "enhance/clip-image_folder-zero_shot/v0001")
    # A model that saw drawn scenes alone and knows none of the classes' words is at chance.
    assert metrics["before/accuracy"]["value"] < 0.3
    assert metrics["after/accuracy"]["value"] < 0.3
