"""Absorption and splitting: what becomes of a general concept whose special cases have concepts of their own.

After arXiv 2409.14507 (sections 3 and 4), on a world whose hierarchy is known. n rows, h concepts, F factors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import sparse

from vlsae.dictionaries.auroc import auroc
from vlsae.dictionaries.factor_scores import Factors, halves
from vlsae.dictionaries.sparse_probing import sparse_probing
from vlsae.dictionaries.usage import mean_measure
from vlsae.runs.metrics import Measure

#: What a group of general factors is called after that of its members: ``color_family`` of ``color``.
FAMILY = "_family"

#: A further concept counts as a part of a split one where it raises F1 by more than this; so many are looked at.
RISE, MOST_PARTS = 0.03, 6


@dataclass(frozen=True)
class Absorbed:
    """Of a general factor in a stream: its concept, and shares of the rows that show it: ``missed`` by that concept,
    ``absorbed`` by a member's own concept instead; ``chance`` is the share so absorbed if members' concepts fired as
    often as on rows that are not missed."""

    parent: str
    stream: str
    concept: int
    missed: float
    absorbed: float
    chance: float


def families(factors: Factors) -> dict[str, list[str]]:
    """Return each general factor with its members: those of its group less ``_family`` that never show without it."""
    shown = {name: factors.matrix[:, number] for number, name in enumerate(factors.names)}
    group = dict(zip(factors.names, factors.groups))
    found = {}
    for parent in factors.names:
        if not group[parent].endswith(FAMILY):
            continue
        own = [name for name in factors.names if group[name] == group[parent].removesuffix(FAMILY)]
        members = [name for name in own if shown[name].any() and not (shown[name] & ~shown[parent]).any()]
        if len(members) > 1 and members != own:
            found[parent] = members
    return found


def absorption(codes: Mapping[str, Any], factors: Factors, *, seed: int = 0) -> list[Absorbed]:
    """Return how often members' concepts fire in place of the general one, by general factor and stream.

    ``codes``: stream → sparse ``(n, h)``. A factor's concept is the one of best AUROC on one half; rows are counted on
    the other, where the general factor shows.
    """
    choose, score = halves(len(factors.matrix), seed)
    place = {name: number for number, name in enumerate(factors.names)}
    found = []
    for stream, matrix in codes.items():
        table = np.nan_to_num(auroc(matrix[choose], factors.matrix[choose]))
        best = table.argmax(axis=1)
        active = sparse.csc_matrix(matrix[score] != 0)
        for parent, members in families(factors).items():
            rows = factors.matrix[score, place[parent]]
            if not rows.any():
                continue
            concept = int(best[place[parent]])
            fires = np.asarray(active[:, [concept]].todense()).ravel()
            by_member = np.zeros(len(rows), dtype=bool)
            for member in members:
                own = int(best[place[member]])
                if own != concept:
                    fired = np.asarray(active[:, [own]].todense()).ravel()
                    by_member |= factors.matrix[score, place[member]] & fired
            missed = rows & ~fires
            usual = by_member[rows & fires].mean() if (rows & fires).any() else 0.0
            share = missed.sum() / rows.sum()
            found.append(
                Absorbed(parent, stream, concept, share, (missed & by_member).sum() / rows.sum(), usual * share)
            )
    return found


def splitting(codes: Mapping[str, Any], factors: Factors, *, seed: int = 0) -> dict[str, int]:
    """Return how many concepts each general factor is split into: more no longer raise F1 by 0.03; six at most."""
    parents = list(families(factors))
    numbers = [list(factors.names).index(parent) for parent in parents]
    if not numbers:
        return {}
    names, groups = ([values[i] for i in numbers] for values in (factors.names, factors.groups))
    own = Factors(names, groups, factors.matrix[:, numbers], factors.only)
    width = next(iter(codes.values())).shape[1]
    found: dict[str, list[float]] = {}
    for k in range(1, min(MOST_PARTS, width) + 1):
        for one in sparse_probing(codes, own, k, seed=seed, resamples=2).factors:
            found.setdefault(one.factor, []).append(one.f1)
    return {parent: _parts(scores) for parent, scores in found.items()}


def hierarchy_measures(
    codes: Mapping[str, Any], factors: Factors, *, seed: int, resamples: int
) -> tuple[dict[str, Measure], list[Absorbed]]:
    """Return mean shares missed and absorbed, and parts a general factor, with what they are the means of."""
    absorbed = absorption(codes, factors, seed=seed)
    parts = splitting(codes, factors, seed=seed)
    if not absorbed:
        return {}, []
    common = {"seed": seed, "resamples": resamples}
    numbers = {
        f"absorption/{name}" if name != "absorbed" else "absorption": mean_measure(
            np.array([getattr(one, name) for one in absorbed]), "share of rows with the general factor", **common
        )
        for name in ("absorbed", "missed", "chance")
    }
    numbers["splitting"] = mean_measure(np.array(list(parts.values())), "concepts a general factor", **common)
    return numbers, absorbed


def _parts(scores: list[float]) -> int:
    for number, (before, after) in enumerate(pairwise(scores), start=1):
        if after <= before + RISE:
            return number
    return len(scores)
