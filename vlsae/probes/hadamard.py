"""Tasks whose geometry is set: P conditions with labels and inputs of a given alignment (arXiv 2401.13558).

Shapes: P conditions, k labels.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from vlsae.errors import UserError


def hadamard_task(conditions: int, labels: int, alignment: float) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs ``(P, P - 1)`` of norm 1 and labels ±1 ``(P, k)`` whose kernels' centred alignment is given.

    The columns of a Hadamard matrix, of few bits first, are the labels' directions and then all others; inputs have
    the share α of their squares along the labels, for which alignment = (α/√k)/√(α²/k + (1 - α)²/(P - 1 - k)). At 0
    no direction of the inputs tells a label (as xor); at √(k/(P - 1)) all inputs are equally far apart.
    Raises ``ValueError`` for P that is no power of two above 2, k not below P - 1, and alignments outside 0…1.
    """
    if conditions < 4 or conditions & (conditions - 1):
        raise UserError(f"conditions must be a power of two, at least 4; got {conditions}.")
    if not 1 <= labels < conditions - 1:
        raise UserError(f"labels must be at least 1 and fewer than {conditions - 1}; got {labels}.")
    if not 0 <= alignment < 1:
        raise UserError(f"alignment must be at least 0 and below 1; got {alignment}.")
    columns = _parities(conditions)
    rest = conditions - 1 - labels
    ratio = alignment * np.sqrt(labels) / np.sqrt((1 - alignment**2) * rest)
    share = ratio / (1 + ratio)
    scale = np.r_[np.full(labels, np.sqrt(share / labels)), np.full(rest, np.sqrt((1 - share) / rest))]
    return columns * scale, columns[:, :labels]


def unstructured(conditions: int, labels: int) -> float:
    """Return the alignment of labels with inputs that are equally far apart: √(k/(P - 1))."""
    return float(np.sqrt(labels / (conditions - 1)))


def _parities(conditions: int) -> np.ndarray:
    """Return the parity ±1 of every set of bits in every condition ``(P, P - 1)``, small sets first."""
    bits = conditions.bit_length() - 1
    states = np.array(list(product((0, 1), repeat=bits)))
    sets = np.array(
        sorted((one for one in product((0, 1), repeat=bits) if any(one)), key=lambda one: (sum(one), one[::-1]))
    )
    return np.asarray(1.0 - 2.0 * (states @ sets.T % 2))
