"""Retrieval of paired images and texts, both ways."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vlsae.errors import UserError

if TYPE_CHECKING:
    from vlsae.runs import Measure
    from vlsae.training.samples import SampleReader

#: Pairs of one pool.
POOL = 500

RANKS = (1, 5, 10)


def recall_at(similarity: Tensor, ranks: tuple[int, ...] = RANKS, correct: Tensor | None = None) -> dict[int, float]:
    """Return R@k of each query's row ``(n, m)``: the share whose best correct item is among the first k.

    ``correct (n, m)`` says which items answer a query (default: the same number). Ties count against the query.
    """
    if correct is None:
        correct = torch.eye(len(similarity), dtype=torch.bool)
    best = similarity.masked_fill(~correct, -torch.inf).max(dim=1, keepdim=True).values
    rank = 1 + ((similarity >= best) & ~correct).sum(dim=1)
    return {k: float((rank <= k).float().mean()) for k in ranks}


def retrieval(learner: Any, reader: SampleReader) -> dict[str, Measure]:
    """Return R@k both ways over pools of at most 500 held-out pairs; identical captions answer each other's images.

    Of several captions an image the first counts.
    """
    from vlsae.learners.align import encode_text
    from vlsae.runs import Measure

    images: list[Tensor] = []
    texts: list[Tensor] = []
    ids: list[Tensor] = []
    with torch.no_grad():
        for step in range(reader.steps_per_epoch):
            batch = reader.batch(step)
            if batch.language is None:
                raise UserError("Retrieval needs captions, and these samples have none.")
            captions = batch.language if batch.language.ndim == 2 else batch.language[:, 0]
            images.append(normalize(learner.towers.encode_image(batch.vision).float(), dim=-1))
            texts.append(normalize(encode_text(learner.towers, captions).float(), dim=-1))
            ids.append(captions)
            if sum(map(len, images)) >= POOL:
                break
    image, text, tokens = (torch.cat(part)[:POOL] for part in (images, texts, ids))
    same = (tokens[:, None] == tokens[None]).all(dim=-1)
    similarity = image @ text.T
    sides = {"text_of_image": similarity, "image_of_text": similarity.T}
    return {
        f"retrieval/{side}/r{k}": Measure(value, f"share of {len(image)}")
        for side, matrix in sides.items()
        for k, value in recall_at(matrix, correct=same).items()
    }
