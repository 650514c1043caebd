"""The CLIP that ships with the package: open_clip loads it, and it knows what its page says."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn import functional

from vlsae.datasets import Shapes
from vlsae.datasets.shapes_captions import prompts
from vlsae.datasets.shapes_tokenizer import VOCABULARY
from vlsae.datasets.shapes_world import COLORS, SHAPES
from vlsae.learners.retrieval import recall_at
from vlsae.models import CLIP
from vlsae.models.clip import BUNDLED


@pytest.fixture(scope="module")
def model() -> CLIP:
    clip = CLIP()
    clip.load()
    return clip


@torch.no_grad()
def images_of(model: CLIP, dataset: Shapes) -> torch.Tensor:
    batch = model.prepare(dataset.images(range(len(dataset))))
    return functional.normalize(model.module.encode_image(batch.vision), dim=-1)


@torch.no_grad()
def texts_of(model: CLIP, texts: list[str]) -> torch.Tensor:
    return functional.normalize(model.module.encode_text(model.prepare(None, texts).language), dim=-1)


def test_open_clip_loads_the_folder() -> None:
    import open_clip

    name = f"local-dir:{BUNDLED}"
    module = open_clip.create_model(name)
    tokenizer = open_clip.get_tokenizer(name)
    assert module.visual.image_size == (64, 64)
    ids = tokenizer(["A small red circle, unheard of."])[0].tolist()
    assert ids[:5] == [VOCABULARY[word] for word in ("<start>", "a", "small", "red", "circle")]
    assert VOCABULARY["<unk>"] in ids
    assert max(ids) == VOCABULARY["<end>"] == len(VOCABULARY) - 1
    assert json.loads((BUNDLED / "open_clip_config.json").read_text())["model_cfg"]["vision_cfg"]["layers"] == 12


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) < 10_000_000


def zero_shot(model: CLIP, factor: str, values: tuple[str, ...], **settings: bool) -> float:
    dataset = Shapes(n=300, seed=77, max_objects=1, part="unseen", **settings)
    nearest = (images_of(model, dataset) @ texts_of(model, prompts(factor)).T).argmax(1).tolist()
    return float(np.mean([values[n] == row[factor] for n, row in zip(nearest, dataset.table["labels"])]))


def test_it_tells_colours_and_shapes_of_unseen_combinations(model: CLIP) -> None:
    assert zero_shot(model, "color", COLORS) >= 0.97
    assert zero_shot(model, "shape", SHAPES) >= 0.88


def test_the_hard_split_leaves_something_to_enhance(model: CLIP) -> None:
    assert 0.6 <= zero_shot(model, "shape", SHAPES, hard=True) <= 0.85


def test_it_finds_captions_of_unseen_combinations(model: CLIP) -> None:
    dataset = Shapes(n=200, seed=78, part="unseen")
    similarity = images_of(model, dataset) @ texts_of(model, dataset.captions).T
    same = torch.tensor([[one == other for other in dataset.captions] for one in dataset.captions])
    for matrix in (similarity, similarity.T):
        assert recall_at(matrix, (1,), correct=same)[1] > 0.9
