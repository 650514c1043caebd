"""Pooling codes of tokens by sample."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from vlsae.dictionaries.token_codes import pool_codes


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_pooled_codes_are_those_of_a_loop(pooling):
    generator = np.random.default_rng(0)
    dense = generator.random((40, 9)) * (generator.random((40, 9)) < 0.3)
    owner = np.sort(generator.integers(0, 6, 40))
    owner[owner == 3] = 4
    pooled = pool_codes(sparse.csr_matrix(dense), owner, 6, pooling).toarray()
    for sample in range(6):
        own = dense[owner == sample]
        expected = getattr(own, pooling)(axis=0) if len(own) else np.zeros(9)
        np.testing.assert_allclose(pooled[sample], expected, atol=1e-12)
