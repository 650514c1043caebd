"""One contract suite over every configuration that names a class: a new plug-in is tested by being there."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_clip import PLAIN, write_clip
from tiny_lm import write_lm
from tiny_vlm import write_vlm

from vlsae import plugins
from vlsae.config import build, compose, resolved, target_class
from vlsae.datasets import Shapes, Text
from vlsae.datasets.safety_mini import BUNDLED as PROMPTS
from vlsae.groups import choices, groups
from vlsae.learners.word_lstm import WordLSTM
from vlsae.models import CLIP, VLM
from vlsae.signatures import check_settings, settings_of
from vlsae.testing import WIDTH, ContractError, check

PARTS = Path(__file__).parent / "plugin_files" / "tiny_parts.py"

#: Groups whose configurations name classes; the stages that take them.
STAGE_OF = {
    "model": "extract",
    "dataset": "extract",
    "logger": "extract",
    "objective": "train",
    "probe": "probe",
    "task": "enhance",
}
CONFIGS = [(group, name) for group in STAGE_OF for name in choices(group, plugins=False)]

#: A small convolutional network of torchvision.
NETWORK = "shufflenet_v2_x0_5"

#: Settings that have no default, or whose default needs the bundled weights.
NEEDED = {"captions": ["path"], "clip": ["checkpoint"], "align": ["architecture"]}

#: What each task is checked on.
SMALL_TASKS: dict[str, Callable[[], dict[str, Any]]] = {
    "zero_shot": lambda: {"data": Shapes(n=80, max_objects=1), "prompts": "shapes", "controls": ["dense", "lsh"]},
    "steering": lambda: {"data": Shapes(n=120), "strengths": [1.0], "randoms": 1, "texts": 40},
    "retrieval": lambda: {"data": Shapes(n=80), "controls": ["dense"]},
    "hallucination": lambda: {
        "data": Shapes(n=3, size=32),
        "layer": 2,
        "question_tokens": 2,
        "caption_tokens": 3,
        "settings": ["popular"],
    },
    "debias": lambda: {"data": Shapes(n=900), "plant": 0.8, "counts": [2], "randoms": 1},
}

#: Settings with which probes that train networks of their own are quick.
SMALL_PROBES: dict[str, dict[str, Any]] = {
    "information_plane": {"networks": 2, "epochs": 2, "points": 2, "rows": 32},
    "feature_bias": {"networks": 2, "steps": 2, "items": 64},
    "geometry_tasks": {"conditions": 8, "networks": 2, "steps": 2, "points": 2, "batch_size": 8, "width": 8},
}

#: Data sets that only the Hub has, and tasks that are checked elsewhere on files of their own.
ELSEWHERE = (
    *("cifar10", "cifar100", "mnist", "eurosat", "dtd", "food101", "flowers102", "pets", "cars", "aircraft"),
    *("caltech101", "sun397", "imagenet", "explain", "llava_7b", "qwen25vl_3b"),
)


@pytest.fixture(scope="module")
def needed(tmp_path_factory) -> dict[str, dict[str, str]]:
    """Return settings by configuration: a folder of captions, a tiny CLIP."""
    from PIL import Image
    from safetensors.torch import save_file
    from torchvision.models import get_model

    folder = tmp_path_factory.mktemp("captions")
    rows = []
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "text": f"picture {number}"})
    with (folder / "captions.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "text"])
        writer.writeheader()
        writer.writerows(rows)
    asked = tmp_path_factory.mktemp("asked")
    (asked / "objects.json").write_text(json.dumps({str(number): ["dog"] for number in range(4)}))
    question = {"image": "0.png", "text": "Is there a dog in the image?", "label": "yes"}
    (asked / "asked_random.json").write_text(json.dumps(question))
    tasks = tmp_path_factory.mktemp("tasks")
    (tasks / "stsa.csv").write_text("id,text,label\n" + "".join(f"{k},text {k},{k % 2}\n" for k in range(6)))
    arrays = tmp_path_factory.mktemp("arrays") / "all.npz"
    np.savez(arrays, images=np.zeros((4, 6, 5), np.uint8), labels=np.arange(4))
    clip = str(write_clip(tmp_path_factory.mktemp("clip")))
    narrow = write_clip(tmp_path_factory.mktemp("narrow"), embed_dim=WIDTH)
    vocabulary = tmp_path_factory.mktemp("vocabulary") / "words.txt"
    vocabulary.write_text("\n".join(PLAIN))
    network = tmp_path_factory.mktemp("network") / "network.safetensors"
    save_file(get_model(NETWORK, weights=None).state_dict(), network)
    language_model = write_lm(tmp_path_factory.mktemp("lm"))
    words = tmp_path_factory.mktemp("words")
    WordLSTM(dataset=Text(), words=60, window=3, word_width=4, width=5).save_pretrained(words)
    vision_language_model = write_vlm(tmp_path_factory.mktemp("vlm"))
    return {
        "captions": {"path": str(folder)},
        "image_folder": {"path": str(folder)},
        "coco": {"path": str(folder), "objects": str(asked / "objects.json")},
        "pope": {"path": str(folder), "questions": str(asked)},
        "hub": {"path": str(folder / "captions.csv")},
        "concept_tasks": {"path": str(tasks)},
        "image_arrays": {"path": str(arrays)},
        "ucf101": {"path": str(folder)},
        "clip": {"checkpoint": f"path:{clip}"},
        "clip of the rows' width": {"checkpoint": f"path:{narrow}"},
        "splice": {"vocabulary": str(vocabulary)},
        "align": {"architecture": clip},
        "lm": {"checkpoint": f"path:{language_model}"},
        "vlm": {"checkpoint": f"path:{vision_language_model}"},
        "llava": {"checkpoint": f"path:{vision_language_model}"},
        "litmus": {"path": str(PROMPTS)},
        "vit": {"checkpoint": f"path:{clip}"},
        "torch_module": {"checkpoint": f"path:{network}", "architecture": NETWORK},
        "next_token": {"architecture": str(language_model)},
        "model=word_lstm": {"checkpoint": f"path:{words}"},
        "visual_instruction": {"architecture": str(vision_language_model)},
        "mixture": {
            "parts": "[{_target_: vlsae.datasets.Shapes, n: 8}, {_target_: vlsae.datasets.Shapes, seed: 1, n: 4}]"
        },
    }


def node_of(group: str, name: str, extra: dict[str, str] | None = None) -> dict:
    """Return the composed node of a configuration."""
    given = (extra or {}).items()
    words = [f"{group}.{key}={value}" if value.startswith("[") else f"{group}.{key}='{value}'" for key, value in given]
    return resolved(compose(STAGE_OF[group], [f"{group}={name}", *words]))[group]


def _needed(needed: dict[str, dict[str, str]], group: str, name: str) -> dict[str, str]:
    """Return the settings that a configuration needs; a model and an objective may have one name."""
    return needed.get(f"{group}={name}", needed.get(name, {}))


@pytest.mark.parametrize(("group", "name"), CONFIGS)
def test_keys_and_values_are_the_signatures(group, name, needed):
    node = node_of(group, name, _needed(needed, group, name))
    cls = target_class(node)
    assert set(node) - {"_target_"} == set(settings_of(cls))
    check_settings(f"{group}={name}", {key: value for key, value in node.items() if key != "_target_"}, cls)


@pytest.mark.parametrize(("group", "name"), CONFIGS)
def test_every_configuration_builds(group, name, needed):
    node = node_of(group, name, _needed(needed, group, name))
    runtime = {"width": 6, "classes": ["a", "b"], "model": CLIP(**needed["clip"]), "dataset": Text()}
    assert isinstance(build(node, **runtime), target_class(node))


@pytest.mark.parametrize(
    ("group", "name"),
    [one for one in CONFIGS if one[0] != "logger" and "clip_" not in one[1] and one[1] not in ELSEWHERE],
)
def test_contract(group, name, needed):
    settings: dict[str, Any] = dict(_needed(needed, group, name))
    if (group, name) == ("objective", "word_lstm"):
        settings["dataset"] = Text()
    if group == "dataset" and name.startswith("shapes"):
        settings["n"] = 12
    if group == "task":
        model = VLM(**needed["vlm"]) if name == "hallucination" else CLIP(**needed["clip"])
        settings = {"model": model, **SMALL_TASKS[name]()}
    if group == "probe":
        settings = dict(SMALL_PROBES.get(name, {}))
    if name == "prototype":
        settings["classes"] = ["a", "b"]
    if name == "splice":
        settings["model"] = CLIP(**needed["clip of the rows' width"])
    if name == "kmeans":
        settings["n_concepts"] = 8
    if name == "mixture":
        settings["parts"] = [Shapes(n=8), Shapes(n=4, seed=1)]
    check(target_class(node_of(group, name, _needed(needed, group, name))), **settings)


def test_every_group_is_known():
    assert set(groups()) - {"hardware", "launcher", "experiment"} <= set(STAGE_OF)


@pytest.fixture
def tiny_parts():
    with plugins.loaded():
        plugins.load([str(PARTS)])
        yield sys.modules["tiny_parts"]


def test_contract_of_a_users_own_classes(tiny_parts):
    check(tiny_parts.TinyModel)
    check(tiny_parts.MySAE)


def test_contract_names_the_broken_rule(tiny_parts):
    class Stray(tiny_parts.TinyModel):
        """Gives rows of a wrong width."""

        def represent(self, batch, sites, tokens=None):
            rows = super().represent(batch, sites, tokens)
            for one in rows.values():
                one.values = one.values[:, :-1]
            return rows

    with pytest.raises(ContractError, match="gives rows of its width"):
        check(Stray)


def test_contract_refuses_an_untyped_or_positional_setting(tiny_parts):
    class Untyped(tiny_parts.TinyModel):
        """Has a setting without type."""

        def __init__(self, *, depth=3):
            super().__init__()

    class Positional(tiny_parts.TinyModel):
        """Has a positional setting."""

        def __init__(self, depth: int = 3):
            super().__init__()

    with pytest.raises(ContractError, match="has a type"):
        check(Untyped)
    with pytest.raises(ContractError, match="keyword-only"):
        check(Positional)


def test_contract_refuses_another_kind():
    class Other:
        """Nothing of vlsae's."""

    with pytest.raises(ContractError, match="is a Dataset, Model, Dictionary, Fit, Objective, Probe or Task"):
        check(Other)
