"""Batched fits and nested cross-validation against scikit-learn, one fit at a time."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from vlsae.errors import UserError
from vlsae.probes import fitting
from vlsae.probes.fitting import Design, Problem, fit
from vlsae.probes.folds import grouped_folds
from vlsae.probes.nested import losses, nested
from vlsae.probes.online_code import code_length
from vlsae.probes.scores import auroc_parts

LEVELS = (0.1, 1.0, 30.0)


def rows(n: int, d: int, seed: int = 0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, d)) * generator.uniform(0.2, 5, d) + generator.normal(size=d) * 4
    x[:, 1] = x[:, 0] * 0.5 + 0.1 * generator.normal(size=n)
    signal = (x - x.mean(0)) / x.std(0) @ generator.normal(size=(d, 4)) / np.sqrt(d)
    noise = generator.logistic(size=n)
    y = {0: signal[:, 0] + noise, 2: signal[:, 0] + noise > 0, 4: (signal + generator.gumbel(size=(n, 4))).argmax(1)}
    return x, {classes: values.astype(float)[:, None] for classes, values in y.items()}, generator.permutation(n) % 4


def looped(x, y, kept, penalty, classes, scale=True):
    scaler = StandardScaler(with_mean=scale, with_std=scale).fit(x[kept])
    if classes == 0:
        model = Ridge(alpha=penalty, tol=1e-10).fit(scaler.transform(x[kept]), y[kept])
    else:
        model = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=20_000).fit(scaler.transform(x[kept]), y[kept])
    slopes = np.atleast_2d(model.coef_) / (scaler.scale_ if scale else 1)
    offsets = np.atleast_1d(model.intercept_) - (slopes @ scaler.mean_ if scale else 0)
    return np.column_stack([slopes, offsets])


@pytest.mark.parametrize("classes", [0, 2, 4])
@pytest.mark.parametrize(("n", "d", "scale"), [(150, 8, True), (150, 8, False), (40, 60, True), (40, 60, False)])
def test_each_fit_is_scikit_learn_s(n, d, scale, classes):
    x, y, folds = rows(n, d)
    problems = [Problem(0, left_out, level) for left_out in ((), (1,), (0, 3)) for level in LEVELS]
    design = Design(x, folds, scale=scale)
    found = design.raw(fit(design, y[classes], problems, classes))
    for own, problem in zip(found, problems):
        theirs = looped(x, y[classes][:, 0], ~np.isin(folds, problem.left_out), problem.penalty, classes, scale)
        np.testing.assert_allclose(own[:, :-1], theirs[:, :-1], atol=1e-4 * max(1, np.abs(theirs).max()))
        ours, expected = (x @ one[:, :-1].T + one[:, -1] for one in (own, theirs))
        if classes > 2:  # the softmax has its offsets up to one constant
            ours, expected = (scores - scores.mean(axis=1, keepdims=True) for scores in (ours, expected))
        np.testing.assert_allclose(ours, expected, atol=5e-3)


@pytest.mark.parametrize("classes", [0, 2])
def test_a_column_that_is_constant_in_a_training_set_gets_no_weight(classes):
    x, y, folds = rows(80, 5)
    x[:, 3] = folds == 2
    x[:, 4] = 7.0
    design = Design(x, folds)
    found = design.raw(fit(design, y[classes], [Problem(0, (2,), 1.0), Problem(0, (1,), 1.0)], classes))
    assert np.abs(found[0, 0, 3:5]).max() < 1e-8
    assert found[1, 0, 4] == 0
    assert found[1, 0, 3] != 0


@pytest.mark.parametrize("classes", [0, 2, 4])
def test_nested_cross_validation_is_the_plain_loop(classes):
    x, y, folds = rows(90, 6, seed=3)
    y = y[classes]
    (found,) = nested(x, y, folds, LEVELS, classes)
    for fold in range(4):
        total = {}
        for level in LEVELS:
            total[level] = 0.0
            for other in set(range(4)) - {fold}:
                own = looped(x, y[:, 0], ~np.isin(folds, (fold, other)), level, classes)
                held = folds == other
                scores = (x[held] @ own[:, :-1].T + own[:, -1])[:, None]
                total[level] += losses(scores, y[held], classes).sum()
        best = min(total, key=total.get)
        assert found.penalties[fold] == best
        own = looped(x, y[:, 0], folds != fold, best, classes)
        expected = x[folds == fold] @ own[:, :-1].T + own[:, -1]
        got = found.scores[folds == fold]
        if classes > 2:
            got, expected = got - got.mean(1, keepdims=True), expected - expected.mean(1, keepdims=True)
        np.testing.assert_allclose(got, expected, atol=1e-3)


def test_the_scored_fold_has_no_say_in_its_penalty():
    x, y, folds = rows(90, 6, seed=5)
    changed = y[2].copy()
    changed[folds == 1] = 1 - changed[folds == 1]
    before, after = nested(x, y[2], folds, LEVELS, 2)[0], nested(x, changed, folds, LEVELS, 2)[0]
    assert before.penalties[1] == after.penalties[1]
    np.testing.assert_allclose(before.scores[folds == 1], after.scores[folds == 1], atol=1e-12)


def test_many_targets_are_those_of_one_at_a_time():
    x, y, folds = rows(80, 6, seed=1)
    both = np.concatenate([y[2], 1 - y[2]], axis=1)
    alone, among = nested(x, y[2], folds, LEVELS, 2)[0], nested(x, both, folds, LEVELS, 2)
    np.testing.assert_allclose(among[0].scores, alone.scores, atol=1e-5)
    np.testing.assert_allclose(among[1].scores, -alone.scores, atol=1e-5)


def test_training_rows_that_lack_a_class_are_named():
    x, y, folds = rows(40, 3)
    y = (folds == 0).astype(float)[:, None]
    with pytest.raises(UserError, match="Outside of fold 0, target 0 has only 1 of its 2 classes"):
        fit(Design(x, folds), y, [Problem(0, (0,), 1.0)], 2)


def test_folds_hold_whole_groups_of_even_size():
    groups = np.repeat(np.arange(40), np.arange(40) % 5 + 1)
    folds = grouped_folds(groups, 5)
    assert all(len(set(folds[groups == group])) == 1 for group in range(40))
    assert np.ptp(np.bincount(folds)) <= 3
    assert not np.array_equal(folds, grouped_folds(groups, 5, seed=1))


def test_auroc_parts_average_to_the_auroc_of_the_folds():
    from sklearn.metrics import roc_auc_score

    generator = np.random.default_rng(0)
    y, folds = generator.integers(0, 2, 300), np.repeat([0, 1, 2], 100)
    scores = np.round(generator.normal(size=300) + y, 1) + 50 * folds
    value, parts = auroc_parts(scores, y, folds)
    expected = [roc_auc_score(y[folds == fold], scores[folds == fold]) for fold in range(3)]
    assert value == pytest.approx(np.mean(expected))
    assert parts.mean() == pytest.approx(value)


def test_the_online_code_of_labels_that_carry_nothing_and_of_separable_ones():
    generator = np.random.default_rng(0)
    x, groups = generator.normal(size=(1000, 10)), np.arange(1000)
    noise, separable = generator.integers(0, 2, 1000), x[:, 0] > 0
    bits = code_length(x, np.column_stack([noise, separable]).astype(float), groups, [0.1, 1, 10, 1000], 2)
    assert 0.93 < 1000 / bits[0] < 1.01
    assert 1000 / bits[1] > 4
    few = code_length(x[:3], noise[:3, None].astype(float), groups[:3], [1.0], 2)
    assert few[0] == pytest.approx(3)


def test_beginning_in_single_precision_ends_where_double_does(monkeypatch):
    generator = np.random.default_rng(4)
    x = generator.normal(size=(400, 12)) * np.geomspace(1, 0.1, 12) + 2
    y = (
        ((x - 2) @ generator.normal(size=(12, 4)) * 2 + generator.gumbel(size=(400, 4)))
        .argmax(axis=1)[:, None]
        .astype(float)
    )
    problems = [Problem(0, (fold,), penalty) for fold in range(2) for penalty in (0.1, 1.0, 100.0)]
    found = []
    for least in (1, 1 << 60):
        monkeypatch.setattr(fitting, "ROUGH_FROM", least)
        found.append(fit(Design(x, np.arange(400) % 4), y, problems, 4))
    np.testing.assert_allclose(found[0], found[1], atol=2e-4 * np.abs(found[1]).max())
    np.testing.assert_allclose(found[0][2], found[1][2], atol=1e-5)
