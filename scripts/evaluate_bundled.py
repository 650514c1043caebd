"""Score a CLIP on held-out scenes of the embedded world whose combinations of colour and shape it has not seen.

    python scripts/evaluate_bundled.py [--checkpoint bundled] [--rows 2000] [--pool 500] [--seed 9000] [--json]

Retrieval R@1 both ways in a pool of full captions, no two of scenes that look alike; zero-shot accuracy of each factor
on scenes of one object; how often the right one of two twins' captions is nearer. On the plain and on the hard split.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional

from vlsae.datasets import Shapes
from vlsae.datasets.shapes_captions import OPENINGS, prompts
from vlsae.datasets.shapes_world import BACKGROUNDS, OBJECT_VALUES
from vlsae.learners.retrieval import recall_at
from vlsae.models import CLIP

VALUES = {**OBJECT_VALUES, "background": BACKGROUNDS}
BATCH = 250


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="bundled")
    parser.add_argument("--rows", type=int, default=2000, help="scenes behind each zero-shot and twins number")
    parser.add_argument("--pool", type=int, default=500, help="images and captions in the pool of retrieval")
    parser.add_argument("--seed", type=int, default=9000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    model = CLIP(checkpoint=options.checkpoint)
    model.load()
    scores = {
        name: scores_of(model, hard, options.rows, options.pool, options.seed)
        for name, hard in (("plain", False), ("hard", True))
    }
    console = Console()
    if options.json:
        console.print_json(json.dumps(scores))
        return
    table = Table("score", *scores, title=f"{options.checkpoint}: held-out scenes, unseen combinations")
    for name in scores["plain"]:
        table.add_row(name, *(f"{scores[split][name]:.3f}" for split in scores))
    console.print(table)


@torch.no_grad()
def scores_of(model: CLIP, hard: bool, rows: int, pool: int, seed: int) -> dict[str, float]:
    """Return every score on one split."""
    common: dict[str, Any] = {"hard": hard, "part": "unseen"}
    scores = retrieval(model, Shapes(n=6 * pool, seed=seed, **common), pool)
    single = Shapes(n=rows, seed=seed + 1, max_objects=1, **common)
    images = encode_images(model, single, range(rows))
    labels = single.table["labels"]
    for factor in VALUES:
        scores[f"zero-shot {factor}"] = zero_shot(model, images, [row[factor] for row in labels], factor)
    seen = Shapes(n=rows, seed=seed + 3, max_objects=1, hard=hard, part="seen")
    truth = [row["shape"] for row in seen.table["labels"]]
    scores["zero-shot shape, seen combinations"] = zero_shot(
        model, encode_images(model, seen, range(rows)), truth, "shape"
    )
    # Unseen combinations leave no second shape or colour to change to, so twins are drawn from all of them.
    twins = Shapes(n=2 * (rows // 2), seed=seed + 2, twins=True, hard=hard, part="all")
    scores |= twin_scores(model, twins)
    return scores


def retrieval(model: CLIP, dataset: Shapes, pool: int) -> dict[str, float]:
    """Return R@1 both ways in a pool of scenes that their captions tell apart.

    How a caption opens is no part of the picture, so of captions that differ in this alone the pool holds one.
    """
    openings = sorted(filter(None, OPENINGS.values()), key=len, reverse=True)
    shown = [re.sub(rf"^({'|'.join(openings)}) ", "", caption) for caption in dataset.captions]
    _, first = np.unique(shown, return_index=True)
    chosen = np.sort(first)[:pool]
    images = encode_images(model, dataset, chosen)
    texts = encode_texts(model, [dataset.captions[row] for row in chosen])
    similarity = images @ texts.T
    return {
        f"R@1 of {len(chosen)}, image to text": recall_at(similarity, (1,))[1],
        f"R@1 of {len(chosen)}, text to image": recall_at(similarity.T, (1,))[1],
    }


def zero_shot(model: CLIP, images: torch.Tensor, truth: list[str], factor: str) -> float:
    """Return how often the nearest prompt of a factor names the right value."""
    words = VALUES[factor]
    nearest = (images @ encode_texts(model, prompts(factor)).T).argmax(1)
    return float(np.mean([words[number] == word for number, word in zip(nearest.tolist(), truth)]))


def twin_scores(model: CLIP, dataset: Shapes) -> dict[str, float]:
    """Return, for each factor, how often an image is nearer to its own caption than to its twin's."""
    images = encode_images(model, dataset, range(len(dataset)))
    texts = encode_texts(model, dataset.captions)
    other = texts.reshape(-1, 2, texts.shape[1]).flip(1).reshape(texts.shape)
    right = ((images * texts).sum(1) > (images * other).sum(1)).double().numpy()
    factor = np.array([row["twin"] for row in dataset.table["labels"]])
    return {f"twins {name}": float(right[factor == name].mean()) for name in sorted(set(factor))}


def encode_images(model: CLIP, dataset: Shapes, rows: Any) -> torch.Tensor:
    """Return unit embeddings ``(n, d)`` of a dataset's images."""
    parts = [model.module.encode_image(model.prepare(dataset.images(part)).vision) for part in _parts(list(rows))]
    return functional.normalize(torch.cat(parts), dim=-1)


def encode_texts(model: CLIP, texts: list[str]) -> torch.Tensor:
    """Return unit embeddings ``(n, d)`` of texts."""
    parts = [model.module.encode_text(model.prepare(None, part).language) for part in _parts(texts)]
    return functional.normalize(torch.cat(parts), dim=-1)


def _parts(items: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]


if __name__ == "__main__":
    main()
