"""Many logistic losses minimised at once: L-BFGS (Nocedal, 1980), two matrix products a step for all of them.

Shapes: n rows, p coefficients, q problems, C classes; m = q·C columns, those of one class side by side (column
c·q + j is class c of problem j). A problem of two classes needs one column: C = 1.
"""

from __future__ import annotations

from collections.abc import Callable

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

Pair = tuple[np.ndarray, np.ndarray, np.ndarray]

#: Of a gradient ``(p, m)``, the problems ``(q,)`` it is of, and how much a row's loss curves there on average ``(q,)``:
#: about its product with their inverse Hessians.
Precondition = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def minimize(
    x: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray,
    penalty: np.ndarray,
    precondition: Precondition,
    *,
    classes: int = 1,
    tolerance: float = TOLERANCE,
    start: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients ``(p, m)`` of least Σ weight·log-loss + ½ Σ penalty·w², and which ``(q,)`` have converged.

    ``x (n, p)``, ``y (n, q)`` in 0…1 (in class numbers where ``classes`` > 1), ``weights (n, q)``; ``penalty (p, q)``,
    or ``(p, 1)`` for all alike: an infinite one keeps a coefficient at 0. Problems that are solved leave the batch.
    Everything is computed in the precision of ``x``, losses summed in double; ``start (p, m)`` is where to begin.
    """
    q = y.shape[1]
    state = _State(x, y, weights, penalty, classes, start)
    solution, converged = np.zeros((x.shape[1], q * classes), x.dtype), np.zeros(q, dtype=bool)
    active = np.arange(q)
    history: list[Pair] = []
    for number in range(STEPS):
        for _, _, inverse in history:
            inverse[state.stuck > 0] = 0.0
        if number >= NEWTON_FROM and len(x.T) <= NEWTON_WIDTH and classes == 1:
            direction, smallest = -state.newton_step(), max(tolerance, NEWTON_TOLERANCE)
        else:
            curvature = state.curvature
            smooth = lambda one, own=active, by=curvature: precondition(one, own, by)  # noqa: E731
            direction, smallest = -_two_loop(state, history, smooth), tolerance
        size = state.largest(state.coefficients)
        # Where not even the preconditioned gradient descends, rounding is all that is left of it.
        done = (state.largest(direction) <= smallest * np.maximum(size, smallest)) | (state.stuck > 1)
        if done.any():
            solution[:, _columns(active[done], q, classes)] = state.coefficients[:, state.columns(done)]
            converged[active[done]] = True
            kept = state.columns(~done)
            active, direction = active[~done], direction[:, kept]
            history = [(moved[:, kept], change[:, kept], inverse[~done]) for moved, change, inverse in history]
            state.keep(~done)
        if len(active) == 0:
            break
        before, gradient = state.coefficients, state.gradient
        state.step(direction)
        moved, change = state.coefficients - before, state.gradient - gradient
        curvature = state.dots(moved, change)
        inverse = np.divide(1, curvature, out=np.zeros_like(curvature), where=curvature > 0)
        history = [*history, (moved, change, inverse)][-MEMORY:]
    solution[:, _columns(active, q, classes)] = state.coefficients
    return solution, converged


def _two_loop(state: _State, history: list[Pair], precondition: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return L-BFGS's product of the inverse Hessian and the gradient; pairs of inverse curvature 0 are void."""
    result, shares = state.gradient, []
    for moved, change, inverse in reversed(history):
        share = inverse * state.dots(moved, result)
        result = result - state.spread(share) * change
        shares.append(share)
    result = state.free(precondition(result))
    if history:
        _, change, inverse = history[-1]
        scale = inverse * state.dots(change, state.free(precondition(change)))
        result = result / state.spread(np.where(scale > 0, scale, 1.0))
    for (moved, change, inverse), share in zip(history, reversed(shares)):
        result = result + moved * state.spread(share - inverse * state.dots(change, result))
    return result


def _columns(problems: np.ndarray, q: int, classes: int) -> np.ndarray:
    """Return the columns of some of q problems."""
    return (np.arange(classes)[:, None] * q + problems).ravel()


class _State:
    """Where each of the problems of the batch stands; ``stuck (q,)`` counts line searches in a row that failed."""

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        weights: np.ndarray,
        penalty: np.ndarray,
        classes: int,
        start: np.ndarray | None = None,
    ) -> None:
        self.x, self.y, self.weights, self.classes = x, y, weights, classes
        self.frozen = np.isinf(penalty) if np.isinf(penalty).any() else None
        self.penalty = penalty if self.frozen is None else np.where(self.frozen, 0.0, penalty)
        q = y.shape[1]
        self.hits = y[:, None] == np.arange(classes)[:, None] if classes > 1 else None
        self.curvature = np.zeros(q)
        if start is None:
            self.coefficients = np.zeros((x.shape[1], q * classes), x.dtype)
            self.scores = np.zeros((len(x), q * classes), x.dtype)
        else:
            self.coefficients = start.astype(x.dtype)
            self.scores = x @ self.coefficients
        self.stuck = np.zeros(q, dtype=int)
        self.loss, self.residual = self._evaluate(self.coefficients, self.scores, np.arange(q))
        self.gradient = self._gradient(self.coefficients)

    def keep(self, kept: np.ndarray) -> None:
        """Go on with some of the problems only."""
        columns = self.columns(kept)
        for name in ("coefficients", "scores", "residual", "gradient"):
            setattr(self, name, getattr(self, name)[:, columns])
        self.y, self.weights, self.curvature = self.y[:, kept], self.weights[:, kept], self.curvature[kept]
        if self.hits is not None:
            self.hits = self.hits[:, :, kept]
        self.loss, self.stuck = self.loss[kept], self.stuck[kept]
        if self.penalty.shape[1] > 1:
            self.penalty = self.penalty[:, kept]
        if self.frozen is not None and self.frozen.shape[1] > 1:
            self.frozen = self.frozen[:, kept]

    def columns(self, kept: np.ndarray) -> np.ndarray:
        """Return the columns of the problems ``kept (q,)``, given as truth values or numbers."""
        return _columns(np.flatnonzero(kept) if kept.dtype == bool else kept, len(self.loss), self.classes)

    def dots(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return the sums of a·b over each problem's entries, ``(q,)``."""
        return np.einsum("pm,pm->m", a, b).reshape(self.classes, -1).sum(axis=0)

    def largest(self, a: np.ndarray) -> np.ndarray:
        """Return the largest absolute value of each problem's entries, ``(q,)``."""
        return np.abs(a).max(axis=0).reshape(self.classes, -1).max(axis=0)

    def spread(self, a: np.ndarray) -> np.ndarray:
        """Return one value a problem ``(…, q)`` as one a column ``(…, m)``."""
        if self.classes == 1 or a.shape[-1] == 1:
            return a
        return np.tile(a, self.classes)

    def free(self, a: np.ndarray) -> np.ndarray:
        """Return ``a (p, m)`` with zeros where coefficients are held at 0."""
        return a if self.frozen is None else np.where(self.spread(self.frozen), 0.0, a)

    def newton_step(self) -> np.ndarray:
        """Return the product of each problem's inverse Hessian and gradient, ``(p, q)``, of one column a problem."""
        share = expit(self.scores)
        curvature = self.weights * share * (1 - share)
        steps = np.empty_like(self.gradient)
        penalty = np.broadcast_to(self.penalty, self.gradient.shape)
        for problem, weights in enumerate(curvature.T):
            hessian = self.x.T @ (weights[:, None] * self.x) + np.diag(penalty[:, problem])
            if self.frozen is not None:
                held = np.broadcast_to(self.frozen, self.gradient.shape)[:, problem]
                hessian[held, :], hessian[:, held] = 0.0, 0.0
                hessian[held, held] = 1.0
            # Probabilities of 0 and 1 leave the intercept no curvature; rounding's worth of it keeps the step finite.
            hessian[-1, -1] += np.finfo(float).eps * weights.size
            steps[:, problem] = np.linalg.solve(hessian, self.gradient[:, problem])
        return steps

    def step(self, direction: np.ndarray) -> None:
        """Move along ``direction (p, m)``, each problem as far as its loss falls enough."""
        rise = self.x @ direction
        slope = self.dots(self.gradient, direction).astype(np.float64)
        coefficients, scores = self.coefficients.copy(), self.scores.copy()
        length = np.ones(len(slope))
        trying = np.flatnonzero(slope < 0)
        for _ in range(SHORTENINGS):
            if len(trying) == 0:
                break
            own = self.columns(trying) if len(trying) < len(slope) else slice(None)
            t = self.spread(length[trying]).astype(self.x.dtype)
            moved = self.coefficients[:, own] + t * direction[:, own]
            raised = self.scores[:, own] + t * rise[:, own]
            loss, residual = self._evaluate(moved, raised, trying)
            pull = self.spread(self._penalty_of(trying)) * moved
            ahead = np.einsum("nm,nm->m", residual, rise[:, own]) + np.einsum("pm,pm->m", pull, direction[:, own])
            ahead = ahead.reshape(self.classes, -1).sum(axis=0)
            taken = self._descends(
                loss, self.loss[trying], length[trying] * slope[trying], ahead, slope[trying], ROUNDING[self.x.dtype]
            )
            done = trying[taken]
            places, within = self.columns(done), _columns(np.flatnonzero(taken), len(trying), self.classes)
            coefficients[:, places], scores[:, places] = moved[:, within], raised[:, within]
            self.loss[done], self.residual[:, places] = loss[taken], residual[:, within]
            # Where a line through the two slopes is flat, within bounds.
            with np.errstate(divide="ignore", invalid="ignore"):
                secant = slope[trying] / (slope[trying] - ahead)
            length[trying] *= np.clip(np.nan_to_num(secant, nan=0.1), 0.1, 0.5)
            trying = trying[~taken]
        failed = slope >= 0
        failed[trying] = True
        self.stuck = np.where(failed, self.stuck + 1, 0)
        self.coefficients, self.scores = coefficients, scores
        self.gradient = self._gradient(coefficients)

    @staticmethod
    def _descends(
        loss: np.ndarray,
        before: np.ndarray,
        expected: np.ndarray,
        ahead: np.ndarray,
        slope: np.ndarray,
        rounding: float,
    ) -> np.ndarray:
        # The losses are convex: one that still falls where the step ends has fallen all the way.
        hidden = np.abs(loss - before) <= rounding * before
        return (ahead <= 0) | (loss <= before + DESCENT * expected) | (hidden & (ahead <= -FLAT * slope))

    def _gradient(self, coefficients: np.ndarray) -> np.ndarray:
        return self.free(self.x.T @ self.residual + self.spread(self.penalty) * coefficients)

    def _penalty_of(self, problems: np.ndarray) -> np.ndarray:
        return self.penalty if self.penalty.shape[1] == 1 else self.penalty[:, problems]

    def _evaluate(
        self, coefficients: np.ndarray, scores: np.ndarray, problems: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the loss ``(q,)`` and its derivative by the scores ``(n, m)``, the penalty's apart."""
        own = problems if len(problems) < self.y.shape[1] else slice(None)
        if self.hits is None:
            losses, residual, self.curvature[own] = _logistic(scores, self.y[:, own], self.weights[:, own])
        else:
            losses, residual, self.curvature[own] = _softmax(scores, self.hits[:, :, own], self.weights[:, own])
        squares = (self.spread(self._penalty_of(problems)) * coefficients**2).sum(axis=0)
        return losses + 0.5 * squares.reshape(self.classes, -1).sum(axis=0), residual


Parts = tuple[np.ndarray, np.ndarray, np.ndarray]


def _logistic(scores: np.ndarray, y: np.ndarray, weights: np.ndarray) -> Parts:
    """Return loss ``(q,)``, its derivative by the scores ``(n, q)``, and its mean second derivative ``(q,)``."""
    small = np.exp(-np.abs(scores))
    losses = np.maximum(scores, 0) - y * scores + np.log1p(small)
    share = 1 / (1 + small)
    curvature = np.einsum("nq,nq,nq->q", weights, small * share, share) / len(y)
    residual = np.where(scores >= 0, share, small * share) - y
    residual *= weights
    return np.einsum("nq,nq->q", weights, losses, dtype=np.float64), residual, curvature


def _softmax(scores: np.ndarray, hits: np.ndarray, weights: np.ndarray) -> Parts:
    """Return the same of scores ``(n, m)``, with ``hits (n, C, q)`` at each row's class."""
    cubes = scores.reshape(hits.shape)
    largest = cubes.max(axis=1)
    shares = np.exp(cubes - largest[:, None])
    total = shares.sum(axis=1)
    own = np.einsum("ncq,ncq->nq", cubes, hits, dtype=cubes.dtype)
    losses = np.einsum("nq,nq->q", weights, np.log(total) + largest - own, dtype=np.float64)
    shares /= total[:, None]
    uneven = np.einsum("ncq,ncq->nq", shares, shares)
    curvature = np.einsum("nq,nq->q", weights, 1 - uneven) / (len(hits) * hits.shape[1])
    shares -= hits
    shares *= weights[:, None]
    return losses, shares.reshape(scores.shape), curvature
