"""Codes of many rows as one sparse matrix, made chunk by chunk.

n rows, d width, h concepts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from vlsae.dictionaries.base import Dictionary, SparseCode
from vlsae.memory import Pieces

#: Elements of a dense (rows, h) array that may exist at once.
ELEMENTS_AT_ONCE = 1 << 23


def row_chunks(n: int, columns: int) -> Iterator[slice]:
    """Yield slices over ``n`` rows, few enough that a dense ``(rows, columns)`` array stays small."""
    size = max(16, ELEMENTS_AT_ONCE // max(1, columns))
    for first in range(0, n, size):
        yield slice(first, min(n, first + size))


def to_matrix(code: SparseCode) -> sparse.csr_matrix:
    """Return a code as a float32 SciPy matrix ``(n, h)`` without stored zeros."""
    data = code.values.detach().float().cpu().numpy()
    parts = data, code.indices.cpu().numpy(), code.offsets.cpu().numpy()
    matrix = sparse.csr_matrix(parts, shape=(code.n_rows, code.n_concepts))
    matrix.eliminate_zeros()
    return matrix


@torch.no_grad()
def code_matrix(dictionary: Dictionary, x: Tensor, stream: str) -> sparse.csr_matrix:
    """Return the codes of ``x (n, d)`` as a float32 SciPy matrix ``(n, h)``."""
    pieces, chunks = Pieces(), []
    for rows in row_chunks(len(x), dictionary.n_concepts):
        chunks += pieces.run(x[rows], lambda some: to_matrix(dictionary.encode(some, stream)))
    if not chunks:
        return sparse.csr_matrix((0, dictionary.n_concepts), dtype=np.float32)
    return sparse.vstack(chunks, format="csr")


@torch.no_grad()
def activation_matrix(dictionary: Dictionary, x: Tensor, stream: str) -> np.ndarray:
    """Return the activations of ``x (n, d)`` before any is left out, float32 ``(n, h)``."""
    activations = np.empty((len(x), dictionary.n_concepts), dtype=np.float32)
    for rows in row_chunks(len(x), dictionary.n_concepts):
        activations[rows] = dictionary.activations(x[rows], stream).float().cpu().numpy()
    return activations


def rows_of(x: Any, rows: np.ndarray) -> Any:
    """Return some rows of a tensor, an array or a sparse matrix."""
    return x[torch.from_numpy(rows)] if isinstance(x, Tensor) else x[rows]
