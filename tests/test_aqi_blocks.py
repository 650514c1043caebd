"""Effects without blocks of rows, the parts of their variance, and intervals that hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vlsae import statistics
from vlsae.aqi import blocks
from vlsae.aqi.accumulators import ClassMoments
from vlsae.aqi.crossfit import DirectionNoise, scored_auroc
from vlsae.aqi.design import Design
from vlsae.aqi.effect import stratified_of
from vlsae.aqi.layer import kept_cells, layer_of
from vlsae.aqi.scatter import ratio

GROUPS, WIDTH = 20, 16


def design(rows=40, strata=3):
    n = 2 * rows * strata
    number = np.arange(n)
    codes, stratum = number % 2, number // 2 % strata
    block = number // (2 * strata) % GROUPS
    return Design(codes, stratum, block, block % 5, 2, strata, GROUPS, 5)


def moments(plan, effect, seed, apart=0.0, width=WIDTH):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(len(plan.codes), width)) + effect * (plan.codes == 0)[:, None]
    x += apart * generator.normal(size=(plan.n_strata, width))[plan.strata]
    return ClassMoments(plan.n_cells, width).update(x, plan.cells)


def test_blocks_left_out_at_once_are_those_left_out_one_by_one():
    plan = design()
    # One stratum lacks a class in all but two blocks: without these it cannot be used.
    rows = np.flatnonzero(~((plan.strata == 1) & (plan.codes == 0) & (plan.blocks > 1)))
    plan = plan.take(rows)
    cells = moments(plan, 0.3, 0, apart=5.0)
    found, kept = blocks.left_out(cells, plan), statistics.groups_kept(GROUPS)
    for place in (0, 7, 20, 100):
        expected = stratified_of(kept_cells(cells, plan, np.flatnonzero(kept[place])))
        for name in (*blocks.DISTANCES, *blocks.RATIOS):
            assert found.values[name][place + 1] == pytest.approx(getattr(expected, name), rel=1e-9, nan_ok=True), name
        np.testing.assert_allclose(found.values["strata"][place + 1], expected.delta_squared, rtol=1e-9)
    whole = stratified_of(kept_cells(cells, plan, np.arange(GROUPS)))
    assert found.values["sharedness"][0] == pytest.approx(whole.sharedness, rel=1e-9)
    only = np.zeros((1, GROUPS))
    only[0, :4] = 1
    expected = stratified_of(kept_cells(cells, plan, np.arange(4))).stratified_delta_squared
    assert blocks.stratified_delta_squared(cells, plan, only)[0] == pytest.approx(expected, rel=1e-9)


def test_a_mean_has_no_part_of_pairs_and_a_square_of_noise_no_other():
    generator = np.random.default_rng(0)
    kept = statistics.groups_kept(GROUPS)
    values = generator.normal(size=GROUPS)
    parts = statistics.variance_parts(kept @ values / kept.sum(axis=1), GROUPS)
    assert parts.paired == pytest.approx(0, abs=1e-12)
    assert parts.single == pytest.approx(values.var(ddof=1) / GROUPS)
    found, estimates = [], []
    for _ in range(200):
        x = generator.normal(size=(GROUPS, WIDTH))
        n = kept.sum(axis=1)
        sums, squares = kept @ x, kept @ (x**2).sum(axis=1)
        found.append(statistics.variance_parts(((sums**2).sum(axis=1) - squares) / (n * (n - 1)), GROUPS))
        estimates.append(((x.sum(axis=0) ** 2).sum() - (x**2).sum()) / (GROUPS * (GROUPS - 1)))
    truth = 2 * WIDTH / (GROUPS * (GROUPS - 1))
    assert np.mean([part.paired for part in found]) == pytest.approx(truth, rel=0.15)
    assert np.mean([part.single for part in found]) == pytest.approx(0, abs=0.3 * truth)
    # Of a sum of d squares the third cumulant is 8 d, here over G³.
    assert np.mean([part.third for part in found]) == pytest.approx(8 * WIDTH / GROUPS**3, rel=0.25)
    assert np.var(estimates) == pytest.approx(truth, rel=0.25)


def parts_of(single, paired, skewness=0.0, doubt=0.0):
    return statistics.VarianceParts(single, paired, skewness * paired**1.5, doubt)


@settings(deadline=None)
@given(
    st.floats(-3, 3),
    st.floats(0, 2),
    st.just(0.0) | st.floats(1e-6, 2),
    st.floats(0, 2.8),
    st.floats(0.01, 2),
    st.integers(4, 40),
)
def test_bounds_enclose_the_estimate_and_zero_where_noise_alone_reaches_it(
    estimate, single, paired, skewness, noise, freedom
):
    parts = parts_of(single, paired, skewness, 0.3 * single)
    error, low, high = statistics.squared_length_interval(estimate, noise, parts, freedom)
    assert error == pytest.approx(np.sqrt(single + paired))
    assert low <= estimate + 1e-9
    assert high >= estimate - 1e-9
    if single + paired == 0:
        assert (low, high) == pytest.approx((estimate, estimate))
    # Without skewness zero is inside just where the noise alone can reach the estimate.
    t2 = stats.t.ppf(0.975, freedom) ** 2
    if skewness == 0 and paired > 1e-9 and estimate > 0 and abs(estimate**2 - t2 * paired) > 1e-6:
        assert (low <= 0) == (estimate**2 < t2 * paired)


def test_far_from_zero_the_interval_is_that_of_the_error_and_nothing_is_clipped():
    parts = parts_of(0.0004, 0.0001)
    error, low, high = statistics.squared_length_interval(5.0, 0.1, parts, 19)
    half = stats.t.ppf(0.975, 19) * error
    assert (low, high) == pytest.approx((5 - half, 5 + half), rel=1e-3)
    _, low, high = statistics.squared_length_interval(-0.5, 0.1, parts, 19)
    assert low < high < 0


def test_the_square_of_one_normal_variable_gets_the_exact_interval():
    """x² - 1 of x ~ N(μ, 1): its third cumulant without μ is 8, and bounds of μ² are those of |x| squared."""
    for x in (3.0, 6.0, 12.0):
        parts = statistics.VarianceParts(4 * (x**2 - 1), 2.0, 8.0, 0.0)
        _, low, high = statistics.squared_length_interval(x**2 - 1, 1.0, parts, 10_000)
        assert (low, high) == pytest.approx(((x - 1.96) ** 2, (x + 1.96) ** 2), rel=0.06, abs=0.35)


@pytest.mark.parametrize(("effect", "strata"), [(0.0, 1), (0.0, 3), (0.3, 1)])
def test_intervals_hold_the_truth_with_and_without_effect(effect, strata):
    """benchmarks/aqi_coverage.py has more draws, populations and numbers."""
    plan, truth, held = design(strata=strata), effect**2, []
    for seed in range(150):
        cells = moments(plan, effect, seed)
        values = stratified_of(cells.regroup(np.arange(cells.n_classes) % (2 * strata), 2 * strata))
        interval = blocks.intervals(cells, plan, values).by_name["stratified_delta_squared"]
        held.append(interval.low <= truth <= interval.high)
    assert 0.9 <= np.mean(held) <= 0.99


def test_what_the_difference_of_means_varies_by_is_known_with_and_without_effect():
    plan, width = design(), 64
    each = (1 / np.bincount(plan.codes)).sum()
    for effect in (0.0, 0.3, 1.0):
        cells = [moments(plan, effect, seed, width=width) for seed in range(20)]
        found = [layer_of("language.1", one, plan).direction for one in cells]
        trace, along = np.mean([one.trace for one in found]), np.mean([one.along for one in found])
        assert trace == pytest.approx(width * each**2, rel=0.1)
        assert along == pytest.approx(width * effect**2 * each, rel=0.2, abs=0.2 * trace)
        noise = plan.n_folds / (plan.n_folds - 1) * trace
        assert np.mean([one.share(plan.n_folds) for one in found]) == pytest.approx(noise / (noise + along), abs=0.1)


def test_a_direction_of_which_nothing_is_known_is_all_noise():
    assert DirectionNoise(np.inf, np.inf).share(5) == 1
    assert DirectionNoise(0.0, 0.0).share(5) == 1
    assert DirectionNoise(0.0, 2.0).share(5) == 0
    assert DirectionNoise(4.0, 5.0).share(5) == 0.5


def test_errors_grow_by_what_folds_share_of_their_directions_noise():
    generator = np.random.default_rng(0)
    positive, folds = np.arange(400) % 2 == 0, np.arange(400) // 2 % 5
    scores, strata = generator.normal(size=400), np.zeros(400, dtype=int)
    errors = [scored_auroc(scores, positive, folds, strata, shared).standard_error for shared in (0.0, 0.5, 1.0)]
    # Of a normal score's rank 3/π is linear in the score.
    for shared, error in zip((0.0, 0.5, 1.0), errors):
        assert error == pytest.approx(np.sqrt(1 + shared * 3 / np.pi) * errors[0], rel=0.01)


def test_the_variance_of_auroc_is_free_of_bias_in_small_sets():
    """Eight rows of each class without effect: (m + n + 1) / (12 m n) is exact (Mann and Whitney, 1947)."""
    generator, found = np.random.default_rng(0), []
    positive, whole = np.arange(16) % 2 == 0, np.zeros(16, dtype=int)
    for _ in range(600):
        scores = generator.normal(size=16)
        found.append(
            [scored_auroc(scores, positive, whole, whole, 0.0, one).standard_error ** 2 for one in (True, False)]
        )
    unbiased, delong = np.mean(found, axis=0)
    assert unbiased == pytest.approx(17 / (12 * 64), rel=0.03)
    assert delong > 1.05 * unbiased


def test_classes_wholly_apart_have_bounds_that_say_how_few_rows_there_are():
    positive, whole = np.arange(40) % 2 == 0, np.zeros(40, dtype=int)
    found = scored_auroc(positive.astype(float), positive, whole, whole, 0.0)
    assert (found.auroc, found.high) == pytest.approx((1, 1))
    assert 0.85 < found.low < 0.95


def test_rows_without_scatter_have_no_interval_and_raise_nothing():
    plan = design(strata=1)
    cells = ClassMoments(plan.n_cells, 3).update(np.ones((len(plan.codes), 3)), plan.cells)
    layer = layer_of("language.1", cells, plan)
    assert layer.status == "constant"
    assert np.isnan(layer.intervals["stratified_delta_squared"].low)
    x = np.ones((len(plan.codes), 3)) * plan.codes[:, None]
    layer = layer_of("language.1", ClassMoments(plan.n_cells, 3).update(x, plan.cells), plan)
    assert layer.effect.stratified_delta_squared == ratio(1, 0)
