"""What the statistics do over many draws of a known population: bias, dependence on size, coverage."""

from __future__ import annotations

import numpy as np
import pytest

from vlsae.aqi import effect, indices
from vlsae.aqi.accumulators import ClassMoments
from vlsae.statistics import jackknife


def noise(seed, n=80, width=64):
    return np.random.default_rng(seed).normal(size=(n, width)), np.arange(n) % 2


def test_without_effect_delta_is_zero_on_average_and_eta_is_not():
    def means(n):
        draws = [noise(seed, n) for seed in range(500)]
        delta2 = np.mean([effect.delta_squared(x, y) for x, y in draws])
        chi = np.mean([indices.calinski_harabasz(x, y) for x, y in draws])
        return delta2, chi, np.mean([effect.eta_squared(x, y) for x, y in draws])

    (delta2, chi, eta2), (twice_delta2, _, twice_eta2) = means(80), means(160)
    assert abs(delta2) < 0.002
    assert abs(chi - 1) < 0.03
    assert eta2 == pytest.approx(0.0127, abs=0.001)
    assert abs(twice_delta2) < 0.002
    assert twice_eta2 == pytest.approx(eta2 / 2, rel=0.06)


def test_the_same_population_has_one_effect_at_any_size():
    shift = np.zeros(64)
    shift[0] = np.sqrt(0.1 * 64)

    def means(n):
        draws = [noise(seed, n) for seed in range(50)]
        values = [
            (indices.calinski_harabasz(x + y[:, None] * shift, y), effect.delta_squared(x + y[:, None] * shift, y))
            for x, y in draws
        ]
        return np.mean(values, axis=0)

    small, large = means(200), means(2000)
    assert 6 < large[0] / small[0] < 11
    assert small[1] == pytest.approx(0.1, rel=0.05)
    assert large[1] == pytest.approx(0.1, rel=0.05)


def test_jackknife_covers_the_true_effect():
    """G = 20 blocks, 300 draws; over more draws the share is 0.94."""
    shift = np.zeros(64)
    shift[0] = np.sqrt(0.1 * 64)
    blocks, labels = np.arange(80) // 2 % 20, np.arange(80) % 2
    covered = 0
    for seed in range(300):
        x = np.random.default_rng(seed + 10_000).normal(size=(80, 64)) + labels[:, None] * shift
        cells = ClassMoments(40, 64).update(x, blocks * 2 + labels)
        every = np.tile([0, 1], 20)

        def statistic(kept, cells=cells, every=every):
            left = np.where(np.isin(np.arange(40) // 2, kept), every, -1)
            return cells.regroup(left, 2).indices()["delta2"][0, 1]

        interval = jackknife(statistic, np.arange(20))
        covered += interval.low <= 0.1 <= interval.high
    assert 0.90 <= covered / 300 <= 0.98
