"""Numbers that are ratios of sums over pictures, with intervals over pictures and their spread over seeds.

n pictures, S seeds, q columns, B resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlsae.result import Measure
from vlsae.statistics import bootstrap_sums, interval_of

#: Differences below it come of rounding alone: the same answers, summed in another order.
ROUNDING = 1e-12

#: What maps weighted means of columns ``(…, q)`` to numbers by name, each ``(…)``.
Ratios = Callable[[np.ndarray], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Resampled:
    """Numbers by name: means over seeds with their interval, resamples ``(B,)``, and each seed's own value."""

    measures: Mapping[str, Measure]
    replicates: Mapping[str, np.ndarray]
    by_seed: Mapping[str, list[float]]


@dataclass(frozen=True)
class Gain:
    """A difference of two methods on the same pictures, with its interval; undefined where either number is.

    ``sure``: the interval lies on the better side of zero, and so does every pair of seeds.
    """

    difference: float | None
    low: float | None
    high: float | None
    sure: bool


def resampled(
    columns: Sequence[np.ndarray], ratios: Ratios, unit: Mapping[str, str] | str, *, resamples: int, seed: int
) -> Resampled:
    """Return the numbers of one method; ``columns`` holds ``(n, q)`` of each seed, the same pictures in each.

    Equal ``n``, ``resamples`` and ``seed`` draw the same pictures, so that two methods are compared picture by picture.
    """
    width = columns[0].shape[1]
    names = list(ratios(columns[0].mean(axis=0)))

    def each(means: np.ndarray) -> np.ndarray:
        by_seed = [ratios(means[..., s * width : (s + 1) * width]) for s in range(len(columns))]
        return np.stack([np.mean([one[name] for one in by_seed], axis=0) for name in names], axis=-1)

    found = bootstrap_sums(each, np.concatenate(columns, axis=1), resamples=resamples, seed=seed)
    own = [ratios(one.mean(axis=0)) for one in columns]
    units = {name: unit if isinstance(unit, str) else unit[name] for name in names}
    return Resampled(
        {
            name: Measure(_plain(found.estimate[i]), units[name], _plain(found.low[i]), _plain(found.high[i]))
            for i, name in enumerate(names)
        },
        {name: found.replicates[:, i] for i, name in enumerate(names)},
        {name: [float(one[name]) for one in own] for name in names},
    )


def gain(own: Resampled, rival: Resampled, name: str, sign: int = 1) -> Gain:
    """Return what a number gains over a rival's; ``sign`` −1 where lower is better."""
    a, b = own.measures[name].value, rival.measures[name].value
    if a is None or b is None:
        return Gain(None, None, None, False)
    found = interval_of(float(less(a, b)), less(own.replicates[name], rival.replicates[name]))
    better = found.low > 0 if sign > 0 else found.high < 0
    worst, best = min(sign * one for one in own.by_seed[name]), max(sign * one for one in rival.by_seed[name])
    return Gain(found.estimate, _plain(found.low), _plain(found.high), bool(better and less(worst, best) > 0))


def less(first: Any, second: Any) -> np.ndarray:
    """Return ``first − second``, 0 where they differ by rounding alone."""
    found = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    return np.where(np.abs(found) < ROUNDING, 0.0, found)


def share(part: np.ndarray, whole: np.ndarray, undefined: float) -> np.ndarray:
    """Return ``part / whole``, and ``undefined`` where there is nothing to divide by."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), undefined)


def _plain(value: float) -> float | None:
    """A number that is undefined is none."""
    return float(value) if np.isfinite(value) else None
