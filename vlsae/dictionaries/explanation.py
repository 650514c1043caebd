"""Which concepts bring an image and a text together: each one's share of the cosine of their codes. h concepts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlsae.dictionaries.base import Dictionary
from vlsae.errors import UserError, unknown

WEIGHTS = ("auto", "idf", "inv_mean", "none")


@dataclass(frozen=True)
class ConceptShare:
    """A concept active in a pair: its activations, and its contribution to the cosine of the codes."""

    concept: int
    vision: float
    language: float
    contribution: float
    score: float


@dataclass(frozen=True)
class Explanation:
    """A pair's concepts, best first: those of both sides and of either; the contributions sum to ``cosine``."""

    shared: list[ConceptShare]
    vision_only: list[ConceptShare]
    language_only: list[ConceptShare]
    cosine: float
    jaccard: float


@torch.no_grad()
def explain(
    dictionary: Dictionary,
    image: Tensor,
    text: Tensor,
    *,
    counts: np.ndarray | None = None,
    rows: int | None = None,
    means: np.ndarray | None = None,
    weight: str = "auto",
) -> Explanation:
    """Return how the concepts of an image ``(d,)`` and a text ``(d,)`` make up their similarity.

    Concept i contributes ``h_v,i · h_l,i / (‖h_v‖‖h_l‖)``. ``weight`` ranks them: ``none`` by contribution (the
    published demo), ``idf`` times ln((N + 1)/(n_i + 1)) for ``counts (h,)`` rows of ``rows`` in which a concept fires,
    ``inv_mean`` over its mean activation ``means (h,)``. Raises ``ValueError`` for an unknown weight or one without its
    statistics. ``auto`` is ``idf`` where ``counts`` and ``rows`` are given, else ``none``.
    """
    factor = _weights(dictionary.n_concepts, weight, counts, rows, means)
    vision = _code(dictionary, image, "vision")
    language = _code(dictionary, text, "language")
    norm = float(np.linalg.norm(vision) * np.linalg.norm(language))
    contribution = vision * language / norm if norm > 0 else np.zeros_like(vision)
    active_vision, active_language = vision != 0, language != 0

    def ranked(concepts: np.ndarray, score: np.ndarray) -> list[ConceptShare]:
        numbers = np.flatnonzero(concepts)
        order = numbers[np.lexsort((numbers, -score[numbers]))]
        parts = (vision, language, contribution, score)
        return [ConceptShare(int(i), *(float(part[i]) for part in parts)) for i in order]

    both, either = active_vision & active_language, active_vision | active_language
    return Explanation(
        ranked(both, contribution * factor),
        ranked(active_vision & ~active_language, vision * factor),
        ranked(active_language & ~active_vision, language * factor),
        float(contribution.sum()),
        float(both.sum() / either.sum()) if either.any() else 0.0,
    )


def _code(dictionary: Dictionary, x: Tensor, stream: str) -> np.ndarray:
    if x.ndim != 1:
        raise UserError(f"The {stream} side has shape {tuple(x.shape)}; (d,) was expected.")
    return dictionary.encode(x[None], stream).to_dense()[0].double().cpu().numpy()


def _weights(n_concepts: int, weight: str, counts: Any, rows: int | None, means: Any) -> np.ndarray:
    if weight not in WEIGHTS:
        raise unknown("weight", weight, WEIGHTS)
    if weight == "none" or (weight == "auto" and (counts is None or rows is None)):
        return np.ones(n_concepts)
    given = means if weight == "inv_mean" else counts
    if given is None or (weight != "inv_mean" and rows is None):
        needed = "means" if weight == "inv_mean" else "counts and rows"
        raise UserError(f"weight={weight} needs {needed}.", "Give them, or use weight='none'.")
    given = np.asarray(given, dtype=np.float64)
    if given.shape != (n_concepts,):
        raise UserError(f"Statistics of concepts have shape {given.shape}; ({n_concepts},) was expected.")
    if weight == "inv_mean":
        return np.divide(1.0, given, out=np.zeros_like(given), where=given > 0)
    return np.log((float(rows or 0) + 1) / (given + 1))
