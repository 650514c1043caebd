"""Codes of tokens, pooled by sample: what a token-level dictionary says of a whole image or text.

t tokens, s samples, h concepts.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from vlsae.dictionaries.base import one_of

POOLINGS = ("mean", "max")


def pool_codes(codes: sparse.csr_matrix, sample: np.ndarray, samples: int, pooling: str = "mean") -> sparse.csr_matrix:
    """Return codes ``(s, h)`` of samples from codes ``(t, h)`` of their tokens; ``sample (t,)`` is each token's.

    ``mean`` counts silent tokens as zeros, ``max`` is the strongest token. A sample without tokens has an empty code.
    """
    one_of("pooling", pooling, POOLINGS)
    owner = np.asarray(sample, dtype=np.int64)
    shape = (samples, codes.shape[1])
    if pooling == "mean":
        counts = np.bincount(owner, minlength=samples)
        share = 1 / np.maximum(counts, 1)
        gather = sparse.csr_matrix((share[owner], (owner, np.arange(len(owner)))), shape=(samples, len(owner)))
        return sparse.csr_matrix(gather @ codes)
    entries = codes.tocoo()
    cells = owner[entries.row] * shape[1] + entries.col
    order = np.lexsort((-entries.data, cells))
    cells, first = np.unique(cells[order], return_index=True)
    return sparse.csr_matrix((entries.data[order][first], (cells // shape[1], cells % shape[1])), shape=shape)
