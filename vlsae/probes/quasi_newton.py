"""Many logistic losses minimised at once: L-BFGS (Nocedal, 1980), two matrix products a step for all of them.

Shapes: n rows, p coefficients, q problems.
"""

from __future__ import annotations

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

#: Share of the loss below which its change is rounding.
ROUNDING = 1e-12

Pair = tuple[np.ndarray, np.ndarray, np.ndarray]


def minimize(
    x: np.ndarray, y: np.ndarray, weights: np.ndarray, penalty: np.ndarray, preconditioner: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients ``(p, q)`` of least Σ weight·log-loss + ½ Σ penalty·w², and which ``(q,)`` have converged.

    ``x (n, p)``, ``y (n, q)`` in 0…1, ``weights (n, q)``, ``penalty (p,)``; ``preconditioner (p, p)`` approximates the
    inverse of the Hessians. Problems that are solved leave the batch.
    """
    q = y.shape[1]
    solution, converged = np.zeros((x.shape[1], q)), np.zeros(q, dtype=bool)
    active = np.arange(q)
    state = _State(x, y, weights, penalty)
    history: list[Pair] = []
    for number in range(STEPS):
        for _, _, inverse in history:
            inverse[state.stuck > 0] = 0.0
        if number >= NEWTON_FROM and len(penalty) <= NEWTON_WIDTH:
            direction, tolerance = -state.newton_step(), NEWTON_TOLERANCE
        else:
            direction, tolerance = -two_loop(state.gradient, history, preconditioner), TOLERANCE
        size = np.abs(state.coefficients).max(axis=0)
        # Where not even the preconditioned gradient descends, rounding is all that is left of it.
        done = (np.abs(direction).max(axis=0) <= tolerance * np.maximum(size, TOLERANCE)) | (state.stuck > 1)
        if done.any():
            solution[:, active[done]] = state.coefficients[:, done]
            converged[active[done]] = True
            active, direction = active[~done], direction[:, ~done]
            state.keep(~done)
            history = [(moved[:, ~done], change[:, ~done], inverse[~done]) for moved, change, inverse in history]
        if len(active) == 0:
            break
        before, gradient = state.coefficients, state.gradient
        state.step(direction)
        moved, change = state.coefficients - before, state.gradient - gradient
        curvature = np.einsum("pq,pq->q", moved, change)
        inverse = np.divide(1.0, curvature, out=np.zeros_like(curvature), where=curvature > 0)
        history = [*history, (moved, change, inverse)][-MEMORY:]
    solution[:, active] = state.coefficients
    return solution, converged


def two_loop(gradient: np.ndarray, history: list[Pair], preconditioner: np.ndarray) -> np.ndarray:
    """Return L-BFGS's product of the inverse Hessian and ``gradient (p, q)``; pairs of inverse curvature 0 are void."""
    result, shares = gradient, []
    for moved, change, inverse in reversed(history):
        share = inverse * np.einsum("pq,pq->q", moved, result)
        result = result - share * change
        shares.append(share)
    result = preconditioner @ result
    if history:
        _, change, inverse = history[-1]
        scale = inverse * np.einsum("pq,pq->q", change, preconditioner @ change)
        result = result / np.where(scale > 0, scale, 1.0)
    for (moved, change, inverse), share in zip(history, reversed(shares)):
        result = result + moved * (share - inverse * np.einsum("pq,pq->q", change, result))
    return result


class _State:
    """Where each of the problems of the batch stands; ``stuck (q,)`` counts line searches in a row that failed."""

    def __init__(self, x: np.ndarray, y: np.ndarray, weights: np.ndarray, penalty: np.ndarray) -> None:
        self.x, self.y, self.weights, self.penalty = x, y, weights, penalty[:, None]
        self.coefficients = np.zeros((x.shape[1], y.shape[1]))
        self.scores = np.zeros_like(y)
        self.stuck = np.zeros(y.shape[1], dtype=int)
        self.loss, self.residual = self._evaluate(self.coefficients, self.scores, slice(None))
        self.gradient = x.T @ self.residual

    def keep(self, kept: np.ndarray) -> None:
        """Go on with some of the problems only."""
        for name in ("y", "weights", "coefficients", "scores", "residual", "gradient"):
            setattr(self, name, getattr(self, name)[:, kept])
        self.loss, self.stuck = self.loss[kept], self.stuck[kept]

    def newton_step(self) -> np.ndarray:
        """Return the product of each problem's inverse Hessian and gradient, ``(p, q)``."""
        share = expit(self.scores)
        curvature = self.weights * share * (1 - share)
        steps = np.empty_like(self.gradient)
        for problem, weights in enumerate(curvature.T):
            hessian = self.x.T @ (weights[:, None] * self.x) + np.diag(self.penalty[:, 0])
            # Probabilities of 0 and 1 leave the intercept no curvature; rounding's worth of it keeps the step finite.
            hessian[-1, -1] += np.finfo(float).eps * weights.size
            steps[:, problem] = np.linalg.solve(hessian, self.gradient[:, problem])
        return steps

    def step(self, direction: np.ndarray) -> None:
        """Move each problem along its ``direction (p, q)`` by a step that descends, or not at all."""
        rise = self.x @ direction
        slope = np.einsum("pq,pq->q", self.gradient, direction)
        coefficients, scores = self.coefficients.copy(), self.scores.copy()
        length = np.ones(len(slope))
        trying = np.flatnonzero(slope < 0)
        for _ in range(SHORTENINGS):
            if len(trying) == 0:
                break
            t = length[trying]
            moved = self.coefficients[:, trying] + t * direction[:, trying]
            raised = self.scores[:, trying] + t * rise[:, trying]
            loss, residual = self._evaluate(moved, raised, trying)
            ahead = np.einsum("nq,nq->q", residual, rise[:, trying])
            ahead += np.einsum("pq,pq->q", self.penalty * moved, direction[:, trying])
            taken = self._descends(loss, self.loss[trying], t * slope[trying], ahead, slope[trying])
            done = trying[taken]
            coefficients[:, done], scores[:, done] = moved[:, taken], raised[:, taken]
            self.loss[done], self.residual[:, done] = loss[taken], residual[:, taken]
            # Where a line through the two slopes is flat, within bounds.
            with np.errstate(divide="ignore", invalid="ignore"):
                secant = slope[trying] / (slope[trying] - ahead)
            length[trying] *= np.clip(np.nan_to_num(secant, nan=0.1), 0.1, 0.5)
            trying = trying[~taken]
        failed = slope >= 0
        failed[trying] = True
        self.stuck = np.where(failed, self.stuck + 1, 0)
        self.coefficients, self.scores = coefficients, scores
        self.gradient = self.x.T @ self.residual + self.penalty * coefficients

    @staticmethod
    def _descends(
        loss: np.ndarray, before: np.ndarray, expected: np.ndarray, ahead: np.ndarray, slope: np.ndarray
    ) -> np.ndarray:
        # The losses are convex: one that still falls where the step ends has fallen all the way.
        hidden = np.abs(loss - before) <= ROUNDING * before
        return (ahead <= 0) | (loss <= before + DESCENT * expected) | (hidden & (ahead <= -FLAT * slope))

    def _evaluate(
        self, coefficients: np.ndarray, scores: np.ndarray, problems: slice | np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the loss ``(q,)`` and its derivative by the scores ``(n, q)``, the penalty's apart."""
        y, weights = self.y[:, problems], self.weights[:, problems]
        small = np.exp(-np.abs(scores))
        losses = np.maximum(scores, 0) + np.log1p(small) - y * scores
        residual = weights * (np.where(scores >= 0, 1.0, small) / (1 + small) - y)
        return (weights * losses).sum(axis=0) + 0.5 * (self.penalty * coefficients**2).sum(axis=0), residual
