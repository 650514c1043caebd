"""Whether the two sides of a pair are coded by the same concepts, beside pairs that were put together at random.

Row i of each matrix belongs to pair i. n pairs, h concepts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional

from vlsae.dictionaries.base import Dictionary
from vlsae.dictionaries.codes import row_chunks
from vlsae.dictionaries.usage import mean_measure
from vlsae.runs.metrics import Measure

#: Random partners that each row is compared with.
SHUFFLES = 4
#: Pairs among which a row's partner is looked for.
POOL = 1000
DEPTHS = (1, 5, 10)


def jaccard(a: sparse.csr_matrix, b: sparse.csr_matrix) -> np.ndarray:
    """Return the overlap of active concepts of matching rows, ``(n,)``; 0 where neither has any."""
    first, second = (a != 0).astype(np.float64), (b != 0).astype(np.float64)
    shared = np.asarray(first.multiply(second).sum(axis=1)).ravel()
    either = np.asarray(first.sum(axis=1)).ravel() + np.asarray(second.sum(axis=1)).ravel() - shared
    return np.divide(shared, either, out=np.zeros_like(shared), where=either > 0)


def cosine(a: sparse.csr_matrix, b: sparse.csr_matrix) -> np.ndarray:
    """Return the cosine of matching rows of codes, ``(n,)``."""
    return np.asarray(_unit(a).multiply(_unit(b)).sum(axis=1)).ravel()


def expected_jaccard(n_concepts: int, first: Any, second: Any = None) -> Any:
    """Return about what overlap random choices of ``first`` and of ``second`` of h concepts have; k and k by default.

    Expected shared concepts over expected concepts of either, ``k / (2h - k)`` where both choose k; 0 for none.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(first if second is None else second, dtype=np.float64)
    shared = a * b / n_concepts
    either = a + b - shared
    return np.divide(shared, either, out=np.zeros_like(shared), where=either > 0)[()]


def partners(n: int, seed: int) -> list[np.ndarray]:
    """Return some assignments of each row to another row, never to itself; none for fewer than two rows."""
    if n < 2:
        return []
    generator = np.random.default_rng([seed, n])
    chosen = []
    for _ in range(SHUFFLES):
        order = generator.permutation(n)
        assigned = np.empty(n, dtype=np.int64)
        assigned[order] = np.roll(order, 1)
        chosen.append(assigned)
    return chosen


def consistency_measures(
    vision: sparse.csr_matrix, language: sparse.csr_matrix, *, seed: int, resamples: int
) -> dict[str, Measure]:
    """Return Jaccard overlap and cosine of codes of true pairs, of shuffled ones, and their difference."""
    shuffled = [language[assigned] for assigned in partners(vision.shape[0], seed)]
    numbers: dict[str, Measure] = {}
    for name, unit, compare in (("consistency", "Jaccard", jaccard), ("consistency_cosine", "cosine", cosine)):
        true = compare(vision, language)
        chance = np.mean([compare(vision, other) for other in shuffled], axis=0) if shuffled else true[:0]
        excess = true - chance if shuffled else true[:0]
        for suffix, values in (("", true), ("/shuffled", chance), ("/excess", excess)):
            numbers[name + suffix] = mean_measure(values, unit, seed=seed, resamples=resamples)
    # By the rows' own numbers of active concepts, which need not be k.
    random = expected_jaccard(vision.shape[1], np.diff(vision.indptr), np.diff(language.indptr))
    numbers["consistency/random"] = Measure(float(random.mean()), "Jaccard")
    return numbers


def retrieval_measures(
    codes: tuple[sparse.csr_matrix, sparse.csr_matrix], features: tuple[Tensor, Tensor], *, seed: int, resamples: int
) -> dict[str, Measure]:
    """Return how often a row's partner is found by its code, and by the features themselves, both ways.

    Pessimistic: every other row at least as near as the partner goes before it. At most 1,000 pairs are searched.
    """
    n = codes[0].shape[0]
    pool = np.sort(np.random.default_rng([seed, n, 1]).permutation(n)[:POOL])
    by_code = np.asarray((_unit(codes[0][pool]) @ _unit(codes[1][pool]).T).todense())
    rows = torch.from_numpy(pool)
    units = [functional.normalize(x[rows].cpu().double(), dim=1) for x in features]
    by_feature = (units[0] @ units[1].T).numpy()
    numbers: dict[str, Measure] = {}
    for name, similarity in (("code_retrieval", by_code), ("feature_retrieval", by_feature)):
        for way, table in (("image_to_text", similarity), ("text_to_image", similarity.T)):
            rank, ties = pessimistic_ranks(table)
            for depth in DEPTHS:
                numbers[f"{name}/{way}/r{depth}"] = mean_measure(
                    rank <= depth, f"share among {len(pool)} pairs", seed=seed, resamples=resamples
                )
            numbers[f"{name}/{way}/ties"] = Measure(float(ties.mean()), "other rows as near")
    return numbers


def pessimistic_ranks(similarity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rank of each row's own column, ties counting against it, and how many columns tie with it."""
    own = similarity.diagonal()[:, None]
    return (similarity >= own).sum(axis=1), (similarity == own).sum(axis=1) - 1


@torch.no_grad()
def activation_gap(dictionary: Dictionary, vision: Tensor, language: Tensor, *, seed: int, resamples: int) -> Measure:
    """Return the mean over pairs of the largest difference of one concept's activation, before any is left out.

    For VL-SAE it is at most the distance of the unit rows. At most 1,000 pairs are compared.
    """
    n = len(vision)
    pool = torch.from_numpy(np.sort(np.random.default_rng([seed, n, 1]).permutation(n)[:POOL]))
    gaps = []
    for rows in row_chunks(len(pool), dictionary.n_concepts):
        sides = [dictionary.activations(x[pool[rows]], s) for x, s in ((vision, "vision"), (language, "language"))]
        gaps.append((sides[0] - sides[1]).abs().amax(dim=1).cpu().double().numpy())
    return mean_measure(np.concatenate(gaps), "activation", seed=seed, resamples=resamples)


def _unit(codes: sparse.csr_matrix) -> sparse.csr_matrix:
    codes = codes.astype(np.float64)
    norms = np.sqrt(np.asarray(codes.multiply(codes).sum(axis=1)).ravel())
    inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    return sparse.csr_matrix(sparse.diags(inverse) @ codes)
