"""The best rule on known factors for one unit: a small decision tree, chosen and scored across folds.

Shapes: n rows, F factors, K folds.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

#: Depths of trees that are tried: the most factors on one way from root to leaf.
DEPTHS = (1, 2, 3)

#: Rows of a leaf at least.
LEAF = 5


class Rule(NamedTuple):
    """The ``explained`` share of the activity's variance out of fold, what it is made of, and the rule.

    ``parts (n, 2)`` are each row's squared error and its squared distance from the mean of the other folds.
    """

    explained: float
    parts: np.ndarray
    words: str
    depth: int


def best_rule(activity: np.ndarray, factors: np.ndarray, names: list[str], folds: np.ndarray, seed: int = 0) -> Rule:
    """Return the rule on ``factors (n, F)`` that explains ``activity (n,)`` best.

    Each fold is scored by a tree of the depth that did best on the other folds, so that the choice costs nothing. The
    words are of the tree of the depth chosen on all rows: the leaf of the highest activity.
    """
    kinds = np.unique(folds)
    predicted = {depth: _out_of_fold(activity, factors, folds, depth, seed) for depth in DEPTHS}
    errors = {depth: (activity - one) ** 2 for depth, one in predicted.items()}
    chosen = np.empty(len(activity))
    alone = np.empty(len(activity))
    for fold in kinds:
        held = folds == fold
        depth = min(DEPTHS, key=lambda depth, rest=~held: errors[depth][rest].mean())  # type: ignore[misc]
        chosen[held] = errors[depth][held]
        alone[held] = (activity[held] - activity[~held].mean()) ** 2
    best = min(DEPTHS, key=lambda depth: errors[depth].mean())
    if alone.mean() == 0:
        return Rule(float("nan"), np.full((len(activity), 2), np.nan), "", best)
    tree = _tree(best, seed).fit(factors, activity)
    explained = float(1 - chosen.mean() / alone.mean())
    return Rule(explained, np.stack([chosen, alone], axis=1), _words(tree.tree_, names), best)


def _out_of_fold(activity: np.ndarray, factors: np.ndarray, folds: np.ndarray, depth: int, seed: int) -> np.ndarray:
    found = np.empty(len(activity))
    for fold in np.unique(folds):
        held = folds == fold
        found[held] = _tree(depth, seed).fit(factors[~held], activity[~held]).predict(factors[held])
    return found


def _tree(depth: int, seed: int) -> Any:
    from sklearn.tree import DecisionTreeRegressor

    return DecisionTreeRegressor(max_depth=depth, min_samples_leaf=LEAF, random_state=seed)


def _words(tree: Any, names: list[str]) -> str:
    """Return the conjunction that leads to the leaf of the highest value."""
    leaves: list[tuple[float, list[str]]] = []

    def walk(node: int, way: list[str]) -> None:
        if tree.children_left[node] < 0:
            leaves.append((float(tree.value[node].ravel()[0]), way))
            return
        name, bound = names[tree.feature[node]], tree.threshold[node]
        below, above = (f"not {name}", name) if bound == 0.5 else (f"{name} ≤ {bound:.3g}", f"{name} > {bound:.3g}")
        walk(tree.children_left[node], [*way, below])
        walk(tree.children_right[node], [*way, above])

    walk(0, [])
    return " and ".join(max(leaves, key=lambda leaf: leaf[0])[1])
