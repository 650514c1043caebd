"""How much of each stream's rows a dictionary gives back.

Explained variance is one minus the unexplained share, FVU = Σ‖x − x̂‖² / Σ‖x − x̄‖², about the stream's own mean x̄: a
mean pooled over streams would count the gap between them as explained. n rows, d width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vlsae.dictionaries.base import Dictionary
from vlsae.dictionaries.codes import row_chunks
from vlsae.runs.metrics import Measure
from vlsae.statistics import ResampledMeans, interval_of


@torch.no_grad()
def reconstruction(
    dictionary: Dictionary, x: Tensor, stream: str, *, seed: int = 0, resamples: int = 200
) -> dict[str, Measure]:
    """Return ``explained_variance``, ``cosine``, ``fvu_unit`` and ``mse`` of rows ``x (n, d)``, with their intervals.

    ``fvu_unit`` is the unexplained share after both sides are brought to length 1; ``mse`` is the loss trained on.
    """
    mean, unit_mean = _means(dictionary, x, stream)
    sums = ResampledMeans(len(x), resamples, seed)
    for rows in row_chunks(len(x), max(dictionary.n_concepts, 4 * dictionary.width)):
        target, rebuilt = _both_sides(dictionary, x[rows], stream)
        columns = [_parts(target, rebuilt, mean), _parts(_unit(target), _unit(rebuilt), unit_mean)]
        cosine = (_unit(target) * _unit(rebuilt)).sum(dim=1, keepdim=True)
        sums.add(rows, torch.cat([*columns, cosine], dim=1).numpy())
    half = dictionary.width + 2
    means = np.concatenate([sums.estimate[None], sums.replicates])
    fvu, fvu_unit = _unexplained(means[:, :half]), _unexplained(means[:, half : 2 * half])
    return {
        "explained_variance": _measure(1 - fvu, "share of variance"),
        "cosine": _measure(means[:, -1], "cosine"),
        "fvu_unit": _measure(fvu_unit, "share of variance"),
        "mse": _measure(means[:, 0] / dictionary.width, "squared units"),
    }


def _both_sides(dictionary: Dictionary, x: Tensor, stream: str) -> tuple[Tensor, Tensor]:
    rebuilt = dictionary.decode(dictionary.encode(x, stream), stream)
    return dictionary.target(x, stream).cpu().double(), rebuilt.cpu().double()


def _means(dictionary: Dictionary, x: Tensor, stream: str) -> tuple[Tensor, Tensor]:
    total = torch.zeros(2, dictionary.width, dtype=torch.float64)
    for rows in row_chunks(len(x), dictionary.width):
        target = dictionary.target(x[rows], stream).cpu().double()
        total += torch.stack([target.sum(dim=0), _unit(target).sum(dim=0)])
    mean, unit_mean = total / len(x)
    return mean, unit_mean


def _parts(target: Tensor, rebuilt: Tensor, mean: Tensor) -> Tensor:
    """Return what the FVU of any resample is made of, ``(n, 2 + d)``: error, distance to the mean, centred row."""
    centred = target - mean
    error = (target - rebuilt).square().sum(dim=1, keepdim=True)
    return torch.cat([error, centred.square().sum(dim=1, keepdim=True), centred], dim=1)


def _unexplained(means: np.ndarray) -> np.ndarray:
    # Each resample has a mean of its own.
    variance = means[:, 1] - np.square(means[:, 2:]).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(variance > 0, means[:, 0] / variance, np.nan)


def _unit(x: Tensor) -> Tensor:
    return functional.normalize(x, dim=1, eps=1e-12)


def _measure(values: np.ndarray, unit: str) -> Measure:
    interval = interval_of(values[0], values[1:])
    return Measure(float(values[0]), unit, interval.low, interval.high)
