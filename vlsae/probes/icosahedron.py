"""The 12-bit task of the information plane: which vertices of an icosahedron are active.

Of the labels that Shwartz-Ziv and Tishby (2017, arXiv 1703.00810) released: the rule gives all 4,096 of them back.
"""

from __future__ import annotations

from itertools import product

import numpy as np

VERTICES = 12


def icosahedron_task() -> tuple[np.ndarray, np.ndarray]:
    """Return all inputs ``(4096, 12)``, 0 or 1 in counting order, and their labels ``(4096,)``.

    With k active vertices, a adjacent and c opposite pairs among them: 1 where 52k + 11a - 6c - 5k² > 196. Rotations
    and reflections of the icosahedron change nothing, which leaves 64 kinds of inputs.
    """
    inputs = np.array(list(product((0, 1), repeat=VERTICES)), dtype=np.int64)
    adjacent, opposite = _pairs()
    active = inputs.sum(axis=1)
    score = 52 * active + 11 * _among(inputs, adjacent) - 6 * _among(inputs, opposite) - 5 * active**2 - 196
    return inputs, (score > 0).astype(np.int64)


def _among(inputs: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    return np.asarray(np.einsum("ni,ij,nj->n", inputs, pairs, inputs, optimize=True) // 2)


def _pairs() -> tuple[np.ndarray, np.ndarray]:
    """Return which vertices are adjacent and which are opposite, each ``(12, 12)``, 0 or 1."""
    golden = (1 + np.sqrt(5)) / 2
    corners = [(0.0, one, other * golden) for one in (1, -1) for other in (1, -1)]
    vertices = np.array([np.roll(corner, -turn) for turn in range(3) for corner in corners])
    cosines = vertices @ vertices.T / (1 + golden**2)
    return np.isclose(cosines, 1 / np.sqrt(5)).astype(np.int64), np.isclose(cosines, -1).astype(np.int64)
