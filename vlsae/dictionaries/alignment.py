"""Intra- and Inter-Sim of a dictionary on the rows it codes: do a concept's top images and top texts agree?

The features are the representations themselves. N concepts, d width, h concepts in all.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional

from vlsae.dictionaries.similarity import intra_inter_similarity
from vlsae.runs.metrics import Measure
from vlsae.statistics import Interval, interval_of, multinomial_weights

CONCEPTS = 100
ITEMS = 10
#: The published code's choice of concepts: NumPy's legacy generator, seed 42.
CONCEPT_SEED = 42


def similarity_measures(
    codes: dict[str, sparse.csr_matrix], features: dict[str, Tensor], *, seed: int, resamples: int
) -> dict[str, Measure]:
    """Return Intra-Sim, Inter-Sim, their difference and Intra-Sim with texts of another concept.

    100 concepts are drawn; those dead in a stream are left out and counted. Intervals resample concepts.
    """
    h = codes["vision"].shape[1]
    drawn = np.random.RandomState(CONCEPT_SEED).choice(h, min(CONCEPTS, h), replace=False)
    columns = {stream: sparse.csc_matrix(matrix[:, drawn]) for stream, matrix in codes.items()}
    live = np.flatnonzero((np.diff(columns["vision"].indptr) > 0) & (np.diff(columns["language"].indptr) > 0))
    unit = "cosine"
    counts = {
        "intra_sim/concepts": Measure(len(live), "concepts"),
        "intra_sim/dead": Measure(len(drawn) - len(live), "concepts left out"),
    }
    names = ("intra_sim", "inter_sim", "intra_sim/shuffled", "intra_sim/contrast")
    if len(live) < 2:
        return {**{name: Measure(None, unit) for name in names}, **counts}
    means = {stream: _means_of_top(columns[stream], live, features[stream]) for stream in ("vision", "language")}
    result = intra_inter_similarity(means["vision"], means["language"])
    similarity = result.similarity.cpu().numpy()
    intervals = similarity_intervals(similarity, seed=seed, resamples=resamples)
    measures = {
        name: Measure(float(interval.estimate), unit, interval.low, interval.high)
        for name, interval in zip(names, intervals)
    }
    return {**measures, **counts}


def similarity_intervals(similarity: np.ndarray, *, seed: int, resamples: int) -> tuple[Interval, ...]:
    """Return intra, inter, shuffled intra and contrast of ``(N, N)`` similarities with intervals over concepts.

    Shuffled: each concept's texts are those of the next one. Pairs of a concept with its own copy in a resample are no
    pairs of different concepts and are left out.
    """
    n = len(similarity)
    own = similarity.diagonal()
    next_one = similarity[np.arange(n), (np.arange(n) + 1) % n]
    weights = np.concatenate([np.ones((1, n)), *multinomial_weights(n, resamples, seed)])
    intra = weights @ own / n
    shuffled = weights @ next_one / n
    squares = weights**2
    pairs = n**2 - squares.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        inter = (np.einsum("bn,nm,bm->b", weights, similarity, weights, optimize=True) - squares @ own) / pairs
    return tuple(interval_of(value[0], value[1:]) for value in (intra, inter, shuffled, intra - inter))


def top_rows(column: sparse.csc_matrix, items: int = ITEMS) -> np.ndarray:
    """Return the rows of the largest entries of one column, largest first, ties to the lower row."""
    order = np.lexsort((column.indices, -column.data))[:items]
    return column.indices[order]


def _means_of_top(columns: sparse.csc_matrix, concepts: np.ndarray, features: Tensor) -> Tensor:
    """Return the mean direction of each concept's top rows as one item, ``(N, 1, d)``: concepts may have few rows."""
    means = []
    for concept in concepts:
        rows = torch.from_numpy(top_rows(columns[:, [concept]]).astype(np.int64))
        means.append(functional.normalize(features[rows].double(), dim=1, eps=1e-12).mean(dim=0))
    return torch.stack(means)[:, None]
