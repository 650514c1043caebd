"""Targeted removal: taking a factor's concepts out should blind a probe for it, and no other (arXiv 2411.18895).

n rows, d width, h concepts, F factors. Rows are edited as x + decode(code without them) − decode(code).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vlsae.dictionaries.auroc import auroc
from vlsae.dictionaries.base import Dictionary
from vlsae.dictionaries.codes import code_matrix, rows_of
from vlsae.dictionaries.factor_scores import FEWEST_ROWS, Factors, halves
from vlsae.dictionaries.sparse_probing import strongest
from vlsae.dictionaries.usage import mean_measure
from vlsae.runs.metrics import Measure

#: Rows on which removal is scored, and factors, the most even ones: each needs a decoding of all rows.
MOST_ROWS, MOST_FACTORS = 1000, 24


@dataclass(frozen=True)
class Removed:
    """What taking out a factor's concepts does in a stream: falls in AUROC of its own probe and, on average, of others;
    ``random`` is the fall of its own where as many other concepts that fire are taken out."""

    factor: str
    stream: str
    own: float
    others: float
    random: float


@torch.no_grad()
def targeted_removal(
    dictionary: Dictionary, values: Mapping[str, Tensor], factors: Factors, *, concepts: int = 5, seed: int = 0
) -> list[Removed]:
    """Return what removing each factor's ``concepts`` strongest concepts does to probes of all factors.

    ``values``: stream → ``(n, d)``. Probes are fitted on, and concepts chosen on, one half and scored on the other.
    Factors that a stream cannot know, and those whose probe is blind from the start (AUROC below 0.6), are left out.
    """
    from vlsae.dictionaries.recovery import logistic_probe, standardised

    choose, score = halves(len(factors.matrix), seed)
    score = score[:MOST_ROWS]
    generator = np.random.default_rng(seed)
    found = []
    for stream, x in values.items():
        kept = _able(factors, stream, choose, score)
        raw = x.double().cpu().numpy()
        mean, spread = raw[choose].mean(axis=0), raw[choose].std(axis=0)
        spread = np.where(spread > 0, spread, 1)
        scaled = standardised(raw, choose)[choose]
        probes = [logistic_probe(scaled, factors.matrix[choose, number]) for number in kept]
        codes = code_matrix(dictionary, x, stream)
        chosen = strongest(codes[choose], factors.matrix[choose][:, kept], concepts) if kept else np.zeros((0, 0), int)
        live = np.flatnonzero(np.diff(codes[choose].tocsc().indptr))
        rows = rows_of(x, score)
        present = factors.matrix[score][:, kept]

        def areas(edited: np.ndarray) -> np.ndarray:
            decided = np.stack([decide((edited - mean) / spread) for decide in probes], axis=1)  # noqa: B023
            return np.array([auroc(decided[:, [i]], present[:, [i]])[0, 0] for i in range(len(probes))])  # noqa: B023

        if not kept:
            continue
        before = areas(raw[score])
        for i, number in enumerate(kept):
            if before[i] < 0.6:
                continue
            falls = before - areas(_without(dictionary, rows, stream, chosen[i]))
            others = generator.choice(live, min(len(live), concepts), replace=False)
            control = before[i] - areas(_without(dictionary, rows, stream, others))[i]
            seeing = np.delete(before, i) >= 0.6
            rest = np.delete(falls, i)[seeing]
            found.append(
                Removed(factors.names[number], stream, falls[i], float(rest.mean()) if len(rest) else 0.0, control)
            )
    return found


def removal_measures(removed: list[Removed], *, seed: int, resamples: int) -> dict[str, Measure]:
    """Return mean falls in AUROC over factors and streams: of the factor removed, of others, and their difference."""
    if not removed:
        return {}
    own, others, random = (np.array([getattr(one, name) for one in removed]) for name in ("own", "others", "random"))
    parts = {"removal/own": own, "removal/others": others, "removal/random": random, "removal": own - others}
    return {name: mean_measure(x, "fall in AUROC", seed=seed, resamples=resamples) for name, x in parts.items()}


def _able(factors: Factors, stream: str, choose: np.ndarray, score: np.ndarray) -> list[int]:
    """Return the factors that a stream can know and that have rows of either kind, the most even ones."""

    def fewest(number: int) -> int:
        counts = [factors.matrix[half, number] for half in (choose, score)]
        return min(min(int(one.sum()), int((~one).sum())) for one in counts)

    able = [
        number
        for number, name in enumerate(factors.names)
        if factors.only.get(name, factors.only.get(factors.groups[number], stream)) == stream
        and fewest(number) >= FEWEST_ROWS
    ]
    return sorted(sorted(able, key=lambda number: -fewest(number))[:MOST_FACTORS])


def _without(dictionary: Dictionary, x: Tensor, stream: str, concepts: np.ndarray) -> np.ndarray:
    code = dictionary.encode(x, stream).to_dense()
    edited = code.clone()
    edited[:, torch.as_tensor(np.array(concepts), device=code.device)] = 0
    moved = dictionary.decode(edited, stream) - dictionary.decode(code, stream)
    return (dictionary.checked(x, stream) + moved).double().cpu().numpy()
