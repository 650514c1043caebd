"""Effect sizes, strata, held-out AUROC and the permutation test: golden numbers, bias and coverage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vlsae.aqi import effect, indices
from vlsae.aqi.accumulators import ClassMoments
from vlsae.statistics import jackknife

GOLDEN = Path(__file__).parent / "golden" / "aqi"
AXIOMS = ["balanced", "confounded", "noise", "orthogonal"]

FIELDS = {
    "weights": "weights",
    "delta_squared": "axiom_delta2",
    "chi": "axiom_chi",
    "stratified_delta_squared": "strat_delta2",
    "stratified_omega_squared": "strat_omega2",
    "stratified_chi": "strat_chi",
    "macro_delta_squared": "macro_delta2",
    "common_delta_squared": "common_delta2",
    "sharedness": "sharedness",
    "pooled_delta_squared": "pooled_delta2",
    "pooled_chi": "pooled_chi",
}


@pytest.fixture(params=AXIOMS)
def axioms(request):
    with np.load(GOLDEN / f"axioms_{request.param}.npz") as golden:
        return dict(golden)


def noise(seed, n=80, width=64):
    return np.random.default_rng(seed).normal(size=(n, width)), np.arange(n) % 2


def test_strata_golden(axioms):
    result = effect.stratified(axioms["X"], axioms["y"], axioms["axiom"])
    for field, key in FIELDS.items():
        np.testing.assert_allclose(getattr(result, field), axioms[key], rtol=1e-9, atol=1e-12, err_msg=field)


def test_jackknife_golden(axioms):
    x, y, strata, blocks = (axioms[key] for key in ("X", "y", "axiom", "block"))

    def statistic(rows):
        result = effect.stratified(x[rows], y[rows], strata[rows])
        return np.array([getattr(result, field) for field in fields.values()])

    fields = {key: field for field, key in FIELDS.items() if f"jack_{key}_loo" in axioms and key != "axiom_delta2"}
    assert len(fields) == 5
    interval = jackknife(statistic, blocks)
    for column, key in enumerate(fields):
        for found, name in ((interval.replicates[:, column], "loo"), (interval.standard_error[column], "se")):
            np.testing.assert_allclose(found, axioms[f"jack_{key}_{name}"], rtol=1e-9, atol=1e-12, err_msg=key)
        ends = [interval.low[column], interval.high[column]]
        np.testing.assert_allclose(ends, axioms[f"jack_{key}_ci"], rtol=1e-9, atol=1e-12, err_msg=key)
    by_axiom = jackknife(lambda rows: effect.stratified(x[rows], y[rows], strata[rows]).delta_squared, blocks)
    np.testing.assert_allclose(by_axiom.replicates, axioms["jack_axiom_delta2_loo"], rtol=1e-9, atol=1e-12)


def test_moments_of_cells_give_each_left_out_block(axioms):
    """One pass over cells of block, stratum and class replaces the rows."""
    x, y, strata, blocks = (axioms[key] for key in ("X", "y", "axiom", "block"))
    cells, per_block = ClassMoments(10 * 2 * 5, x.shape[1]), 2 * 5
    cells.update(x, blocks * per_block + strata * 2 + y)
    for block in range(10):
        groups = np.tile(np.arange(per_block), 10)
        groups[block * per_block : (block + 1) * per_block] = -1
        kept = blocks != block
        expected = effect.stratified(x[kept], y[kept], strata[kept])
        found = effect.stratified_of(cells.regroup(groups, per_block))
        for name in ("stratified_delta_squared", "common_delta_squared", "pooled_chi", "stratified_chi"):
            assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-10)


def test_auroc_golden(axioms):
    result = effect.crossfit_auroc(axioms["X"], axioms["y"], axioms["fold"], axioms["axiom"])
    assert result.auroc == pytest.approx(float(axioms["auroc"]), rel=1e-9)
    np.testing.assert_allclose(result.by_stratum, axioms["auroc_axiom"], rtol=1e-9)
    np.testing.assert_allclose(result.scores, axioms["scores"], rtol=1e-9, atol=1e-12)
    assert result.standard_error == pytest.approx(np.sqrt(2) * float(axioms["auroc_placement_se"]), rel=1e-9)


def test_permutation_golden(axioms):
    result = effect.permutation_test(axioms["X"], axioms["y"], axioms["perm_labels"], axioms["axiom"])
    assert result.statistic == pytest.approx(float(axioms["strat_chi"]), rel=1e-9)
    np.testing.assert_allclose(result.null, axioms["perm_strat_chi"], rtol=1e-9)
    assert result.p_value == pytest.approx(float(axioms["perm_p"]), rel=1e-12)


def test_permutation_of_several_classes_is_the_index_of_each():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(30, 4)) + 1e4, np.arange(30) % 3
    permuted = np.stack([generator.permutation(y) for _ in range(9)])
    result = effect.permutation_test(x, y, permuted)
    assert result.statistic == pytest.approx(indices.calinski_harabasz(x, y), rel=1e-8)
    np.testing.assert_allclose(result.null, [indices.calinski_harabasz(x, p) for p in permuted], rtol=1e-8)


def test_labels_themselves_count_as_a_permutation_that_reaches_them():
    x, y = noise(0, n=20)
    result = effect.permutation_test(x + 100, y, np.stack([y, 1 - y]))
    assert result.p_value == 1
    assert (result.null == result.statistic).all()


def test_rows_summed_at_once_do_not_matter(monkeypatch):
    x, y = noise(1)
    permuted = np.stack([np.random.default_rng(k).permutation(y) for k in range(5)])
    expected = effect.permutation_test(x, y, permuted).null
    for rows in (1, 7):
        monkeypatch.setattr("vlsae.aqi.permutation.ROWS_AT_ONCE", rows)
        np.testing.assert_allclose(effect.permutation_test(x, y, permuted).null, expected, rtol=1e-12)


def test_confounded_strata_are_seen_only_within():
    with np.load(GOLDEN / "axioms_confounded.npz") as golden:
        x, y, strata, blocks = (golden[key] for key in ("X", "y", "axiom", "block"))
    result = effect.stratified(x, y, strata)
    assert result.pooled_delta_squared == pytest.approx(0.17901, abs=1e-4)
    assert result.stratified_delta_squared == pytest.approx(0.04031, abs=1e-4)
    interval = jackknife(
        lambda rows: effect.stratified(x[rows], y[rows], strata[rows]).stratified_delta_squared, blocks
    )
    assert (interval.low, interval.high) == pytest.approx((-0.0531, 0.1338), abs=1e-4)


def test_orthogonal_directions_share_a_quarter():
    with np.load(GOLDEN / "axioms_orthogonal.npz") as golden:
        result = effect.stratified(golden["X"], golden["y"], golden["axiom"])
    assert result.sharedness == pytest.approx(0.2738, abs=1e-4)
    assert result.pooled_delta_squared == pytest.approx(0.0719, abs=1e-4)
    assert result.stratified_delta_squared == pytest.approx(0.2937, abs=1e-4)


def test_one_stratum_is_no_stratum():
    x, y = noise(2)
    result = effect.stratified(x, y, np.zeros(80, dtype=int))
    assert result.stratified_delta_squared == pytest.approx(effect.delta_squared(x, y), rel=1e-12)
    assert result.stratified_chi == pytest.approx(indices.calinski_harabasz(x, y), rel=1e-12)
    assert result.stratified_omega_squared == pytest.approx(effect.omega_squared(x, y), rel=1e-12)
    assert result.common_delta_squared == pytest.approx(effect.delta_squared(x, y), rel=1e-12)


def test_a_stratum_too_small_is_left_out():
    x, y = noise(3)
    strata = np.repeat([3, 7], 40)
    strata[y.argmax()] = 9
    result = effect.stratified(x, y, strata)
    kept = strata != 9
    expected = effect.stratified(x[kept], y[kept], strata[kept])
    assert result.stratified_delta_squared == pytest.approx(expected.stratified_delta_squared, rel=1e-12)
    assert np.isnan(result.macro_delta_squared)
    assert np.isnan(result.delta_squared).tolist() == [False, False, True]
    assert result.weights.tolist() == pytest.approx([*expected.weights, 0])
    assert result.pooled_delta_squared == pytest.approx(effect.delta_squared(x, y), rel=1e-12)


def test_one_class_is_undefined():
    x = noise(4)[0]
    same, strata = np.zeros(80, dtype=int), np.arange(80) % 3
    result = effect.stratified(x, same, strata)
    assert result.weights.tolist() == [0, 0, 0]
    assert np.isnan([*result.delta_squared, *result.chi, *result[3:]]).all()
    assert np.isnan(effect.delta_squared(x, same))
    auroc = effect.crossfit_auroc(x, same, strata)
    assert np.isnan([auroc.auroc, auroc.standard_error, *auroc.scores, *auroc.by_stratum]).all()
    test = effect.permutation_test(x, same, np.stack([same, same]))
    assert np.isnan([test.statistic, test.p_value, *test.null]).all()


def test_variance_of_unequal_classes():
    """The pooled variance leans to the larger class; that of classes does not."""
    generator = np.random.default_rng(0)
    x = np.concatenate([generator.normal(size=(40_000, 2)) * 3, generator.normal(size=(400, 2)) + np.array([2, 0])])
    y = np.repeat([0, 1], [40_000, 400])
    assert effect.delta_squared(x, y) == pytest.approx(4 / 10, rel=0.1)
    assert effect.delta_squared(x, y, variance="pooled") == pytest.approx(4 / 18, rel=0.1)


def test_auroc_of_far_classes_is_one_whatever_the_offset():
    x, y = noise(5)
    folds = np.arange(80) // 2 % 5
    result = effect.crossfit_auroc(x + y[:, None] * 10 + 1e5, y, folds)
    assert result.auroc == 1
    assert result.standard_error == 0
    assert result.by_stratum.tolist() == [1]


def test_folds_without_a_direction_are_left_out():
    x, y = noise(6, n=12)
    folds = np.where(y == 0, np.arange(12) // 2 % 2, 0)
    result = effect.crossfit_auroc(x, y, folds)
    assert np.isnan(result.scores).tolist() == (folds == 0).tolist()
    assert np.isnan(result.auroc)


def test_wrong_input_is_named():
    x, y = noise(0)
    folds = np.arange(80) % 5
    with pytest.raises(ValueError, match="variance 'mean'"):
        effect.delta_squared(x, y, variance="mean")
    with pytest.raises(ValueError, match="3 classes"):
        effect.delta_squared(x, np.arange(80) % 3)
    with pytest.raises(ValueError, match="strata has shape"):
        effect.stratified(x, y, folds[1:])
    with pytest.raises(ValueError, match="at least 2 folds"):
        effect.crossfit_auroc(x, y, folds * 0)
    with pytest.raises(ValueError, match="folds must be integers"):
        effect.crossfit_auroc(x, y, folds / 2)
    with pytest.raises(ValueError, match=r"permuted has shape \(80,\)"):
        effect.permutation_test(x, y, y)
    with pytest.raises(ValueError, match=r"permuted does not hold .* rows 1\."):
        effect.permutation_test(x, y, np.stack([y, y * 0]))
    x[7] = np.inf
    with pytest.raises(ValueError, match="row 7"):
        effect.stratified(x, y, folds)
