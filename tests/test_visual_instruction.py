"""objective=visual_instruction: what is learned, from whose eyes, and what comes out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tiny_clip import write_clip
from tiny_vlm import llava_config, llava_processor, pictures, write_vlm

from vlsae.cli import main
from vlsae.datasets import Shapes
from vlsae.datasets.shapes_instructions import ShapesInstructions
from vlsae.datasets.shapes_world import SHAPES
from vlsae.errors import UserError
from vlsae.learners import VisualInstruction
from vlsae.models import CLIP, VLM, Batch, TokenSelection
from vlsae.models.open_clip_tower import vision_settings, vision_weights
from vlsae.training import build_optimizer, train_step

TEXTS, ANSWERS = ["is it red ?", "why ?"], ["yes", "no , it is"]
SIZES = ((40, 32), (30, 60))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_vlm(tmp_path_factory.mktemp("llava"))


@pytest.fixture
def learner(folder):
    torch.manual_seed(0)
    return VisualInstruction(architecture=str(folder), initial=str(folder))


def test_the_loss_is_that_of_answers_and_their_ends_alone(learner):
    batch = learner.prepare(pictures(*SIZES), TEXTS, ANSWERS)
    said = learner.answered(batch)
    for number, answer in enumerate(ANSWERS):
        own = batch.language[number][said[number]]
        assert learner.processor.tokenizer.decode(own) == f"{answer}</s>"
    with torch.no_grad():
        scores = learner.module(**batch.inputs).logits.log_softmax(-1)
    expected = [-scores[row, place - 1, batch.language[row, place]] for row, place in said.nonzero().tolist()]
    total = learner.loss(batch).total
    torch.testing.assert_close(total, torch.stack(expected).mean())


def test_a_caption_is_the_answer_where_there_is_no_other(learner):
    batch = learner.prepare(pictures(*SIZES), ["a red cat", "two dogs"])
    for number, text in enumerate(("a red cat", "two dogs")):
        whole = learner.processor.tokenizer.decode(batch.language[number][batch.mask[number]])
        assert learner.prompt in whole
        assert whole.endswith(f"ASSISTANT: {text}</s>")
    with pytest.raises(UserError, match="images with texts"):
        learner.prepare(None, ["a red cat"])


def test_a_step_leaves_a_frozen_tower_alone(folder):
    for train_tower in (False, True):
        torch.manual_seed(0)
        learner = VisualInstruction(architecture=str(folder), train_tower=train_tower)
        before = {name: value.clone() for name, value in learner.state_dict().items()}
        batch = learner.prepare(pictures(*SIZES), TEXTS, ANSWERS)
        train_step(learner, batch, build_optimizer(learner, 1e-2), step=0)
        moved = {name for name, value in learner.state_dict().items() if not torch.equal(value, before[name])}
        assert any("language_model" in name for name in moved)
        assert any("projector" in name for name in moved)
        assert any("vision_tower" in name for name in moved) == train_tower


def test_the_tower_of_a_clip_gives_the_same_numbers_in_transformers():
    from safetensors.torch import load_file
    from transformers import CLIPVisionConfig, CLIPVisionModel

    clip = CLIP()
    layers = clip.files.config["vision_cfg"]["layers"]
    tower = CLIPVisionModel(CLIPVisionConfig(**vision_settings(clip.files.config))).eval()
    inner = getattr(tower, "vision_model", tower)
    weights = {name: value.float() for name, value in load_file(clip.files.weights).items()}
    inner.load_state_dict(vision_weights(weights, layers))
    batch = clip.prepare(Shapes(n=4, hard=True).images(range(4)))
    with torch.no_grad():
        seen = tower(batch.vision, output_hidden_states=True).hidden_states
    every = TokenSelection(pooling="tokens", include="all")
    sites = [f"vision.{layer}" for layer in range(1, layers + 1)]
    for layer, rows in enumerate(clip.represent(batch, sites, every).values(), start=1):
        truth = rows.values.reshape(seen[layer].shape)
        assert (truth - seen[layer]).norm() / truth.norm() < 1e-5


def test_a_tower_that_does_not_fit_is_refused(folder, tmp_path):
    clip = write_clip(tmp_path / "clip")
    with pytest.raises(UserError, match="hidden_size 32, and the architecture 24"):
        VisualInstruction(architecture=str(folder), tower=f"path:{clip}")
    with pytest.raises(UserError, match="99 vision layers"):
        vision_settings(CLIP().files.config, 99)
    with pytest.raises(UserError, match="no plain vision transformer"):
        vision_settings({"vision_cfg": {"timm_model_name": "x"}})


def test_a_towers_weights_are_the_clips(tmp_path):
    clip = CLIP(checkpoint=f"path:{write_clip(tmp_path / 'clip')}")
    config = llava_config()
    for name, value in vision_settings(clip.files.config, 2).items():
        setattr(config.vision_config, name, value)
    config.save_pretrained(tmp_path / "architecture")
    llava_processor().save_pretrained(tmp_path / "architecture")
    learner = VisualInstruction(architecture=str(tmp_path / "architecture"), tower=clip.checkpoint)
    batch = learner.prepare(pictures((32, 32)), ["x"])
    with torch.no_grad():
        found = learner.module.model.vision_tower(batch.inputs["pixel_values"], output_hidden_states=True)
        truth = clip.represent(
            Batch(vision=batch.inputs["pixel_values"]),
            ["vision.2"],
            TokenSelection(pooling="tokens", include="all"),
        )["vision.2"].values
    torch.testing.assert_close(found.hidden_states[-1][0], truth, rtol=1e-4, atol=1e-5)


def test_instructions_ask_after_what_is_there_and_what_is_not():
    data = ShapesInstructions(n=60, cooccurrence=0.9, hard=True, questions=4, attributes=2, checklist=True)
    assert len(data) == len(data.table) > 150
    for row in data.table:
        there = {one["shape"] for one in row["objects"]}
        asked, kind = row["labels"]["asked"], row["labels"]["kind"]
        if kind in ("color", "place"):
            assert [one[kind] for one in row["objects"] if one["shape"] == asked] == [row["answer"]]
            assert f"what {kind} is the {asked}" in row["texts"][0]
        elif kind == "checklist":
            words = [part.split() for part in row["answer"].split(" , ")]
            assert sorted(shape for shape, _ in words) == sorted(SHAPES)
            assert {shape for shape, said in words if said == "yes"} == there
        elif kind == "description":
            assert all(shape in row["answer"] for shape in there)
            assert row["texts"][0].startswith(("please describe", "describe"))
        else:
            assert row["answer"] == kind == ("yes" if asked in there else "no")
            assert f" {asked} in the image ?" in row["texts"][0]
    kinds = [row["kind"] for row in data.table["labels"]]
    assert kinds.count("yes") == kinds.count("no") > 60
    assert np.array_equal(data.images([0]), data.shapes.images([0]))
    late = len(data) - 1
    scene = int(data.table[late]["sample_id"].split("-")[2])
    assert np.array_equal(data.images([late])[0], data.shapes.images([scene])[0])
    assert data.digest() != ShapesInstructions(n=60, cooccurrence=0.9, hard=True, questions=3).digest()


def test_training_makes_a_model_that_model_vlm_loads(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("VLSAE_RUNS", str(tmp_path))
    words = [
        *("model=llava", "objective=visual_instruction", "dataset=shapes_instructions", "dataset.n=24", "hardware=cpu"),
        *(f"objective.architecture={folder}", "train.epochs=2", "train.batch_size=16", "train.schedule=cosine"),
        *("train.warmup_epochs=0", "name=tiny", "split.validation=0.3"),
    ]
    assert main(["train", *words]) == 0
    run = tmp_path / "train/tiny/v0001"
    metrics = json.loads((run / "summary.json").read_text())["metrics"]
    assert 0 <= metrics["right"]["value"] <= 1
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["split"] == "train"]
    assert losses[-1] < losses[0]
    model = VLM(checkpoint=f"path:{run / 'model'}")
    assert model.represent(model.prepare(pictures((40, 40)), ["red"]), ["vision.3", "language.3"])
