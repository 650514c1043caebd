"""Score the bundled vision-language model, or another, on scenes that it never saw, decoding greedily.

    python scripts/score_bundled_llava.py [--checkpoint bundled] [--scenes 2000] [--seed 9400] [--captions 500]

POPE's accuracy in its three settings, how often a question after an absent shape is answered by yes where the shape's
partner is there and where it is not, and CHAIR's figures of the descriptions; intervals over scenes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from vlsae.datasets import Shapes
from vlsae.datasets.shapes_questions import SETTINGS
from vlsae.datasets.shapes_world import SHAPES
from vlsae.enhancement.chair import chair_mentions, chair_scores
from vlsae.enhancement.pope import pope_scores
from vlsae.models import VLM
from vlsae.statistics import bootstrap

QUESTION = "{} Please answer this question with one word."
REQUEST = "Please describe this image in detail."
BATCH = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="bundled")
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=9400)
    parser.add_argument("--captions", type=int, default=500)
    options = parser.parse_args()
    model = VLM(checkpoint=options.checkpoint)
    data = Shapes(n=options.scenes, seed=options.seed, hard=True, cooccurrence=0.7)
    right = {setting: questions(model, data, setting) for setting in SETTINGS}
    show("random - adversarial", right["random"] - right["adversarial"])
    captions(model, data, options.captions)


def questions(model: VLM, data: Shapes, setting: str) -> np.ndarray:
    """Print what comes of a setting's questions, and return the share that is right of each scene."""
    asked = data.questions(setting).to_pylist()
    rows = np.array([one["row"] for one in asked])
    said = answers(model, data, rows, [QUESTION.format(one["question"]) for one in asked], 4)
    truth = [one["answer"] for one in asked]
    right = np.array([a.split()[:1] == [b] for a, b in zip(said, truth)], dtype=float)
    scores = pope_scores(said, truth)
    print(setting, {name: round(float(value), 3) for name, value in scores.items()})
    counts = np.bincount(rows, minlength=len(data))
    by_scene = np.bincount(rows, right, minlength=len(data))[counts > 0] / counts[counts > 0]
    show(f"{setting}: right", by_scene)
    there = [{one["shape"] for one in objects} for objects in data.table["objects"]]
    beside = np.array([SHAPES[SHAPES.index(one["object"]) ^ 1] in there[one["row"]] for one in asked])
    absent = np.array([answer == "no" for answer in truth])
    for words, chosen in (("partner there", absent & beside), ("partner not there", absent & ~beside)):
        show(f"{setting}: yes to what is absent, {words}", 1 - right[chosen], rows[chosen])
    return by_scene


def captions(model: VLM, data: Shapes, count: int) -> None:
    """Print CHAIR's figures of the descriptions of the first scenes."""
    rows = np.arange(min(count, len(data)))
    texts = answers(model, data, rows, [REQUEST] * len(rows), 32)
    mentions = [chair_mentions(text, {shape: shape for shape in SHAPES}) for text in texts]
    truth = [{one["shape"] for one in data.table[int(row)]["objects"]} for row in rows]
    print("captions", {name: round(float(value), 3) for name, value in chair_scores(mentions, truth).items()})
    show("captions with an absent shape", np.array([bool(set(a) - b) for a, b in zip(mentions, truth)], dtype=float))


def answers(model: VLM, data: Shapes, rows: np.ndarray, prompts: Sequence[str], tokens: int) -> list[str]:
    """Return what a model says to prompts on the pictures of some rows."""
    found: list[str] = []
    for start in range(0, len(rows), BATCH):
        images = [Image.fromarray(one) for one in data.images(rows[start : start + BATCH].tolist())]
        prompted = model.prompted(images, prompts[start : start + BATCH])
        settings: dict[str, Any] = {"max_new_tokens": tokens, "do_sample": False}
        with torch.no_grad():
            ids = model.module.generate(**prompted.inputs, **settings)[:, prompted.image_mask.shape[1] :]
        found += model.tokenizer.batch_decode(ids, skip_special_tokens=True)
    return found


def show(words: str, values: np.ndarray, scenes: np.ndarray | None = None) -> None:
    """Print a mean with its interval over items, or over scenes with several items each."""
    groups = np.arange(len(values)) if scenes is None else np.unique(scenes, return_inverse=True)[1]
    sums, counts = np.bincount(groups, values), np.bincount(groups)
    interval = bootstrap(lambda drawn: sums[drawn].sum() / counts[drawn].sum(), len(sums))
    print(f"{words}: {interval.estimate:.3f} ({interval.low:.3f} to {interval.high:.3f}), {len(values)} of them")


if __name__ == "__main__":
    main()
