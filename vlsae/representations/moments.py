"""Streaming mean, variance and norms of a site's rows, merged in the order of shards (Chan et al. 1983)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: Rows that are summed at once. Part of the format: another number would round otherwise.
CHUNK = 4096


@dataclass(frozen=True)
class Moments:
    """Of n rows: ``mean (d,)`` and ``m2 (d,)``, the sum of squared deviations; the same of their Euclidean norms.

    ``norms`` holds mean, sum of squared deviations, smallest and largest norm.
    """

    count: int
    mean: np.ndarray
    m2: np.ndarray
    norms: np.ndarray

    @classmethod
    def of(cls, values: Tensor) -> Moments:
        """Return the moments of ``values (n, d)``, computed in float64."""
        merged = cls.none(values.shape[1])
        for start in range(0, values.shape[0], CHUNK):
            merged = merged.merge(cls._of_chunk(values[start : start + CHUNK].to(torch.float64).numpy()))
        return merged

    @classmethod
    def none(cls, width: int) -> Moments:
        """Return the moments of no row."""
        return cls(0, np.zeros(width), np.zeros(width), np.array([0.0, 0.0, np.inf, 0.0]))

    @classmethod
    def _of_chunk(cls, x: np.ndarray) -> Moments:
        # Sums run over the first axis, row by row: the order of additions, and so each bit, is the same on any machine.
        mean = np.add.reduce(x, axis=0) / len(x)
        m2 = np.add.reduce((x - mean) ** 2, axis=0)
        lengths = np.sqrt(np.add.reduce(np.ascontiguousarray(x.T) ** 2, axis=0))
        average = math.fsum(lengths) / len(x)
        spread = math.fsum((lengths - average) ** 2)
        return cls(len(x), mean, m2, np.array([average, spread, lengths.min(), lengths.max()]))

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both sets of rows together."""
        if not self.count or not other.count:
            return other if not self.count else self
        count = self.count + other.count
        share, cross = other.count / count, self.count * other.count / count
        delta = other.mean - self.mean
        apart = other.norms[0] - self.norms[0]
        norms = np.array(
            [
                self.norms[0] + apart * share,
                self.norms[1] + other.norms[1] + apart**2 * cross,
                min(self.norms[2], other.norms[2]),
                max(self.norms[3], other.norms[3]),
            ]
        )
        return Moments(count, self.mean + delta * share, self.m2 + other.m2 + delta**2 * cross, norms)

    def tensors(self) -> dict[str, Tensor]:
        """Return the moments as tensors of a shard's file; the count is the number of its rows."""
        return {
            "mean": torch.from_numpy(self.mean),
            "m2": torch.from_numpy(self.m2),
            "norms": torch.from_numpy(self.norms),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], count: int) -> Moments:
        """Return the moments that lie in a shard's file."""
        return cls(count, *(tensors[name].numpy().copy() for name in ("mean", "m2", "norms")))


@dataclass(frozen=True)
class Statistics:
    """Of all rows of a site: ``mean (d,)``, population ``variance (d,)``, and facts of the rows' Euclidean norms."""

    count: int
    mean: np.ndarray
    variance: np.ndarray
    norm_mean: float
    norm_variance: float
    norm_min: float
    norm_max: float

    @classmethod
    def of(cls, parts: Iterable[Moments]) -> Statistics:
        """Return the statistics of the moments of several shards, at least one, merged one after the other."""
        whole = reduce(Moments.merge, parts)
        rows = max(whole.count, 1)
        spread, lowest, highest = (float(value) for value in whole.norms[1:])
        return cls(
            whole.count,
            whole.mean,
            whole.m2 / rows,
            float(whole.norms[0]),
            spread / rows,
            lowest if whole.count else 0.0,
            highest,
        )

    def as_json(self) -> dict[str, Any]:
        """Return the statistics in the types of JSON, without loss."""
        return {**self.__dict__, "mean": self.mean.tolist(), "variance": self.variance.tolist()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Statistics:
        """Return the statistics that :meth:`as_json` wrote."""
        return cls(**{**value, "mean": np.asarray(value["mean"]), "variance": np.asarray(value["variance"])})
