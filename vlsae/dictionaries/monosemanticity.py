"""Monosemanticity: how alike the rows are that activate a concept, weighted by how strongly (arXiv 2504.02821).

n rows, h concepts, d width of the features. Over pairs it is O(n²); in closed form it is linear in n.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse

from vlsae.dictionaries.codes import row_chunks
from vlsae.dictionaries.usage import mean_measure
from vlsae.runs.metrics import Measure

#: The best concepts whose mean is given apart.
TOP = 100


class Scaled(NamedTuple):
    """Of activations brought to [0, 1] by each concept's least and largest: sums ``(h,)``, sums of squares ``(h,)``,
    and ``(h, d)`` sums of features times them. NaN for a concept that never varies."""

    sums: np.ndarray
    squares: np.ndarray
    features: np.ndarray


def scaled_sums(codes: sparse.csr_matrix, features: np.ndarray) -> Scaled:
    """Return what scores are made of, for codes ``(n, h)`` and unit features ``(n, d)``."""
    n, h = codes.shape
    by_concept = sparse.csc_matrix(codes.astype(np.float64))
    # What is not stored is zero, so that a concept silent on some row has zero among its values.
    low = np.asarray(by_concept.min(axis=0).todense()).ravel() if n else np.zeros(h)
    high = np.asarray(by_concept.max(axis=0).todense()).ravel() if n else np.zeros(h)
    extent = np.where(high > low, high - low, np.nan)
    sums = np.asarray(by_concept.sum(axis=0)).ravel()
    squares = np.asarray(by_concept.multiply(by_concept).sum(axis=0)).ravel()
    whole = features.sum(axis=0)
    weighted = np.empty((h, features.shape[1]))
    for part in row_chunks(h, features.shape[1]):
        own = by_concept[:, part].T @ features
        weighted[part] = (own - low[part, None] * whole) / extent[part, None]
    return Scaled((sums - n * low) / extent, (squares - 2 * low * sums + n * low**2) / extent**2, weighted)


def monosemanticity(codes: sparse.csr_matrix, features: np.ndarray) -> np.ndarray:
    """Return each concept's score ``(h,)``: the mean cosine of pairs of rows, weighted by both activations.

    ``Σ_{n<m} ã_n ã_m f_n·f_m / Σ_{n<m} ã_n ã_m`` with activations ã in [0, 1] and unit features f. NaN for a concept
    that fewer than two rows activate.
    """
    found = scaled_sums(codes, _unit(features))
    pairs = found.sums**2 - found.squares
    with np.errstate(divide="ignore", invalid="ignore"):
        score = (np.square(found.features).sum(axis=1) - found.squares) / pairs
    return np.where(pairs > 1e-12 * np.maximum(found.sums, 1) ** 2, score, np.nan)


def cross_monosemanticity(
    codes: tuple[sparse.csr_matrix, sparse.csr_matrix], features: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Return each concept's mean cosine of an image and a text, weighted by both activations, ``(h,)``."""
    sides = [scaled_sums(code, _unit(own)) for code, own in zip(codes, features)]
    pairs = sides[0].sums * sides[1].sums
    with np.errstate(divide="ignore", invalid="ignore"):
        score = (sides[0].features * sides[1].features).sum(axis=1) / pairs
    return np.where(pairs > 0, score, np.nan)


def monosemanticity_measures(
    codes: dict[str, sparse.csr_matrix], features: dict[str, np.ndarray], *, seed: int, resamples: int
) -> dict[str, Measure]:
    """Return mean, quartiles and the best concepts' mean of each stream's scores, and what chance gives.

    Chance is the mean cosine of two rows, whatever activates. Intervals resample concepts.
    """
    numbers: dict[str, Measure] = {}
    common = {"seed": seed, "resamples": resamples}
    for stream, matrix in codes.items():
        scores = monosemanticity(matrix, features[stream])
        live = np.sort(scores[~np.isnan(scores)])
        name = f"monosemanticity/{stream}"
        numbers[name] = mean_measure(live, "cosine", **common)
        numbers[f"{name}/top{TOP}"] = mean_measure(live[-TOP:], "cosine", **common)
        for share in (25, 50, 75):
            value = float(np.percentile(live, share)) if len(live) else None
            numbers[f"{name}/p{share}"] = Measure(value, "cosine")
        numbers[f"{name}/chance"] = Measure(_chance(features[stream]), "cosine")
        numbers[f"{name}/concepts"] = Measure(len(live), "concepts that two rows activate")
    if len(codes) == 2:
        cross = cross_monosemanticity((codes["vision"], codes["language"]), (features["vision"], features["language"]))
        numbers["monosemanticity/cross"] = mean_measure(cross[~np.isnan(cross)], "cosine", **common)
    return numbers


def _chance(features: np.ndarray) -> float | None:
    n = len(features)
    total = np.square(_unit(features).sum(axis=0)).sum()
    return None if n < 2 else float((total - n) / (n * n - n))


def _unit(features: np.ndarray) -> np.ndarray:
    values = np.asarray(features, dtype=np.float64)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
