"""Do two trainings find the same concepts? Directions matched one to one, beside random directions (Hungarian method).

h concepts, d width.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from vlsae.dictionaries.base import Dictionary
from vlsae.errors import UserError

#: Concepts that are matched at most: the method's time grows with the cube.
MOST = 2048

#: Cosine from which a concept counts as found again (arXiv 2501.16615).
FOUND_AGAIN = 0.7


@torch.no_grad()
def directions(dictionary: Dictionary, stream: str) -> np.ndarray:
    """Return what each concept adds to a row when it fires alone, at length 1, ``(h, d)``; zero where nothing."""
    parts = []
    own = next(dictionary.parameters())
    silent = torch.zeros(1, dictionary.n_concepts, dtype=own.dtype, device=own.device)
    base = dictionary.decode(silent, stream)
    for first in range(0, dictionary.n_concepts, 512):
        count = min(512, dictionary.n_concepts - first)
        code = silent.repeat(count, 1)
        code[torch.arange(count), first + torch.arange(count)] = 1
        parts.append((dictionary.decode(code, stream) - base).double().cpu())
    found = torch.cat(parts)
    return torch.nn.functional.normalize(found, dim=1, eps=1e-12).numpy()


def matched_cosines(first: np.ndarray, second: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return the cosines of the one-to-one matching of largest sum; at most 2,048 of ``first (h, d)`` are drawn.

    Raises ``ValueError`` for another width.
    """
    if first.shape[1] != second.shape[1]:
        raise UserError(f"Directions of width {first.shape[1]} and {second.shape[1]} cannot be matched.")
    if len(first) > min(MOST, len(second)):
        chosen = np.random.default_rng(seed).choice(len(first), min(MOST, len(second)), replace=False)
        first = first[np.sort(chosen)]
    cosine = first @ second.T
    rows, columns = linear_sum_assignment(cosine, maximize=True)
    return np.asarray(cosine[rows, columns])


def random_like(first: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return random directions ``(h, d)`` with the mean and the covariance of given ones: the same cone, no concept."""
    generator = np.random.default_rng(seed)
    centred = first - first.mean(axis=0)
    drawn = generator.normal(size=(len(first), len(first))) @ centred / np.sqrt(len(first)) + first.mean(axis=0)
    return drawn / np.maximum(np.linalg.norm(drawn, axis=1, keepdims=True), 1e-12)


def stability(dictionaries: list[Dictionary], stream: str, seed: int = 0) -> dict[str, list[float]]:
    """Return, a value a pair of dictionaries: mean matched cosine, share above 0.7, and both against random directions.

    Raises ``ValueError`` for fewer than two dictionaries.
    """
    if len(dictionaries) < 2:
        raise UserError("Stability needs at least two dictionaries.", "Name runs of other seeds.")
    sides = [directions(one, stream) for one in dictionaries]
    found: dict[str, list[float]] = {"cosine": [], "found_again": [], "random_cosine": [], "random_found_again": []}
    for i, first in enumerate(sides):
        for second in sides[i + 1 :]:
            for name, other in (("", second), ("random_", random_like(second, seed))):
                cosines = matched_cosines(first, other, seed)
                found[f"{name}cosine"].append(float(cosines.mean()))
                found[f"{name}found_again"].append(float((cosines > FOUND_AGAIN).mean()))
    return found
