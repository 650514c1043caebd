"""How good out-of-fold scores are, with intervals over groups of rows. n rows, T targets, K folds."""

from __future__ import annotations

import numpy as np

from vlsae.statistics import Interval, explained_interval, interval_of, multinomial_weights, placements, share_interval


def resampled_means(
    columns: np.ndarray, groups: np.ndarray, *, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the means ``(T,)`` of ``columns (n, T)``, and those ``(B, T)`` of resamples of whole groups ``(n,)``.

    Rows that are NaN count for nothing; all columns share a resample, so that they can be compared.
    """
    numbers = np.unique(groups, return_inverse=True)[1]
    held = np.isfinite(columns)
    partly = ~held.all(axis=0)
    parts = [np.where(held, columns, 0.0), np.ones((len(columns), 1)), held[:, partly]]
    sums = np.zeros((numbers.max() + 1, columns.shape[1] + 1 + int(partly.sum())))
    np.add.at(sums, numbers, np.concatenate(parts, axis=1))
    drawn = np.concatenate(
        [sums.sum(axis=0)[None], *(w @ sums for w in multinomial_weights(len(sums), resamples, seed))]
    )
    t = columns.shape[1]
    rows = np.repeat(drawn[:, t : t + 1], t, axis=1)
    rows[:, partly] = drawn[:, t + 1 :]
    with np.errstate(divide="ignore", invalid="ignore"):
        means = drawn[:, :t] / rows
    return means[0], means[1:]


def grouped_explained(parts: np.ndarray, groups: np.ndarray, *, shared: float) -> Interval:
    """Return R² with its interval over whole groups ``(n,)``: :func:`vlsae.statistics.explained_interval`.

    ``parts (n, 2)``: each row's squared error and its squared distance from the mean.
    """
    numbers = np.unique(groups, return_inverse=True)[1]
    left, whole = (np.bincount(numbers, column) for column in parts.T)
    return explained_interval(left, whole, shared=shared)


def grouped_means(columns: np.ndarray, groups: np.ndarray, *, resamples: int, seed: int) -> Interval:
    """Return :func:`resampled_means` with percentile intervals."""
    return interval_of(*resampled_means(columns, groups, resamples=resamples, seed=seed))


def grouped_shares(columns: np.ndarray, groups: np.ndarray, *, resamples: int, seed: int) -> Interval:
    """Return :func:`grouped_means` of ``columns (n, T)`` whose means are shares of 0…1, with Wilson's interval."""
    found = grouped_means(columns, groups, resamples=resamples, seed=seed)
    return share_interval(found, len(np.unique(groups)), len(columns))


def auroc_parts(scores: np.ndarray, y: np.ndarray, folds: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the AUROC of ``scores (n,)`` for ``y (n,)`` 0 or 1, averaged over folds, and each row's part in it.

    Scores of different fits are not set against each other. The parts ``(n,)`` have the AUROC as their mean and its
    spread as theirs (DeLong et al., 1988); NaN without a fold that holds both classes.
    """
    parts, values, sizes = np.full(len(y), np.nan), [], []
    for fold in np.unique(folds):
        rows = np.flatnonzero(folds == fold)
        positive = y[rows] == 1
        n_positive, n_negative = int(positive.sum()), int((~positive).sum())
        if not n_positive or not n_negative:
            continue
        above = np.empty(len(rows))
        above[positive], above[~positive] = placements(scores[rows][positive], scores[rows][~positive])
        value = above[positive].mean()
        of_class = np.where(positive, n_positive, n_negative)
        # Each class's spread is about its own mean, which costs it one row: of 10 rows a twentieth of the error.
        unbiased = np.sqrt(of_class / np.maximum(of_class - 1, 1))
        parts[rows] = value + (above - value) * unbiased * len(rows) / of_class
        values.append(value)
        sizes.append(len(rows))
    if not sizes:
        return float("nan"), parts
    # Parts of a fold average to its value, and folds weigh by their rows.
    return float(np.average(values, weights=sizes)), parts


def f1_scores(predicted: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return each row's true positives, false positives and false negatives ``(n, 3)``, of which sums give F1."""
    return np.stack([(predicted == 1) & (y == 1), (predicted == 1) & (y == 0), (predicted == 0) & (y == 1)], axis=1)
