"""Sparse probing: how well a factor is told by few concepts together (arXiv 2305.01610, section 3).

n rows, h concepts, F factors. Concepts are chosen and probes fitted on one half of the rows and scored on the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy import sparse

from vlsae.dictionaries.factor_scores import Factors, Recovery, checked_factors, halves, score_factors


def mean_differences(scores: Any, factors: np.ndarray) -> np.ndarray:
    """Return how far each concept's mean moves with each factor, in its own standard deviations, ``(F, h)``.

    ``scores (n, h)``, dense or sparse; ``factors (n, F)`` bool. Zero for a concept that never varies.
    """
    present = np.asarray(factors, dtype=np.float64)
    count = present.sum(axis=0)[:, None]
    total = np.asarray(scores.sum(axis=0), dtype=np.float64).ravel()
    squared = scores.multiply(scores) if sparse.issparse(scores) else np.square(np.asarray(scores, dtype=np.float64))
    n = len(present)
    variance = np.asarray(squared.sum(axis=0)).ravel() / n - (total / n) ** 2
    own = np.asarray((scores.T @ present).T, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = np.abs(own / count - (total - own) / (n - count)) / np.sqrt(variance)
    return np.where(np.isfinite(difference) & (variance > 1e-12), difference, 0.0)


def strongest(scores: Any, factors: np.ndarray, k: int) -> np.ndarray:
    """Return the k concepts of each factor whose mean moves most with it, strongest first, ``(F, k)``."""
    return np.argsort(-mean_differences(scores, factors), axis=1, kind="stable")[:, :k]


def sparse_probing(
    scores: Mapping[str, Any], factors: Factors, k: int, *, seed: int = 0, resamples: int = 200
) -> Recovery:
    """Score logistic probes on the k concepts of each factor and stream whose means move most with it.

    ``scores``: stream → ``(n, h)``, dense or SciPy sparse. A factor counts as well as the worse of its streams does.
    """
    from vlsae.dictionaries.recovery import logistic_probe, standardised

    known = checked_factors(factors, scores)
    choose, score = halves(len(known.matrix), seed)
    chosen = {stream: strongest(x[choose], known.matrix[choose], k) for stream, x in scores.items()}
    probes: dict[tuple[int, str], tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]] = {}

    def column(number: int, stream: str, rows: np.ndarray, concept: int) -> np.ndarray:
        if (number, stream) not in probes:
            block = scores[stream][:, chosen[stream][number]]
            dense = np.asarray(block.todense() if sparse.issparse(block) else block, dtype=np.float64)
            scaled = standardised(dense, choose)
            probes[number, stream] = scaled, logistic_probe(scaled[choose], known.matrix[choose, number])
        scaled, decide = probes[number, stream]
        return decide(scaled[rows])

    return score_factors(
        known, tuple(scores), choose, score, lambda number, streams: -1, column, resamples=resamples, seed=seed
    )
