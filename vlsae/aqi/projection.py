"""Rows of a layer on a plane, to be looked at: principal components, or UMAP, whose distances say nothing.

n rows, d width.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vlsae.errors import UserError


class Plane(NamedTuple):
    """Places ``(n, 2)`` of rows, and the names of the axes."""

    places: np.ndarray
    axes: tuple[str, str]


def balanced(codes: np.ndarray, most: int, seed: int = 0) -> np.ndarray:
    """Return the numbers of at most ``most`` rows, as many of each class."""
    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(codes == code) for code in np.unique(codes)]
    size = min(min(len(part) for part in members), most // len(members))
    return np.sort(np.concatenate([generator.permutation(part)[:size] for part in members]))


def project(x: np.ndarray, kind: str = "pca", seed: int = 0) -> Plane:
    """Return rows ``x (n, d)`` on a plane; the sign of a component is that of its largest loading.

    Raises ``UserError`` for UMAP where the package is missing.
    """
    values = np.asarray(x, dtype=np.float64)
    values = values - values.mean(axis=0)
    if kind == "umap":
        return _umap(values, seed)
    left, singular, right = np.linalg.svd(values, full_matrices=False)
    size = min(2, len(singular))
    signs = np.sign(right[np.arange(size), np.abs(right[:size]).argmax(axis=1)])
    places = np.zeros((len(values), 2))
    places[:, :size] = left[:, :size] * singular[:size] * signs
    shares = singular**2 / max(float((singular**2).sum()), np.finfo(float).tiny)
    names = [f"component {i + 1} ({shares[i]:.0%} of variance)" if i < size else "-" for i in range(2)]
    return Plane(places, (names[0], names[1]))


def check_projection(kind: str) -> None:
    """Raise ``UserError`` where UMAP is wanted and the package is missing."""
    import importlib.util

    if kind == "umap" and importlib.util.find_spec("umap") is None:
        raise UserError("aqi.projection=umap needs the package umap-learn.", "pip install 'vlsae[umap]', or use pca.")


def _umap(values: np.ndarray, seed: int) -> Plane:
    check_projection("umap")
    import umap

    places = umap.UMAP(n_components=2, random_state=seed, n_jobs=1).fit_transform(values)
    return Plane(np.asarray(places, dtype=np.float64), ("first (layout only)", "second (layout only)"))
