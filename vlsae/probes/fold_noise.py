"""How much of held-out scores is noise of the rows that the fits were made on. n rows, K folds, C classes.

Out-of-fold scores of two folds are not independent: each fold's rows are in the other's fit. To first order in a fold's
contribution to a fit, that covariance over all pairs of folds adds to the variance of a mean of scores as much as the
share of the scores' own variance that is noise in the direction: the variance is (1 + share) times that of rows that
are independent given the fits.
"""

from __future__ import annotations

import numpy as np

from vlsae.probes.nested import Nested


def noise_of(fit: Nested, y: np.ndarray, folds: np.ndarray, *, numbers: bool = False) -> np.ndarray:
    """Return for each fold the share ``(K,)`` of its scores' variance that is noise, 1 where nothing is known of it.

    ``y (n,)`` are class numbers, or where they are ``numbers`` what is predicted.
    """
    if fit.fewer is None:
        return np.ones(len(np.unique(folds)))
    if numbers:
        return noise_of_squares(fit.scores[:, 0], fit.fewer[..., 0], y, folds)
    if fit.scores.shape[1] == 1:
        return noise_shares(fit.scores[:, 0], fit.fewer[..., 0], y, folds)
    return noise_shares(margins(fit.scores, y), margins(fit.fewer, y), y, folds)


def noise_shares(leading: np.ndarray, fewer: np.ndarray, strata: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Return for each fold the share ``(K,)`` of its scores' variance within strata that is noise of its fit, 0…1.

    ``leading (n,)`` is what decides a row's part in the score, ``fewer (K - 1, n)`` the same by the fits that lack
    another fold too, of which the jackknife (Tukey, 1958) tells the noise. Fits on fewer rows are put on the scale of
    the whole fit first: where the penalty rules they are smaller by their rows, which is no noise. ``strata (n,)`` are
    classes. A fold whose scores do not vary has the share 1: nothing is known of it.
    """
    numbers = np.unique(folds, return_inverse=True)[1]
    cells = np.unique(np.stack([numbers, strata]), axis=1, return_inverse=True)[1].ravel()
    whole, left = _centered(leading[None], cells), _centered(fewer, cells)
    moved = _scale(whole[0], left, numbers)[numbers] * (left - left.mean(axis=0))
    return _shares(whole[0], moved, numbers)


def noise_of_squares(scores: np.ndarray, fewer: np.ndarray, y: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Return the same of R²: the share ``(K,)`` of the variance of what rows bring into the log of 1 - R².

    A row brings its squared error and its squared distance from the training mean, each over its average; noise moves
    them by twice the error, or distance, times what it moves prediction ``scores (n,)`` and mean.
    """
    numbers = np.unique(folds, return_inverse=True)[1]
    sums, counts = np.bincount(numbers, y), np.bincount(numbers)
    kept = ~np.eye(len(counts), dtype=bool)
    # Without the fold, and without each further one.
    mean = (y.sum() - sums) / (len(y) - counts)
    means = ((y.sum() - sums[:, None] - sums) / (len(y) - counts[:, None] - counts))[kept].reshape(len(counts), -1)
    centred = _centered(fewer, numbers)
    scale = _scale(_centered(scores[None], numbers)[0], centred, numbers)[numbers]
    error, distance = scores - y, mean[numbers] - y
    left, alone = (error**2).mean(), (distance**2).mean()
    if left == 0 or alone == 0:
        return np.ones(len(counts))
    moved_fit = scale * (fewer - fewer.mean(axis=0))
    moved_mean = (means - means.mean(axis=1, keepdims=True)).T[:, numbers]
    moved = 2 * (error * moved_fit / left - distance * moved_mean / alone)
    parts = _centered((error**2 / left - distance**2 / alone)[None], numbers)[0]
    return _shares(parts, _centered(moved, numbers), numbers)


def _scale(whole: np.ndarray, left: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return by fold ``(K,)`` what puts centred scores ``left (K - 1, n)`` on the scale of the whole fit's ``(n,)``.

    Between 1, for fits that do not depend on how many rows they are made on, and (K - 1)/(K - 2), for sums over rows.
    """
    most = len(left) / (len(left) - 1)
    total, common = (np.bincount(numbers, one) for one in (whole**2, whole * left.mean(axis=0)))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(common > 0, np.clip(total / common, 1.0, most), most)


def _shares(whole: np.ndarray, moved: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return by fold the jackknife's variance of what each further fold moves ``(K - 1, n)`` over that of ``(n,)``."""
    total, noise = (np.bincount(numbers, one) for one in (whole**2, (moved**2).sum(axis=0)))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 0, np.clip((1 - 1 / len(moved)) * noise / total, 0.0, 1.0), 1.0)


def margins(scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return by how much the score of each row's own class lies above the next, ``(…, n)``, of ``scores (…, n, C)``.

    ``y (n,)`` are class numbers. A row is right where its margin is above 0.
    """
    own = y.astype(np.int64)[:, None]
    held = np.broadcast_to(own, (*scores.shape[:-1], 1))
    others = scores.copy()
    np.put_along_axis(others, held, -np.inf, axis=-1)
    return np.asarray(np.take_along_axis(scores, held, axis=-1)[..., 0] - others.max(axis=-1))


def _centered(values: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Return ``values (m, n)`` less the mean of each cell ``(n,)``."""
    counts = np.bincount(cells)
    return np.stack([one - (np.bincount(cells, one) / counts)[cells] for one in values])
