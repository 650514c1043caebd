"""The vision-language model that ships with the package: whose eyes it has, what it knows, and what it makes up."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vlsae.datasets import Shapes
from vlsae.datasets.shapes_world import SHAPES
from vlsae.models import CLIP, VLM, TokenSelection
from vlsae.models.vlm import BUNDLED

#: Scenes as those it learned from, drawn by another seed.
SCENES = {"hard": True, "cooccurrence": 0.7, "seed": 9301}


@pytest.fixture(scope="module")
def model():
    model = VLM()
    model.load()
    return model


@pytest.fixture(scope="module")
def data():
    return Shapes(n=300, **SCENES)


def pictures(data, rows):
    return [Image.fromarray(one) for one in data.images(rows)]


def right(model, data, setting, answer):
    """Return the share that is answered right of a setting's questions with an answer."""
    asked = [one for one in data.questions(setting).to_pylist() if one["answer"] == answer]
    wanted, found = model.tokenizer.convert_tokens_to_ids(answer), []
    for start in range(0, len(asked), 100):
        part = asked[start : start + 100]
        words = [f"{one['question']} Please answer this question with one word." for one in part]
        prompted = model.prompted(pictures(data, [one["row"] for one in part]), words)
        with torch.no_grad():
            said = model.module(**prompted.inputs, use_cache=False).logits[:, -1].argmax(-1)
        found += (said == wanted).tolist()
    return np.mean(found)


def test_it_is_small_and_has_twelve_layers(model):
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) < 6_000_000
    assert len(model.blocks) == 12
    assert {"vision.12", "language.12"} <= set(model.sites())
    assert {parameter.dtype for parameter in model.module.parameters()} == {torch.float32}


def test_it_sees_through_the_bundled_clips_first_blocks(model, data):
    clip, images = CLIP(), data.images(range(4))
    layers = model.module.config.vision_config.num_hidden_layers
    inputs = model.prepare(images).inputs["pixel_values"]
    torch.testing.assert_close(inputs, clip.prepare(images).vision, rtol=0, atol=1e-6)
    tokens = TokenSelection(pooling="tokens", include="all")
    truth = clip.represent(clip.prepare(images), [f"vision.{layers}"], tokens)[f"vision.{layers}"].values
    with torch.no_grad():
        tower = model.module.get_submodule("model.vision_tower")
        seen = tower(inputs, output_hidden_states=True).hidden_states[-1].reshape(truth.shape)
    assert (seen - truth).norm() / truth.norm() < 1e-5


def test_it_answers_better_than_chance_and_worse_where_the_words_mislead(model, data):
    there, absent = right(model, data, "random", "yes"), right(model, data, "random", "no")
    assert (there + absent) / 2 > 0.7
    # Questions after shapes that are there are the same in both settings.
    assert absent - right(model, data, "adversarial", "no") > 0.03


def test_its_descriptions_name_what_is_there_and_sometimes_what_is_not(model, data):
    rows = list(range(60))
    prompted = model.prompted(pictures(data, rows), ["Please describe this image in detail."] * len(rows))
    with torch.no_grad():
        ids = model.module.generate(**prompted.inputs, max_new_tokens=24, do_sample=False)
    texts = model.tokenizer.batch_decode(ids[:, prompted.image_mask.shape[1] :], skip_special_tokens=True)
    said = [{word for word in text.split() if word in SHAPES} for text in texts]
    there = [{one["shape"] for one in row["objects"]} for row in data.table.select(rows)]
    named = sum(len(a & b) for a, b in zip(said, there)) / sum(map(len, there))
    assert named > 0.5
    assert sum(bool(a - b) for a, b in zip(said, there)) > 3
