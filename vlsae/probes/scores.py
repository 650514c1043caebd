"""How good out-of-fold scores are, with intervals over groups of rows. n rows, T targets, K folds."""

from __future__ import annotations

import numpy as np

from vlsae.statistics import Interval, bootstrap_sums, share_interval


def grouped_means(columns: np.ndarray, groups: np.ndarray, *, resamples: int, seed: int) -> Interval:
    """Return the means ``(T,)`` of ``columns (n, T)`` with percentile intervals over whole groups ``(n,)``.

    Rows that are NaN count for nothing; each column's groups are resampled together, so that columns can be compared.
    """
    numbers = np.unique(groups, return_inverse=True)[1]
    held = np.isfinite(columns)
    size, t = numbers.max() + 1, columns.shape[1]
    sums = np.zeros((size, 2 * t))
    np.add.at(sums, numbers, np.concatenate([np.where(held, columns, 0.0), held], axis=1))

    def ratio(means: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(means[..., :t] / means[..., t:])

    return bootstrap_sums(ratio, sums, resamples=resamples, seed=seed)


def grouped_shares(columns: np.ndarray, groups: np.ndarray, *, resamples: int, seed: int) -> Interval:
    """Return :func:`grouped_means` of ``columns (n, T)`` whose means are shares of 0…1, with Wilson's interval."""
    found = grouped_means(columns, groups, resamples=resamples, seed=seed)
    return share_interval(found, len(np.unique(groups)), len(columns))


def auroc_parts(scores: np.ndarray, y: np.ndarray, folds: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the AUROC of ``scores (n,)`` for ``y (n,)`` 0 or 1, averaged over folds, and each row's part in it.

    Scores of different fits are not set against each other. The parts ``(n,)`` have the AUROC as their mean and its
    spread as theirs (DeLong et al., 1988); NaN without a fold that holds both classes.
    """
    from scipy.stats import rankdata

    parts, values, sizes = np.full(len(y), np.nan), [], []
    for fold in np.unique(folds):
        rows = np.flatnonzero(folds == fold)
        positive = y[rows] == 1
        n_positive, n_negative = int(positive.sum()), int((~positive).sum())
        if not n_positive or not n_negative:
            continue
        ranks = rankdata(scores[rows])
        above = np.empty(len(rows))
        above[positive] = (ranks[positive] - rankdata(scores[rows][positive])) / n_negative
        above[~positive] = 1 - (ranks[~positive] - rankdata(scores[rows][~positive])) / n_positive
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
