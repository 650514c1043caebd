"""Intra- and Inter-Sim: whether a concept's top images and top texts tell of one thing (VL-SAE paper, section 4.1).

Shapes: N concepts, m top items of each, d width of the features.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vlsae.dictionaries.base import one_of
from vlsae.errors import UserError
from vlsae.training.rows import check_finite


class IntraInter(NamedTuple):
    """``intra``: mean similarity of a concept's images and its own texts (higher is better); ``inter``: and the texts
    of others (lower is better); ``similarity (N, N)``: rows are the image side."""

    intra: float
    inter: float
    similarity: Tensor


def intra_inter_similarity(images: Tensor, texts: Tensor, mode: str = "default") -> IntraInter:
    """Return Intra- and Inter-Sim of features ``(N, m, d)`` of each concept's top images and texts.

    ``default`` averages features of length 1 and takes all ordered pairs of concepts for ``inter``; ``reference`` (the
    published code) averages features as they are and takes pairs n < m only. One concept has no ``inter``: NaN.
    Raises ``ValueError`` for shapes that do not fit and features that are not finite.
    """
    one_of("mode", mode, ("default", "reference"))
    for name, features in (("images", images), ("texts", texts)):
        if features.ndim != 3 or 0 in features.shape:
            raise UserError(f"{name} has shape {tuple(features.shape)}; (N, m, d), none of them 0, was expected.")
        check_finite(features, name)
    if images.shape[0] != texts.shape[0] or images.shape[2] != texts.shape[2]:
        raise UserError(f"images {tuple(images.shape)} and texts {tuple(texts.shape)} must agree in N and d.")
    similarity = _centers(images, mode) @ _centers(texts, mode).T
    n = similarity.shape[0]
    others = torch.ones(n, n, dtype=torch.bool, device=similarity.device).triu(1)
    if mode == "default":
        others |= others.T.clone()
    return IntraInter(similarity.diagonal().mean().item(), similarity[others].mean().item(), similarity)


def _centers(features: Tensor, mode: str) -> Tensor:
    """Return the direction of each concept's mean feature, ``(N, d)``."""
    if mode == "default":
        features = F.normalize(features, dim=2, eps=1e-12)
    return F.normalize(features.mean(dim=1), dim=1, eps=1e-12)
