"""How much of held-out scores is noise of the fits, and that intervals made wider by it hold the truth."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from vlsae.probes.fold_noise import margins, noise_of, noise_shares
from vlsae.probes.nested import nested, with_penalties

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import probe_coverage
from probe_coverage import Population

FOLDS = 5


def along_mean_differences(d, effect, generator, n=200, penalised=False):
    """Return scores along the difference of the other folds' means, the same without each further fold, y and folds.

    Penalised: along sums in place of means, which are smaller without a fold.
    """
    y, folds = np.arange(n) % 2, generator.permutation(n) % FOLDS
    x = generator.normal(size=(n, d))
    x[:, 0] += effect * (y - 0.5)
    signed = np.where(y == 1, 1.0, -1.0)[:, None] * x
    sums = np.stack([signed[folds == fold].sum(axis=0) for fold in range(FOLDS)])
    count = np.bincount(folds)

    def scores(left_out, fold):
        kept = [one for one in range(FOLDS) if one not in left_out]
        return x[folds == fold] @ (sums[kept].sum(axis=0) / (1.0 if penalised else count[kept].sum() / 2))

    whole, fewer = np.empty(n), np.empty((FOLDS - 1, n))
    for fold in range(FOLDS):
        held = folds == fold
        whole[held] = scores([fold], fold)
        for place, other in enumerate(one for one in range(FOLDS) if one != fold):
            fewer[place, held] = scores([fold, other], fold)
    return whole, fewer, y, folds


@pytest.mark.parametrize("penalised", [False, True])
@pytest.mark.parametrize("effect", [0.5, 2.0])
def test_the_share_of_noise_is_that_of_the_direction(penalised, effect):
    """The difference of means of n/2 rows each lies 4/n·d from the true one, which is effect² long."""
    generator = np.random.default_rng(0)
    d, n = 40, 200
    found = [noise_shares(*along_mean_differences(d, effect, generator, n, penalised)).mean() for _ in range(20)]
    noise = 4 * d / (n * (FOLDS - 1) / FOLDS)
    assert np.mean(found) == pytest.approx(noise / (noise + effect**2), rel=0.15)


def test_without_an_effect_all_is_noise():
    generator = np.random.default_rng(0)
    found = [noise_shares(*along_mean_differences(40, 0.0, generator)).mean() for _ in range(10)]
    assert np.mean(found) > 0.85


def test_scale_and_shift_of_scores_change_nothing_and_constant_scores_tell_nothing():
    whole, fewer, y, folds = along_mean_differences(5, 1.0, np.random.default_rng(1))
    expected = noise_shares(whole, fewer, y, folds)
    np.testing.assert_allclose(noise_shares(3 * whole - 1, 3 * fewer - 1, y, folds), expected)
    # What is common to all rows of a class and fold is no matter of the direction.
    np.testing.assert_allclose(noise_shares(whole + 9 * y, fewer - 7 * y + folds, y, folds), expected)
    assert (noise_shares(0 * whole, 0 * fewer, y, folds) == 1).all()


def test_the_noise_of_squares_is_that_of_the_slopes():
    """Least squares on d of n rows brings 4 d/n into the squares of errors, whose own variance is 2 averages²; so is
    that of the distances from the mean, of which a tenth's square is shared."""
    generator = np.random.default_rng(3)
    n, d, found = 500, 10, []
    for _ in range(20):
        x = generator.normal(size=(n, d))
        y = 3 * x[:, :1] + generator.normal(size=(n, 1))
        folds = generator.permutation(n) % FOLDS
        (fit,) = nested(x, y, folds, [1e-6], 0)
        found.append(noise_of(fit, y[:, 0], folds, numbers=True).mean())
    slopes = d / (n * (FOLDS - 1) / FOLDS)
    assert np.mean(found) == pytest.approx(4 * slopes / (1 + slopes) / (2 + 2 - 4 * 0.1), rel=0.25)


def test_margins_are_above_zero_where_the_own_class_is_highest():
    scores = np.array([[3.0, 1.0, 0.0], [0.0, 2.0, 5.0], [1.0, 1.0, 0.0]])
    np.testing.assert_allclose(margins(scores, np.array([0, 1, 0])), [2, -3, 0])
    np.testing.assert_allclose(margins(np.stack([scores, 2 * scores]), np.array([0, 1, 0]))[1], [4, -6, 0])


@pytest.mark.parametrize("classes", [0, 2, 3])
def test_fits_of_each_kind_tell_their_noise(classes):
    """Where the effect is strong and rows are many it is little; of a control task, of which nothing is known, all."""
    generator = np.random.default_rng(2)
    x = generator.normal(size=(300, 4))
    y = x[:, :1] + 0.1 * generator.normal(size=(300, 1))
    if classes:
        y = np.digitize(y, np.quantile(y, np.linspace(0, 1, classes + 1)[1:-1])).astype(float)
    folds = np.arange(300) % FOLDS
    (fit,) = nested(x, y, folds, [0.1, 1.0], classes)
    assert fit.fewer.shape == (FOLDS - 1, 300, 1 if classes < 3 else 3)
    assert (noise_of(fit, y[:, 0], folds, numbers=classes == 0) < 0.1).all()
    (other,) = with_penalties(x, y, folds, np.ones((FOLDS + 1, 1)), classes)
    assert (noise_of(other, y[:, 0], folds) == 1).all()


@pytest.mark.parametrize("population", [Population(60, 5, 2, 0.0), Population(60, 5, 0, 0.9)], ids=["chance", "number"])
def test_intervals_hold_what_fits_reach_on_new_rows(population):
    """Without the folds' shared noise, and by quantiles of resamples for the number, 79 to 90 % hold it."""
    draws = 60
    shares = probe_coverage.coverage(population, draws, seed=5)
    held = shares[np.isfinite(shares)]
    assert len(held) == (5 if population.classes else 3)
    # 95 % less three standard errors.
    assert (held >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / draws)).all(), held
