"""Linear fits of many targets, training sets and penalties at once: ridge, logistic and softmax regression.

Every fit minimises Σ loss + λ/2 ‖w‖² over the rows of some folds, the intercept free, on columns scaled to unit
variance *of those rows*; loss is ½ error², or the log-loss. Exact: the scale of a training set is a penalty by column
in one common scale, and where there are fewer rows than columns the fit is made in the rows' own space.

Shapes: n rows, d columns, K folds, P fits, C classes (1 column for a number or two classes), m = P·C.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property, reduce
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import eigh, solve_triangular
from scipy.linalg.blas import dsyr, dsyrk

from vlsae.errors import UserError, VlsaeWarning
from vlsae.probes.normal_equations import solve_penalized
from vlsae.probes.quasi_newton import minimize

#: A column whose spread is below this share of its mean differs from a constant by rounding only.
CONSTANT = 1e-13

#: Steps smaller than this share of the coefficients end a fit.
TOLERANCE = 1e-5

#: Bytes of one n × m array of the solver.
AT_ONCE = 1 << 25

#: Columns of scores of one training set from which its problems are solved without the others'.
COLUMNS = 128

#: Rows times columns from which fits of more than two classes begin in single precision.
ROUGH_FROM = 1 << 18

#: Above this width the directions behind the preconditioner, which shape the way and not the end, are found in single
#: precision.
SINGLE_ABOVE = 1024

#: The smallest curvature of a loss that the preconditioner takes.
SMALLEST_CURVATURE = 1e-6

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
        self.counts = counts
        sums = np.stack([np.ones(count) @ self.x[own] for own, count in zip(self.slices, counts)])
        squares = np.stack([np.einsum("nd,nd->d", self.x[own], self.x[own]) for own in self.slices])
        spread = np.sqrt(squares.sum(axis=0) / self.n)
        flat = spread <= CONSTANT * np.abs(self.center)
        self.unit = np.where(flat | (not scale), 1.0, spread)
        if scale:
            self.x *= 1 / self.unit
        self.x[:, np.flatnonzero(flat)] = 0.0
        self._sums, self._squares = np.where(flat, 0.0, [sums / self.unit, squares / self.unit**2])
        self._moments: dict[tuple[int, ...], tuple[float, np.ndarray, np.ndarray]] = {}

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
        if left_out not in self._moments:
            inside = [fold for fold in range(len(self.slices)) if fold not in left_out]
            count = self.counts[inside].sum()
            mean = self._sums[inside].sum(axis=0) / count
            variance = self._squares[inside].sum(axis=0) / count - mean**2
            self._moments[left_out] = count, mean, np.sqrt(np.where(variance > 1e-12, variance, 0.0))
        return self._moments[left_out]

    def penalties(self, problem: Problem) -> np.ndarray:
        """Return λ by column of ``self.x`` ``(d,)``; infinite where the training rows do not vary."""
        spread = self.moments(problem.left_out)[2]
        own = spread**2 if self.scale else np.ones(self.d)
        return np.where(spread > 0, problem.penalty * own, np.inf)

    @cached_property
    def grams(self) -> list[np.ndarray]:
        """XᵀX of each fold's rows, K of ``(d, d)``, of which the lower half counts."""
        # The transpose of rows that lie one after another is what the routine takes for its own layout.
        return [dsyrk(1.0, self.x[own].T, lower=1) for own in self.slices]

    @cached_property
    def gram(self) -> np.ndarray:
        """XᵀX of all rows ``(d, d)``, of which the lower half counts."""
        return reduce(np.add, self.grams)

    @cached_property
    def _principal(self) -> dict[Any, tuple[np.ndarray, np.ndarray]]:
        """Principal directions ``(d, d)`` of the rows and their sums of squares ``(d,)``, in either precision."""
        single = self.d > SINGLE_ABOVE
        gram = self.gram.astype(np.float32) if single else self.gram
        squares, directions = eigh(gram, driver="evd", check_finite=False)
        squares = np.maximum(squares, 0)
        return {np.dtype(one): (directions.astype(one), squares.astype(one)) for one in (np.float32, np.float64)}

    def precondition(self, gradients: np.ndarray, penalty: np.ndarray, curvature: np.ndarray) -> np.ndarray:
        """Return (curvature·XᵀX + λ)⁻¹ g of gradients ``(q, C, d + 1)``, λ and curvature ``(q,)`` by problem.

        The last column is an intercept's, which no penalty holds.
        """
        directions, squares = self._principal[gradients.dtype]
        result = np.empty_like(gradients)
        turned = gradients[..., :-1].reshape(-1, self.d) @ directions
        turned = turned.reshape(len(gradients), -1, self.d)
        turned /= (curvature[:, None] * squares + penalty[:, None])[:, None]
        result[..., :-1] = (turned.reshape(-1, self.d) @ directions.T).reshape(turned.shape)
        result[..., -1] = gradients[..., -1] / (curvature * self.n)[:, None]
        return result

    def raw(self, coefficients: np.ndarray) -> np.ndarray:
        """Return coefficients ``(…, d + 1)`` on ``self.x``, intercept last, as those on the rows as they came."""
        slopes = coefficients[..., :-1] / self.unit
        return np.concatenate([slopes, coefficients[..., -1:] - (slopes @ self.center)[..., None]], axis=-1)


def fit(
    design: Design, y: np.ndarray, problems: Sequence[Problem], classes: int = 0, *, rough: bool = False
) -> np.ndarray:
    """Return coefficients ``(P, C, d + 1)`` on ``design.x``, intercept last.

    ``y (n, T)``, in the order of the rows as they came: numbers where ``classes`` is 0, 0 and 1 where it is 2, class
    numbers otherwise. ``rough`` ends in single precision, which tells losses apart at half the cost.
    """
    y = np.asarray(y, dtype=np.float64)[design.order]
    if design.wide:
        return _fit_wide(design, y, problems, classes, rough)
    if classes == 0:
        return _ridge(design, y, problems)
    return _logistic(design, y, problems, classes, rough)


def scores(design: Design, coefficients: np.ndarray, fold: int) -> np.ndarray:
    """Return the scores ``(r, P, C)`` of a fold's rows, as ``design.rows`` orders them, by ``(P, C, d + 1)``."""
    flat = coefficients.reshape(-1, coefficients.shape[-1])
    found = design.x[design.slices[fold]] @ flat[:, :-1].T + flat[:, -1]
    return found.reshape(-1, *coefficients.shape[:2])


def _ridge(design: Design, y: np.ndarray, problems: Sequence[Problem]) -> np.ndarray:
    """Fit in the space of the columns: the products of a training set are those of all rows less those left out."""
    products = np.stack([design.x[own].T @ y[own] for own in design.slices])
    totals = np.stack([y[own].sum(axis=0) for own in design.slices])
    found = np.empty((len(problems), 1, design.d + 1))
    for left_out, places in _by_set(problems).items():
        inside = [fold for fold in range(len(design.slices)) if fold not in left_out]
        count, mean, _ = design.moments(left_out)
        targets = [problems[place].target for place in places]
        y_mean = totals[inside].sum(axis=0) / count
        right = products[inside].sum(axis=0) - count * np.outer(mean, y_mean)
        gram = reduce(np.subtract, [design.grams[fold] for fold in left_out], design.gram)
        gram = dsyr(-count, mean, a=gram, lower=1, overwrite_a=len(left_out) > 0)
        penalties = {problems[place].penalty: design.penalties(problems[place]) for place in places}
        levels = [problems[place].penalty for place in places]
        slopes = solve_penalized(gram, right[:, targets], levels, penalties)
        found[places, 0, :-1] = slopes.T
        found[places, 0, -1] = y_mean[targets] - mean @ slopes
    return found


def _by_set(problems: Sequence[Problem]) -> dict[tuple[int, ...], list[int]]:
    """Return the places of the problems of each training set."""
    places: dict[tuple[int, ...], list[int]] = {}
    for place, problem in enumerate(problems):
        places.setdefault(problem.left_out, []).append(place)
    return places


def _logistic(design: Design, y: np.ndarray, problems: Sequence[Problem], classes: int, rough: bool) -> np.ndarray:
    """Fit in the space of the columns, as many problems at once as fit into memory."""
    c = 1 if classes == 2 else classes
    found = np.empty((len(problems), c, design.d + 1))
    with_one = np.column_stack([design.x, np.ones(design.n)])
    missed = 0
    for places in _blocks(design, problems, c):
        own = [problems[place] for place in places]
        _check_classes(design, y, own, classes)
        weights = np.stack([design.kept(one.left_out) for one in own])
        used = weights.any(axis=0)
        # Where all are of one training set, what is left out costs nothing.
        x, weights = (with_one, weights) if used.all() else (with_one[used], weights[:, used])
        targets = np.ascontiguousarray(y[used].T[[one.target for one in own]])
        penalty = np.stack([np.append(design.penalties(one), 0.0) for one in own])
        solution, converged = _minimize(design, x, targets, weights, penalty, [one.penalty for one in own], c, rough)
        found[places] = solution
        missed += int((~converged).sum())
    # A rough fit whose last digits are lost in single precision tells losses apart all the same.
    if missed and not rough:
        words = f"{missed} of {len(problems)} fits have not converged."
        warnings.warn(f"{words} Larger penalties would mend it.", VlsaeWarning, stacklevel=3)
    return found


def _blocks(design: Design, problems: Sequence[Problem], c: int) -> Iterator[list[int]]:
    """Yield the places of problems that are solved together: of one training set, where that makes products of columns
    enough, and of neighbouring penalties."""
    groups = list(_by_set(problems).values())
    if len(groups[0]) * c < COLUMNS:
        groups = [list(range(len(problems)))]
    block = max(1, AT_ONCE // (8 * design.n * c))
    for group in groups:
        order = sorted(group, key=lambda place: problems[place].penalty)
        yield from (order[first : first + block] for first in range(0, len(order), block))


def _minimize(
    design: Design,
    x: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray,
    penalty: np.ndarray,
    levels: Sequence[float],
    c: int,
    rough: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients ``(q, C, d + 1)`` and which have converged, preconditioned by the directions of all rows."""
    by_problem, share = np.asarray(levels), len(x) / design.n

    def precondition(gradients: np.ndarray, active: np.ndarray, curvature: np.ndarray) -> np.ndarray:
        bends = np.maximum(curvature * share, SMALLEST_CURVATURE)
        return design.precondition(gradients, by_problem[active].astype(bends.dtype), bends)

    settings: Any = {"classes": c, "tolerance": TOLERANCE}
    masks = None if (weights == 1).all() else weights
    start = None
    # In single precision a step costs half; where it ends, few steps in double are left.
    if rough or (c > 1 and x.size >= ROUGH_FROM):
        half = None if masks is None else masks.astype(np.float32)
        single = (x.astype(np.float32), y.astype(np.float32), half, penalty.astype(np.float32))
        start, converged = minimize(*single, precondition, **settings)
        if rough:
            return start, converged
    return minimize(x, y, masks, penalty, precondition, **settings, start=start)


def _fit_wide(design: Design, y: np.ndarray, problems: Sequence[Problem], classes: int, rough: bool) -> np.ndarray:
    """Fit in the space of the rows, which holds the solution: K = XXᵀ = LLᵀ, and L has the rows' inner products."""
    c = 1 if classes in (0, 2) else classes
    found = np.empty((len(problems), c, design.d + 1))
    for left_out, places in _by_set(problems).items():
        _, mean, spread = design.moments(left_out)
        unit = np.where(spread > 0, spread, np.inf) if design.scale else np.ones(design.d)
        x = (design.x - mean) / unit
        kernel = x @ x.T
        kernel[np.diag_indices(design.n)] += JITTER * max(np.trace(kernel) / design.n, np.finfo(float).tiny)
        lower = np.linalg.cholesky(kernel)
        inner = Design(lower, np.repeat(np.arange(len(design.slices)), design.counts), scale=False)
        own = fit(inner, y, [problems[place] for place in places], classes, rough=rough)
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
