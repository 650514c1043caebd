"""Linear fits of many targets, training sets and penalties at once: ridge, logistic and softmax regression.

Every fit minimises Σ loss + λ/2 ‖w‖² over the rows of some folds, the intercept free, on columns scaled to unit
variance *of those rows*; loss is ½ error², or the log-loss. Rows are never copied by fold. Exact: the scale of a
training set is a penalty by column in one common scale, and where there are fewer rows than columns the fit is made in
the rows' own space.

Shapes: n rows, d columns, K folds, P fits, C classes (1 column for a number or two classes), m = P·C.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.linalg.blas import dsyrk
from scipy.linalg.lapack import dpotrf, dpotrs

from vlsae.errors import UserError, VlsaeWarning
from vlsae.probes.quasi_newton import minimize

#: A column whose spread is below this share of its mean differs from a constant by rounding only.
CONSTANT = 1e-13

#: Steps smaller than this share of the coefficients end a fit.
TOLERANCE = 1e-5

#: Share of the right side that is left where conjugate gradients end, and their steps at most.
RESIDUAL, ITERATIONS = 1e-10, 40

#: Bytes of one n × m array of the solver.
AT_ONCE = 1 << 25

#: Rows times columns from which fits of more than two classes begin in single precision.
ROUGH_FROM = 1 << 18

#: Above this width the factors behind the preconditioner, which shape the way and not the end, are in single precision.
SINGLE_ABOVE = 1024

#: Curvatures of a loss, the smallest that counts, that share one preconditioner: within this power of two.
STEP, SMALLEST_CURVATURE = 0.5, 1e-6

#: Share of the mean diagonal that keeps the kernel of centred rows, which is singular, positive.
JITTER = 1e-12


class Problem(NamedTuple):
    """One fit: the column of its target, the folds that are left out, and its penalty λ."""

    target: int
    left_out: tuple[int, ...]
    penalty: float


class Design:
    """Rows ``x (n, d)`` and their folds ``(n,)``, 0…K-1, with all that many fits on them share.

    ``scale`` fits on columns of unit variance; otherwise on x as it is.
    """

    def __init__(self, x: np.ndarray, folds: np.ndarray, *, scale: bool = True) -> None:
        self.n, self.d = x.shape
        folds = np.asarray(folds)
        #: The rows in order of fold, so that a fold is a slice.
        self.order = np.argsort(folds, kind="stable")
        counts = np.bincount(folds)
        ends = np.cumsum(counts)
        self.slices = [slice(int(end - count), int(end)) for end, count in zip(ends, counts)]
        self.scale = scale
        self.x = np.take(np.asarray(x, dtype=np.float64), self.order, axis=0)
        self.center = np.ones(self.n) @ self.x / self.n
        self.x -= self.center
        spread = np.sqrt(np.einsum("nd,nd->d", self.x, self.x) / self.n)
        flat = spread <= CONSTANT * np.abs(self.center)
        self.unit = np.where(flat | (not scale), 1.0, spread)
        if scale:
            self.x *= 1 / self.unit
        self.x[:, flat] = 0.0
        self.counts = counts
        self._sums = np.stack([np.ones(count) @ self.x[own] for own, count in zip(self.slices, counts)])
        self._squares = np.stack([np.einsum("nd,nd->d", self.x[own], self.x[own]) for own in self.slices])
        self._factors: dict[tuple[float, float], tuple[np.ndarray, bool]] = {}

    def rows(self, fold: int) -> np.ndarray:
        """Return the numbers of a fold's rows, in the order in which ``self.x`` holds them."""
        return self.order[self.slices[fold]]

    @property
    def wide(self) -> bool:
        """Whether fits are made in the space of the rows."""
        return self.n < self.d

    def kept(self, left_out: tuple[int, ...]) -> np.ndarray:
        """Return 1 for the rows of a training set, 0 for those left out, ``(n,)``."""
        kept = np.ones(self.n)
        for fold in left_out:
            kept[self.slices[fold]] = 0.0
        return kept

    def moments(self, left_out: tuple[int, ...]) -> tuple[float, np.ndarray, np.ndarray]:
        """Return count, mean ``(d,)`` and standard deviation ``(d,)`` of a training set's rows of ``self.x``."""
        inside = [fold for fold in range(len(self.slices)) if fold not in left_out]
        count = self.counts[inside].sum()
        mean = self._sums[inside].sum(axis=0) / count
        variance = self._squares[inside].sum(axis=0) / count - mean**2
        return count, mean, np.sqrt(np.where(variance > 1e-12, variance, 0.0))

    def penalties(self, problem: Problem) -> np.ndarray:
        """Return λ by column of ``self.x`` ``(d,)``; infinite where the training rows do not vary."""
        spread = self.moments(problem.left_out)[2]
        own = spread**2 if self.scale else np.ones(self.d)
        return np.where(spread > 0, problem.penalty * own, np.inf)

    @cached_property
    def grams(self) -> np.ndarray:
        """XᵀX of each fold's rows, ``(K, d, d)``."""
        return np.stack([_product(self.x[own]) for own in self.slices])

    @cached_property
    def gram(self) -> np.ndarray:
        """XᵀX of all rows, in the precision of the preconditioner, ``(d, d)``."""
        if "grams" in self.__dict__:
            return self.grams.sum(axis=0).astype(np.float64 if self.d <= SINGLE_ABOVE else np.float32)
        x = self.x if self.d <= SINGLE_ABOVE else self.x.astype(np.float32)
        return x.T @ x

    def precondition(self, gradient: np.ndarray, penalty: float, curvature: float) -> np.ndarray:
        """Return the same of ``gradient (d + 1, m)``, whose last row is that of an intercept."""
        slopes = self.preconditioned(gradient[:-1], penalty, curvature)
        return np.concatenate([slopes, gradient[-1:] / (curvature * self.n)])

    def preconditioned(self, gradient: np.ndarray, penalty: float, curvature: float) -> np.ndarray:
        """Return (curvature·XᵀX + λ)⁻¹ ``gradient (d, m)``."""
        key = (penalty, curvature)
        if key not in self._factors:
            bound = self.gram * self.gram.dtype.type(curvature)
            bound[np.diag_indices(self.d)] += penalty
            self._factors[key] = cho_factor(bound, lower=True, overwrite_a=True, check_finite=False)
        return np.asarray(
            cho_solve(self._factors[key], gradient.astype(self.gram.dtype, copy=False), check_finite=False)
        )

    def raw(self, coefficients: np.ndarray) -> np.ndarray:
        """Return coefficients ``(…, d + 1)`` on ``self.x``, intercept last, as those on the rows as they came."""
        slopes = coefficients[..., :-1] / self.unit
        return np.concatenate([slopes, coefficients[..., -1:] - (slopes @ self.center)[..., None]], axis=-1)


def fit(design: Design, y: np.ndarray, problems: Sequence[Problem], classes: int = 0) -> np.ndarray:
    """Return coefficients ``(P, C, d + 1)`` on ``design.x``, intercept last.

    ``y (n, T)``, in the order of the rows as they came: numbers where ``classes`` is 0, 0 and 1 where it is 2, class
    numbers otherwise.
    """
    y = np.asarray(y, dtype=np.float64)[design.order]
    if design.wide:
        return _fit_wide(design, y, problems, classes)
    if classes == 0:
        return _ridge(design, y, problems)
    return _logistic(design, y, problems, classes)


def scores(design: Design, coefficients: np.ndarray, fold: int) -> np.ndarray:
    """Return the scores ``(r, P, C)`` of a fold's rows, as ``design.rows`` orders them, by ``(P, C, d + 1)``."""
    flat = coefficients.reshape(-1, coefficients.shape[-1])
    found = design.x[design.slices[fold]] @ flat[:, :-1].T + flat[:, -1]
    return found.reshape(-1, *coefficients.shape[:2])


def _ridge(design: Design, y: np.ndarray, problems: Sequence[Problem]) -> np.ndarray:
    """Fit in the space of the columns, from the products of each fold's rows alone."""
    products = np.stack([design.x[own].T @ y[own] for own in design.slices])
    totals = np.stack([y[own].sum(axis=0) for own in design.slices])
    found = np.empty((len(problems), 1, design.d + 1))
    normal = NormalEquations(design, [one.left_out for one in problems], [one.penalty for one in problems])
    right = np.empty((design.d, len(problems)))
    y_mean = np.empty(len(problems))
    for place, one in enumerate(problems):
        inside = [fold for fold in range(len(design.slices)) if fold not in one.left_out]
        y_mean[place] = totals[inside, one.target].sum() / normal.counts[place]
        right[:, place] = products[inside, :, one.target].sum(axis=0)
    right -= normal.counts * normal.means * y_mean
    slopes = normal.solve(right)
    found[:, 0, :-1] = slopes.T
    found[:, 0, -1] = y_mean - np.einsum("dp,dp->p", slopes, normal.means)
    return found


class NormalEquations:
    """(X̄ᵀX̄ + λ) w = b of many training sets and penalties, P columns, without the matrix of each.

    Conjugate gradients (Hestenes and Stiefel, 1952), all columns at once: the products of a training set are those of
    all rows less those left out, and the factor of all rows, times the share that is kept, is nearly each one's own.
    Where that does not end soon, as with few rows, each matrix is factored.
    """

    def __init__(self, design: Design, left_out: Sequence[tuple[int, ...]], penalties: Sequence[float]) -> None:
        self.design, self.left_out, self.levels = design, left_out, np.asarray(penalties)
        moments = [design.moments(one) for one in left_out]
        self.counts = np.array([count for count, _, _ in moments])
        self.means = np.stack([mean for _, mean, _ in moments], axis=1)
        self.diagonal = np.stack([design.penalties(Problem(0, *one)) for one in zip(left_out, penalties)], axis=1)
        self.held = np.isinf(self.diagonal)
        self.every = design.grams.sum(axis=0)
        self.shares = self.counts / design.n

    def solve(self, right: np.ndarray) -> np.ndarray:
        """Return the solutions ``(d, P)`` of right sides ``(d, P)``."""
        right = np.where(self.held, 0.0, right)
        few = self.counts.min() < 2 * self.design.d
        found, open_ = (
            (np.zeros_like(right), np.arange(right.shape[1])) if few or self.held.any() else self._iterate(right)
        )
        for place in open_:
            found[:, place] = _solve_positive(self._matrix(int(place)), right[:, place])
        return found

    def _iterate(self, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the solutions, and the columns of those that have not converged."""
        found, residual = np.zeros_like(right), right.copy()
        aim = RESIDUAL * np.linalg.norm(right, axis=0)
        smooth = self._precondition(residual)
        direction, product = smooth.copy(), np.einsum("dp,dp->p", residual, smooth)
        for _ in range(ITERATIONS):
            moved = self._apply(direction)
            curvature = np.einsum("dp,dp->p", direction, moved)
            length = np.divide(product, curvature, out=np.zeros_like(product), where=curvature > 0)
            found += length * direction
            residual -= length * moved
            if (np.linalg.norm(residual, axis=0) <= aim).all():
                break
            smooth = self._precondition(residual)
            before, product = product, np.einsum("dp,dp->p", residual, smooth)
            direction *= np.divide(product, before, out=np.zeros_like(product), where=before > 0)
            direction += smooth
        return found, np.flatnonzero(np.linalg.norm(residual, axis=0) > aim)

    def _apply(self, columns: np.ndarray) -> np.ndarray:
        result = self.every @ columns
        for fold, gram in enumerate(self.design.grams):
            own = [place for place, out in enumerate(self.left_out) if fold in out]
            if own:
                result[:, own] -= gram @ columns[:, own]
        result -= self.means * (self.counts * np.einsum("dp,dp->p", self.means, columns))
        return result + self.diagonal * columns

    def _precondition(self, columns: np.ndarray) -> np.ndarray:
        result = np.empty_like(columns)
        for level, share in set(zip(self.levels.tolist(), self.shares.round(1).tolist())):
            own = (self.levels == level) & (self.shares.round(1) == share)
            result[:, own] = self.design.preconditioned(columns[:, own], level, max(share, 0.1))
        return result

    def _matrix(self, place: int) -> np.ndarray:
        out, mean, held = list(self.left_out[place]), self.means[:, place], self.held[:, place]
        matrix = self.every - self.design.grams[out].sum(axis=0) - self.counts[place] * np.outer(mean, mean)
        matrix[np.diag_indices(len(matrix))] += np.where(held, 1.0, self.diagonal[:, place])
        matrix[held, :], matrix[:, held] = 0.0, 0.0
        matrix[held, held] = 1.0
        return matrix


def _product(x: np.ndarray) -> np.ndarray:
    """Return xᵀx ``(d, d)``, of which one half is computed."""
    # The transpose of rows that lie one after another is what the routine takes for its own layout.
    lower = dsyrk(1.0, x.T, lower=1)
    return np.asarray(lower + np.tril(lower, -1).T)


def _solve_positive(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return matrix⁻¹ right of a positive matrix; of one that is singular, the solution of least length."""
    factor, failed = dpotrf(matrix, lower=1, clean=0, overwrite_a=0)
    if failed:
        return np.asarray(np.linalg.lstsq(matrix, right, rcond=None)[0])
    return np.asarray(dpotrs(factor, right, lower=1)[0])


def _logistic(design: Design, y: np.ndarray, problems: Sequence[Problem], classes: int) -> np.ndarray:
    """Fit in the space of the columns, as many problems at once as fit into memory."""
    c = 1 if classes == 2 else classes
    found = np.empty((len(problems), c, design.d + 1))
    with_one = np.column_stack([design.x, np.ones(design.n)])
    # In single precision a step costs half; where it ends, few steps in double are left.
    large = c > 1 and design.n > design.d and with_one.size >= ROUGH_FROM
    rough = with_one.astype(np.float32) if large else None
    block = max(1, AT_ONCE // (8 * design.n * c))
    # Penalties side by side, so that a block has few of them.
    order = sorted(range(len(problems)), key=lambda place: problems[place].penalty)
    missed = 0
    for first in range(0, len(order), block):
        places = order[first : first + block]
        own = [problems[place] for place in places]
        _check_classes(design, y, own, classes)
        penalty = np.stack([np.append(design.penalties(one), 0.0) for one in own], axis=1)
        weights = np.stack([design.kept(one.left_out) for one in own], axis=1)
        levels = np.array([one.penalty for one in own])

        def precondition(
            gradient: np.ndarray, active: np.ndarray, curvature: np.ndarray, levels: np.ndarray = levels
        ) -> np.ndarray:
            result = np.empty_like(gradient)
            # In steps, so that few factors serve all.
            steps = np.tile(np.round(np.log2(np.maximum(curvature, SMALLEST_CURVATURE)) / STEP), c)
            by_column = np.tile(levels[active], c)
            for level, step in set(zip(by_column.tolist(), steps.tolist())):
                columns = (by_column == level) & (steps == step)
                result[:, columns] = design.precondition(gradient[:, columns], level, 2.0 ** (STEP * step))
            return result

        targets = y[:, [one.target for one in own]]
        settings: Any = {"classes": c, "tolerance": TOLERANCE}
        start = None
        if rough is not None:
            single = (rough, targets.astype(np.float32), weights.astype(np.float32), penalty.astype(np.float32))
            start, _ = minimize(*single, precondition, **settings)
        solution, converged = minimize(with_one, targets, weights, penalty, precondition, **settings, start=start)
        found[places] = solution.reshape(design.d + 1, c, len(own)).transpose(2, 1, 0)
        missed += int((~converged).sum())
    if missed:
        words = f"{missed} of {len(problems)} fits have not converged."
        warnings.warn(f"{words} Larger penalties would mend it.", VlsaeWarning, stacklevel=3)
    return found


def _fit_wide(design: Design, y: np.ndarray, problems: Sequence[Problem], classes: int) -> np.ndarray:
    """Fit in the space of the rows, which holds the solution: K = XXᵀ = LLᵀ, and L has the rows' inner products."""
    c = 1 if classes in (0, 2) else classes
    found = np.empty((len(problems), c, design.d + 1))
    by_set: dict[tuple[int, ...], list[int]] = {}
    for place, problem in enumerate(problems):
        by_set.setdefault(problem.left_out, []).append(place)
    for left_out, places in by_set.items():
        _, mean, spread = design.moments(left_out)
        unit = np.where(spread > 0, spread, np.inf) if design.scale else np.ones(design.d)
        x = (design.x - mean) / unit
        kernel = x @ x.T
        kernel[np.diag_indices(design.n)] += JITTER * max(np.trace(kernel) / design.n, np.finfo(float).tiny)
        lower = np.linalg.cholesky(kernel)
        inner = Design(lower, np.repeat(np.arange(len(design.slices)), design.counts), scale=False)
        own = fit(inner, y, [problems[place] for place in places], classes)
        own = inner.raw(own)
        slopes = solve_triangular(lower, own[..., :-1].reshape(-1, design.n).T, lower=True, trans="T")
        slopes = (x.T @ slopes / unit[:, None]).T.reshape(len(places), c, design.d)
        found[places, :, :-1] = slopes
        found[places, :, -1] = own[..., -1] - slopes @ mean
    return found


def _check_classes(design: Design, y: np.ndarray, problems: Sequence[Problem], classes: int) -> None:
    """Raise ``UserError`` where the training rows of a fit lack a class."""
    for target, left_out in {(one.target, one.left_out) for one in problems}:
        held = y[design.kept(left_out) > 0, target]
        if len(np.unique(held)) < classes:
            raise UserError(
                f"Outside of {'fold' if len(left_out) == 1 else 'folds'} {', '.join(map(str, left_out)) or 'none'}, "
                f"target {target} has only {len(np.unique(held))} of its {classes} classes.",
                "Take fewer folds, more samples, or leave out rare classes.",
            )
