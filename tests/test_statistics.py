"""Intervals against closed forms and against slower ways to the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from vlsae.statistics import (
    ResampledMeans,
    bootstrap,
    bootstrap_sums,
    explained_interval,
    interval_of,
    jackknife,
    multinomial_weights,
    paired_bootstrap,
    permutation_p_value,
    placements,
    share_interval,
    t_interval,
    wilson_bounds,
)


def test_jackknife_of_a_mean_is_the_t_interval():
    x = np.random.default_rng(0).normal(size=30)
    result = jackknife(lambda rows: x[rows].mean(), np.arange(30))
    error = x.std(ddof=1) / np.sqrt(30)
    assert result.estimate == pytest.approx(x.mean())
    assert result.standard_error == pytest.approx(error)
    assert result.high - result.estimate == pytest.approx(stats.t.ppf(0.975, 29) * error)
    assert result.replicates.shape == (30,)


def test_jackknife_of_an_array_leaves_blocks_out_in_ascending_order():
    x = np.random.default_rng(1).normal(size=(24, 2))
    blocks = np.tile([7, 3, 5], 8)
    result = jackknife(lambda rows: x[rows].mean(axis=0), blocks, level=0.9)
    assert result.replicates.shape == (3, 2)
    np.testing.assert_allclose(result.replicates[0], x[blocks != 3].mean(axis=0))
    np.testing.assert_allclose((result.high - result.low) / 2, stats.t.ppf(0.95, 2) * np.asarray(result.standard_error))


def test_jackknife_needs_two_blocks():
    with pytest.raises(ValueError, match="at least 2 blocks"):
        jackknife(lambda rows: 0.0, np.zeros(5, int))


def test_bootstrap_covers_a_mean_as_the_normal_interval_does():
    x = np.random.default_rng(2).normal(size=400)
    result = bootstrap(lambda rows: x[rows].mean(), 400, resamples=2000, seed=3)
    error = x.std(ddof=1) / 20
    assert result.standard_error == pytest.approx(error, rel=0.08)
    assert result.low == pytest.approx(x.mean() - 1.96 * error, abs=0.15 * error)
    assert bootstrap(lambda rows: x[rows].mean(), 400, resamples=20, seed=3).low == pytest.approx(
        bootstrap(lambda rows: x[rows].mean(), 400, resamples=20, seed=3).low
    )


def test_bootstrap_of_sums_is_the_bootstrap_of_rows():
    generator = np.random.default_rng(4)
    columns = np.stack([generator.normal(3, 1, 50), generator.normal(2, 0.5, 50)], axis=1)
    fast = bootstrap_sums(lambda m: m[..., 0] / m[..., 1], columns, resamples=64, seed=5)
    weights = np.concatenate(list(multinomial_weights(50, 64, seed=5)))
    slow = [(w @ columns)[0] / (w @ columns)[1] for w in weights]
    np.testing.assert_allclose(fast.replicates, slow)
    assert (weights.sum(axis=1) == 50).all()
    assert fast.estimate == pytest.approx(columns[:, 0].sum() / columns[:, 1].sum())
    assert fast.low < fast.estimate < fast.high


def test_undefined_replicates_are_left_out():
    result = interval_of(1.0, np.array([1.0, np.nan, 2.0, 3.0]))
    assert (result.low, result.high) == (pytest.approx(1.05), pytest.approx(2.95))
    assert np.isnan(interval_of(1.0, np.full(3, np.nan)).low)


def test_permutation_p_value_counts_the_observed_one():
    assert permutation_p_value(5.0, np.arange(9)) == pytest.approx((1 + 4) / 10)
    assert permutation_p_value(100.0, np.arange(9)) == pytest.approx(0.1)


def test_paired_bootstrap_sees_a_difference_that_unpaired_noise_hides():
    generator = np.random.default_rng(6)
    hard = generator.normal(0, 10, 300)
    better = paired_bootstrap(hard + 0.5 + generator.normal(0, 1, 300), hard)
    assert better.low > 0
    assert better.p_value < 0.01
    assert better.difference == pytest.approx(0.5, abs=0.2)
    same = paired_bootstrap(hard, hard)
    assert (same.difference, same.p_value) == (0.0, 1.0)


@pytest.mark.parametrize(
    "call",
    [
        lambda: paired_bootstrap([1.0], [1.0, 2.0]),
        lambda: permutation_p_value(1.0, []),
        lambda: bootstrap(lambda rows: 0.0, 0),
        lambda: jackknife(lambda rows: 0.0, [0.0, 1.5]),
        lambda: interval_of(0.0, np.zeros(3), level=1.5),
    ],
)
def test_wrong_arguments_are_value_errors(call):
    with pytest.raises(ValueError, match="must"):
        call()


def test_resampled_means_of_chunks_are_those_of_all_rows():
    columns = np.random.default_rng(7).normal(size=(33, 3))
    means = ResampledMeans(33, resamples=16, seed=8)
    for rows in (slice(0, 20), slice(20, 33)):
        means.add(rows, columns[rows])
    weights = np.concatenate(list(multinomial_weights(33, 16, seed=8)))
    np.testing.assert_allclose(means.estimate, columns.mean(axis=0))
    np.testing.assert_allclose(means.replicates, weights @ columns / 33)


def test_a_share_of_independent_rows_has_wilsons_interval():
    hits = np.repeat([1.0, 0.0], [37, 13])
    found = bootstrap_sums(lambda m: m[..., 0], hits[:, None], resamples=20000, seed=0)
    interval = share_interval(found, 50, 50)
    expected = stats.binomtest(37, 50).proportion_ci(method="wilson")
    # t with 49 degrees of freedom for the normal quantile makes it a little wider.
    assert interval.low == pytest.approx(expected.low, abs=0.005)
    assert interval.high == pytest.approx(expected.high, abs=0.005)
    assert interval.estimate == found.estimate


def test_shares_at_their_ends_have_an_interval_and_unknown_errors_none():
    found = bootstrap_sums(lambda m: m[..., 0], np.ones((40, 1)), resamples=50)
    assert (found.low, found.high) == (1.0, 1.0)
    interval = share_interval(found, 40, 40)
    assert interval.low == pytest.approx(stats.binomtest(40, 40).proportion_ci(method="wilson").low, abs=0.01)
    assert interval.high == pytest.approx(1.0)
    assert np.isnan(share_interval(found._replace(standard_error=np.nan), 40, 40).low)


def test_shared_noise_is_worth_as_many_draws_fewer():
    found = bootstrap_sums(lambda m: m[..., 0], np.repeat([1.0, 0.0], [60, 40])[:, None], resamples=4000, seed=0)
    wide = share_interval(found, 101, 100, shared=1.0)
    expected = wilson_bounds(0.6, np.sqrt(2) * found.standard_error, 100, 100, 100)
    assert (wide.low, wide.high) == pytest.approx(expected)
    # Twice the variance: as many draws as half the rows would give.
    half = share_interval(found._replace(standard_error=np.sqrt(0.24 / 50)), 101, 100)
    assert wide.high - wide.low == pytest.approx(half.high - half.low, rel=0.03)


def test_the_interval_of_a_share_explained_is_that_of_the_log_of_the_rest():
    """Two sums of squares of 60 normal errors each."""
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(1000):
        left, whole = generator.normal(size=(2, 60)) ** 2 * [[0.2], [1.0]]
        one = explained_interval(left, whole)
        assert one.high < 1
        assert (1 - one.low) * (1 - one.high) == pytest.approx((1 - one.estimate) ** 2)
        inside += one.low <= 0.8 <= one.high
    assert 0.93 <= inside / 1000 <= 0.97
    wider = explained_interval(left, whole, shared=1.0)
    width = [np.log((1 - each.low) / (1 - each.high)) for each in (one, wider)]
    assert width[1] == pytest.approx(np.sqrt(2) * width[0])


def test_what_is_explained_in_full_has_no_width_and_a_single_group_no_interval():
    one = explained_interval(np.zeros(20), np.ones(20))
    assert (one.estimate, one.low, one.high) == (1.0, 1.0, 1.0)
    alone = explained_interval([0.5], [1.0])
    assert alone.estimate == 0.5
    assert np.isnan([alone.low, alone.high]).all()


def test_placements_are_shares_of_pairs():
    generator = np.random.default_rng(0)
    high, low = np.round(generator.normal(size=20), 1), np.round(generator.normal(size=30), 1)
    won = (high[:, None] > low) + 0.5 * (high[:, None] == low)
    of_high, of_low = placements(high, low)
    np.testing.assert_allclose(of_high, won.mean(axis=1))
    np.testing.assert_allclose(of_low, won.mean(axis=0))


def test_an_interval_by_t():
    one = t_interval(2.0, 0.5, 9)
    assert one.high - 2 == pytest.approx(stats.t.ppf(0.975, 9) * 0.5)
    assert one.low + one.high == pytest.approx(4.0)


@pytest.mark.parametrize("size", [1, 5])
def test_wilsons_interval_covers_a_share_of_groups_better_than_quantiles_do(size):
    """Twenty groups whose members agree: so many draws, not rows."""
    generator = np.random.default_rng(3)
    inside = np.zeros(2)
    for draw in range(300):
        sums = np.column_stack([(generator.random(20) < 0.85) * float(size), np.full(20, float(size))])
        found = bootstrap_sums(lambda m: m[..., 0] / m[..., 1], sums, resamples=200, seed=draw)
        for kind, one in enumerate((found, share_interval(found, 20, 20 * size))):
            inside[kind] += one.low <= 0.85 <= one.high
    assert inside[1] / 300 >= 0.93
    assert inside[0] < inside[1]
