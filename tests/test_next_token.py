"""objective=next_token: a language model trained by the one loop, which model=lm loads."""

from __future__ import annotations

import json
import math

import pytest
import torch
from killing import content, differing
from tiny_lm import write_lm

from vlsae.cli import main
from vlsae.datasets import Text
from vlsae.errors import MissingFile, UserError
from vlsae.learners import NextToken
from vlsae.learners.bits_per_byte import bits_per_byte
from vlsae.models import LM
from vlsae.models.token_losses import token_losses
from vlsae.runs import resolve
from vlsae.training.samples import SampleReader

TEXT = "the cat sat on the mat and the dog sat on the cat. " * 40


@pytest.fixture(scope="module")
def architecture(tmp_path_factory):
    return write_lm(tmp_path_factory.mktemp("architecture"))


def test_losses_are_surprises_of_predicted_tokens():
    scores = torch.zeros(1, 3, 4)
    scores[0, 0, 2] = 100.0
    ids = torch.tensor([[1, 2, 3]])
    found = token_losses(scores, ids, torch.tensor([[True, True, True]]))
    torch.testing.assert_close(found[0, 1:], torch.tensor([0.0, math.log(4)]))
    assert found[0, 0].isnan()
    assert token_losses(scores, ids, torch.tensor([[True, True, False]]))[0, 2].isnan()


def test_a_batch_loses_what_its_texts_lose_alone(architecture):
    torch.manual_seed(0)
    learner = NextToken(architecture=str(architecture))
    texts = ["Short.", "A longer text, with more in it."]
    losses = learner.token_losses(learner.prepare(texts=texts))
    for number, text in enumerate(texts):
        alone = learner.token_losses(learner.prepare(texts=[text]))[0]
        torch.testing.assert_close(losses[number, : len(alone)], alone, equal_nan=True)
    total = learner.loss(learner.prepare(texts=texts)).total
    torch.testing.assert_close(total, losses[~losses.isnan()].mean())


def test_bits_per_byte_of_a_model_that_knows_nothing_are_those_of_its_vocabulary(architecture, tmp_path):
    learner = NextToken(architecture=str(architecture))
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.zero_()
    path = tmp_path / "a.txt"
    path.write_text("plain\nwith é and “quotes”\nlast one\n", encoding="utf-8")
    reader = SampleReader(
        Text(path=str(path)), learner, batch_size=2, split="train", split_settings={"validation": 0.0}, shuffle=False
    )
    found = bits_per_byte(learner, reader)
    assert found.value == pytest.approx(math.log2(300))
    assert found.unit == "bits"
    assert found.low == pytest.approx(found.value)


def test_sizes_change_the_architecture(architecture):
    learner = NextToken(
        architecture=str(architecture), model_width=48, layers=2, heads=3, key_value_heads=3, context=20
    )
    assert learner.module.config.num_hidden_layers == 2
    assert learner.module.model.layers[0].self_attn.q_proj.weight.shape == (48, 48)
    assert learner.prepare(texts=["x" * 100]).language.shape == (1, 20)
    with pytest.raises(UserError, match="multiple of twice the 2 heads"):
        NextToken(architecture=str(architecture), model_width=34)
    with pytest.raises(UserError, match="has its own sizes"):
        NextToken(architecture=str(architecture), initial=str(architecture), layers=2)
    with pytest.raises(MissingFile):
        NextToken(architecture="path:nowhere")


def test_initial_weights_are_those_of_the_folder(architecture):
    learner = NextToken(architecture=str(architecture), initial=str(architecture))
    batch = learner.prepare(texts=["The cat."])
    with torch.no_grad():
        found = learner.token_losses(batch)
    torch.testing.assert_close(found, LM(checkpoint=str(architecture)).losses(batch), equal_nan=True)


def training(architecture, texts) -> list[str]:
    """The words that train a model of an architecture on a file of texts."""
    return [
        "train",
        "model=lm",
        f"model.checkpoint=path:{architecture}",
        "objective=next_token",
        f"objective.architecture={architecture}",
        "dataset=text",
        f"dataset.path={texts}",
        "dataset.unit=file",
        "dataset.chunk=64",
        "train.batch_size=8",
        "train.lr=1e-2",
        "train.schedule=cosine",
        "train.warmup_epochs=0",
    ]


def test_two_trainings_of_one_seed_are_equal_to_the_byte(architecture, tmp_path, monkeypatch):
    path, found = tmp_path / "novel.txt", []
    path.write_text(TEXT)
    for name in ("one", "two"):
        monkeypatch.setenv("VLSAE_RUNS", str(tmp_path / name))
        assert main([*training(architecture, path), "train.epochs=2", "--limit=40"]) == 0
        found.append(content(resolve("train/lm-text-next_token/v0001", tmp_path / name)))
    assert any(name.startswith("model/") for name in found[0])
    assert differing(*found) == []


def test_a_run_learns_and_its_model_loads(architecture, tmp_path, runs_dir, capsys):
    path = tmp_path / "novel.txt"
    path.write_text(TEXT)
    assert main([*training(architecture, path), "train.epochs=15"]) == 0, capsys.readouterr().err
    run = resolve("train/lm-text-next_token/latest", runs_dir)
    summary = json.loads((run / "summary.json").read_text())["metrics"]
    assert summary["bits_per_byte"]["value"] < 4
    assert summary["bits_per_byte"]["low"] <= summary["bits_per_byte"]["value"] <= summary["bits_per_byte"]["high"]
    trained = LM(checkpoint=f"path:{run / 'model'}")
    batch = trained.prepare(texts=["the cat sat on the mat"])
    assert trained.losses(batch).nanmean() < 0.8 * LM(checkpoint=str(architecture)).losses(batch).nanmean()
    assert main(["extract", "model=lm", f"model.checkpoint=path:{run / 'model'}", "dataset=text", "limit=8"]) == 0
