"""Means over networks that were trained alike but for their seeds. B networks."""

from __future__ import annotations

import numpy as np

from vlsae.result import Measure
from vlsae.statistics import Interval, jackknife


def over_networks(values: np.ndarray) -> Interval:
    """Return the mean over networks of ``values (B, …)`` with its t interval; NaN ends for fewer than two networks."""
    if len(values) < 2:
        nothing = np.full(values.shape[1:], np.nan)
        return Interval(values.mean(axis=0) if len(values) else nothing, nothing, nothing, nothing, values)
    return jackknife(lambda rows: values[rows].mean(axis=0), np.arange(len(values)))


def measure_over_networks(values: np.ndarray, unit: str) -> Measure:
    """Return the mean of ``values (B,)`` over networks as a number with its interval."""
    found = over_networks(values)
    return Measure(float(found.estimate), unit, float(found.low), float(found.high))
