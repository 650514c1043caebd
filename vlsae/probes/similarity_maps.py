"""CKA and RSA between any two of several representations of the same rows, each prepared once.

Shapes: n rows, S representations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vlsae.errors import UserError
from vlsae.probes.inputs import centered, matrix, same_rows
from vlsae.probes.products import unit_scale
from vlsae.probes.similarity import VANISHED, distance_ranks


class SimilarityMaps(NamedTuple):
    """Linear CKA, CKA from unbiased HSIC, and RSA of every two representations, each ``(S, S)``."""

    cka: np.ndarray
    cka_unbiased: np.ndarray
    rsa: np.ndarray


def similarity_maps(representations: Sequence[Any]) -> SimilarityMaps:
    """Return the similarities of every two of S ``representations (n, d_s)`` of the same rows.

    The values are those of :func:`~vlsae.probes.similarity.cka`, ``cka_unbiased`` and ``rsa``; each Gram matrix and
    each ranking is made once, and one product gives all pairs. Raises ``ValueError`` for fewer than four rows.
    """
    arrays = [matrix(one, f"representation {number}") for number, one in enumerate(representations)]
    for number, one in enumerate(arrays):
        same_rows(len(arrays[0]), one, f"representation {number}", "representation 0")
    n = len(arrays[0])
    if n < 4:
        raise UserError(f"representations must have at least 4 rows; got {n}.")
    grams = np.empty((len(arrays), n, n))
    for gram, one in zip(grams, arrays):
        x = unit_scale(centered(one))
        gram[:] = x @ x.T
    flat = grams.reshape(len(arrays), -1)
    biased = flat @ flat.T
    own = np.einsum("snn->sn", grams)
    # With centred rows the rows of a Gram matrix without its diagonal sum to minus that diagonal.
    both, totals = own @ own.T, own.sum(axis=1)
    terms = biased - both + np.outer(totals, totals) / ((n - 1) * (n - 2)) - 2 * both / (n - 2)
    alone = np.diagonal(terms)
    sized = alone > VANISHED * np.maximum(np.diagonal(biased), np.diagonal(both))
    ranks = np.stack([distance_ranks(one) for one in arrays])
    ranks -= ranks.mean(axis=1, keepdims=True)
    return SimilarityMaps(
        _normalised(biased, np.diagonal(biased)),
        _normalised(terms, np.where(sized, alone, np.nan)),
        _normalised(ranks @ ranks.T, np.einsum("sp,sp->s", ranks, ranks)),
    )


def _normalised(products: np.ndarray, squares: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(products / np.sqrt(np.outer(squares, squares)))
