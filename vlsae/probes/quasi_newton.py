"""Many logistic losses minimised at once: L-BFGS (Nocedal, 1980), two matrix products a step for all of them.

Shapes: n rows, p coefficients, q problems, C classes. A problem of two classes needs one column of scores: C = 1. What
belongs to a problem lies together, rows innermost, so that problems leave the batch without moving the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import expit

#: Pairs of steps and gradient changes that L-BFGS remembers.
MEMORY = 10

#: A problem is solved when its next step is below this share of its coefficients; with exact Hessians, whose steps
#: shrink by squares down to rounding, the second.
TOLERANCE, NEWTON_TOLERANCE = 1e-10, 1e-8

#: Steps at most; the step from which on problems that are left get exact Hessians, if they have so few coefficients.
STEPS, NEWTON_FROM, NEWTON_WIDTH = 1000, 150, 1024

#: Shortenings of a step at most.
SHORTENINGS = 30

#: Shares of the slope: of sufficient descent (Armijo); and of a slope flat enough where rounding hides the descent.
DESCENT, FLAT = 1e-4, 0.5

#: Share of the loss below which its change is rounding, by the precision of the rows.
ROUNDING = {np.dtype(np.float64): 1e-12, np.dtype(np.float32): 1e-6}

#: A step, the change of the gradient along it, and 1 over their product: ``(q, C·p)`` twice, ``(q,)``.
Pair = tuple[np.ndarray, np.ndarray, np.ndarray]

#: Of gradients ``(q, C, p)``, the problems ``(q,)`` they are of, and how much a row's loss curves there on average
#: ``(q,)``: about their products with the inverse Hessians.
Precondition = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def minimize(
    x: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray | None,
    penalty: np.ndarray,
    precondition: Precondition,
    *,
    classes: int = 1,
    tolerance: float = TOLERANCE,
    start: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients ``(q, C, p)`` of least Σ weight·log-loss + ½ Σ penalty·w², and which ``(q,)`` have converged.

    ``x (n, p)``, ``y (q, n)`` in 0…1 (in class numbers where ``classes`` > 1), ``weights (q, n)``, None for all alike;
    ``penalty (q, p)``, or ``(1, p)`` for all alike: an infinite one keeps a coefficient at 0. Problems that are solved
    leave the batch. Everything is computed in the precision of ``x``, losses summed in double; ``start (q, C, p)`` is
    where to begin.
    """
    q, width = len(y), x.shape[1]
    state = _State(x, y, weights, penalty, classes, start)
    solution, converged = np.zeros((q, classes * width), x.dtype), np.zeros(q, dtype=bool)
    active = np.arange(q)
    history: list[Pair] = []

    def smooth(gradient: np.ndarray) -> np.ndarray:
        found = precondition(gradient.reshape(-1, classes, width), active, state.point.curvature)
        return state.free(found.reshape(gradient.shape))

    for number in range(STEPS):
        for _, _, inverse in history:
            inverse[state.stuck > 0] = 0.0
        if number >= NEWTON_FROM and width <= NEWTON_WIDTH and classes == 1:
            direction, smallest = -state.newton_step(), max(tolerance, NEWTON_TOLERANCE)
        else:
            direction, smallest = -_two_loop(state.gradient, history, smooth), tolerance
        size = _largest(state.point.coefficients)
        # Where not even the preconditioned gradient descends, rounding is all that is left of it.
        done = (_largest(direction) <= smallest * np.maximum(size, smallest)) | (state.stuck > 1)
        if done.any():
            solution[active[done]] = state.point.coefficients[done]
            converged[active[done]] = True
            active, direction = active[~done], direction[~done]
            history = [(moved[~done], change[~done], inverse[~done]) for moved, change, inverse in history]
            state.keep(~done)
        if len(active) == 0:
            break
        before, gradient = state.point.coefficients, state.gradient
        state.step(direction)
        moved, change = state.point.coefficients - before, state.gradient - gradient
        curvature = _dots(moved, change)
        inverse = np.divide(1, curvature, out=np.zeros_like(curvature), where=curvature > 0)
        history = [*history, (moved, change, inverse)][-MEMORY:]
    solution[active] = state.point.coefficients
    return solution.reshape(q, classes, width), converged


def _two_loop(gradient: np.ndarray, history: list[Pair], smooth: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return L-BFGS's product of the inverse Hessian and the gradient; pairs of inverse curvature 0 are void."""
    result, shares = gradient.copy(), []
    for moved, change, inverse in reversed(history):
        share = inverse * _dots(moved, result)
        result -= share[:, None] * change
        shares.append(share)
    result = smooth(result)
    if history:
        _, change, inverse = history[-1]
        scale = inverse * _dots(change, smooth(change))
        result /= np.where(scale > 0, scale, 1)[:, None]
    for (moved, change, inverse), share in zip(history, reversed(shares)):
        result += (share - inverse * _dots(change, result))[:, None] * moved
    return result


def _dots(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the sums of a·b over each problem's entries, ``(q,)``."""
    return np.asarray(np.einsum("qi,qi->q", a, b))


def _largest(a: np.ndarray) -> np.ndarray:
    """Return the largest absolute value of each problem's entries, ``(q,)``."""
    return np.asarray(np.maximum(a.max(axis=1), -a.min(axis=1)))


class _Point(NamedTuple):
    """Coefficients ``(q, C·p)`` with what they come to: scores ``(q, C, n)``, the loss's derivative by these, the loss
    with its penalty ``(q,)``, and the loss's mean second derivative by a score ``(q,)``."""

    coefficients: np.ndarray
    scores: np.ndarray
    residual: np.ndarray
    loss: np.ndarray
    curvature: np.ndarray

    def rows(self, problems: np.ndarray) -> _Point:
        return _Point(*(one[problems] for one in self))

    def put(self, problems: np.ndarray, other: _Point) -> None:
        for whole, part in zip(self, other):
            whole[problems] = part


class _State:
    """Where each problem of the batch stands; ``stuck (q,)`` counts line searches in a row that failed."""

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        weights: np.ndarray | None,
        penalty: np.ndarray,
        classes: int,
        start: np.ndarray | None = None,
    ) -> None:
        self.x, self.y, self.weights, self.classes = x, y, weights, classes
        frozen = np.tile(np.isinf(penalty), classes)
        self.frozen = frozen if frozen.any() else None
        self.penalty = np.where(frozen, 0, np.tile(penalty, classes)).astype(x.dtype)
        q = len(y)
        self.stuck = np.zeros(q, dtype=int)
        if start is None:
            coefficients = np.zeros((q, classes * x.shape[1]), x.dtype)
            scores = np.zeros((q, classes, len(x)), x.dtype)
        else:
            coefficients = start.reshape(q, -1).astype(x.dtype)
            scores = self._scores(coefficients)
        self.point = self._at(coefficients, scores, np.arange(q))
        self.gradient = self._gradient()

    def keep(self, kept: np.ndarray) -> None:
        """Go on with some of the problems ``(q,)`` only."""
        self.point = self.point.rows(kept)
        self.y, self.gradient, self.stuck = self.y[kept], self.gradient[kept], self.stuck[kept]
        if self.weights is not None:
            self.weights = self.weights[kept]
        if len(self.penalty) > 1:
            self.penalty = self.penalty[kept]
        if self.frozen is not None and len(self.frozen) > 1:
            self.frozen = self.frozen[kept]

    def free(self, a: np.ndarray) -> np.ndarray:
        """Return ``a (q, C·p)`` with zeros where coefficients are held at 0."""
        return a if self.frozen is None else np.where(self.frozen, 0, a)

    def newton_step(self) -> np.ndarray:
        """Return the product of each problem's inverse Hessian and gradient, ``(q, p)``, of one column a problem."""
        share = expit(self.point.scores[:, 0])
        curvature = share * (1 - share) * (1.0 if self.weights is None else self.weights)
        steps = np.empty_like(self.gradient)
        penalty = np.broadcast_to(self.penalty, self.gradient.shape)
        for problem, weights in enumerate(curvature):
            hessian = self.x.T @ (weights[:, None] * self.x) + np.diag(penalty[problem])
            if self.frozen is not None:
                held = np.broadcast_to(self.frozen, self.gradient.shape)[problem]
                hessian[held, :], hessian[:, held] = 0.0, 0.0
                hessian[held, held] = 1.0
            # Probabilities of 0 and 1 leave the intercept no curvature; rounding's worth of it keeps the step finite.
            hessian[-1, -1] += np.finfo(float).eps * weights.size
            steps[problem] = np.linalg.solve(hessian, self.gradient[problem])
        return steps

    def step(self, direction: np.ndarray) -> None:
        """Move along ``direction (q, C·p)``, each problem as far as its loss falls enough."""
        here, rise = self.point, self._scores(direction)
        slope = _dots(self.gradient, direction).astype(np.float64)
        failed = slope >= 0
        length, trying = np.ones(len(slope)), np.flatnonzero(~failed)
        there = self._at(here.coefficients + direction, here.scores + rise, np.arange(len(slope)))
        for _ in range(SHORTENINGS):
            ahead = self._slope(there, direction, rise, trying)
            taken = _descends(there.loss[trying], here.loss[trying], length[trying], slope[trying], ahead, self.x.dtype)
            # Where a line through the two slopes is flat, within bounds.
            with np.errstate(divide="ignore", invalid="ignore"):
                secant = slope[trying] / (slope[trying] - ahead)
            length[trying] *= np.clip(np.nan_to_num(secant, nan=0.1), 0.1, 0.5)
            trying = trying[~taken]
            if len(trying) == 0:
                break
            t = length[trying, None].astype(self.x.dtype)
            moved = here.coefficients[trying] + t * direction[trying]
            there.put(trying, self._at(moved, here.scores[trying] + t[:, None] * rise[trying], trying))
        failed[trying] = True
        if failed.any():
            there.put(failed, here.rows(failed))
        self.stuck = np.where(failed, self.stuck + 1, 0)
        self.point = there
        self.gradient = self._gradient()

    def _scores(self, coefficients: np.ndarray) -> np.ndarray:
        return (coefficients.reshape(-1, self.x.shape[1]) @ self.x.T).reshape(len(coefficients), self.classes, -1)

    def _gradient(self) -> np.ndarray:
        slopes = self.point.residual.reshape(-1, len(self.x)) @ self.x
        return self.free(slopes.reshape(len(self.stuck), -1) + self.penalty * self.point.coefficients)

    def _slope(self, there: _Point, direction: np.ndarray, rise: np.ndarray, problems: np.ndarray) -> np.ndarray:
        """Return the losses' slopes ``(q,)`` along a direction at the points reached."""
        own = self._own(problems)
        by_scores = np.einsum("qcn,qcn->q", there.residual[own], rise[own])
        return by_scores + _dots(self._penalty(own) * there.coefficients[own], direction[own])

    def _own(self, problems: np.ndarray) -> np.ndarray | slice:
        """Return what takes some of the problems ``(r,)``, of all of them without a copy."""
        return problems if len(problems) < len(self.y) else slice(None)

    def _penalty(self, own: np.ndarray | slice) -> np.ndarray:
        return self.penalty if len(self.penalty) == 1 else self.penalty[own]

    def _at(self, coefficients: np.ndarray, scores: np.ndarray, problems: np.ndarray) -> _Point:
        own = self._own(problems)
        weights = None if self.weights is None else self.weights[own]
        if self.classes == 1:
            losses, residual, curvature = _logistic(scores[:, 0], self.y[own], weights)
            residual = residual[:, None]
        else:
            losses, residual, curvature = _softmax(scores, self.y[own], weights)
        loss = losses + 0.5 * _dots(self._penalty(own) * coefficients, coefficients)
        return _Point(coefficients, scores, residual, loss, curvature)


def _descends(
    loss: np.ndarray, before: np.ndarray, length: np.ndarray, slope: np.ndarray, ahead: np.ndarray, precision: np.dtype
) -> np.ndarray:
    """Tell which steps have fallen enough, from the losses and slopes at both ends ``(q,)``."""
    # The losses are convex: one that still falls where the step ends has fallen all the way.
    hidden = np.abs(loss - before) <= ROUNDING[precision] * before
    falls = loss <= before + DESCENT * length * slope
    return np.asarray((ahead <= 0) | falls | (hidden & (ahead <= -FLAT * slope)))


Parts = tuple[np.ndarray, np.ndarray, np.ndarray]


def _logistic(scores: np.ndarray, y: np.ndarray, weights: np.ndarray | None) -> Parts:
    """Return loss ``(q,)``, its derivative by the scores ``(q, n)``, and its mean second derivative ``(q,)``."""
    small = np.exp(-np.abs(scores))
    losses = np.maximum(scores, 0) - y * scores + np.log1p(small)
    share = 1 / (1 + small)
    bent = small * share * share
    residual = np.where(scores >= 0, share, small * share) - y
    if weights is not None:
        losses *= weights
        bent *= weights
        residual *= weights
    return losses.sum(axis=1, dtype=np.float64), residual, bent.mean(axis=1)


def _softmax(scores: np.ndarray, y: np.ndarray, weights: np.ndarray | None) -> Parts:
    """Return the same of scores ``(q, C, n)`` and class numbers ``(q, n)``, the second derivative over classes too."""
    q, c, n = scores.shape
    hits = (np.arange(q)[:, None] * c + y.astype(np.int64)) * n + np.arange(n)
    largest = scores.max(axis=1)
    shares = scores - largest[:, None]
    np.exp(shares, out=shares)
    total = shares.sum(axis=1)
    losses = np.log(total) + largest - scores.reshape(-1)[hits]
    shares /= total[:, None]
    uneven = np.einsum("qcn,qcn->qn", shares, shares)
    curvature = 1 - uneven
    shares.reshape(-1)[hits] -= 1
    if weights is not None:
        losses *= weights
        curvature *= weights
        shares *= weights[:, None]
    return losses.sum(axis=1, dtype=np.float64), shares, curvature.mean(axis=1) / c
