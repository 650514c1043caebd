"""Everything that is measured of a dictionary where the rows' factors are known.

Recovery beside its baselines, sparse probing, absorption and splitting, targeted removal. n rows, d width, F factors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vlsae.dictionaries.base import Dictionary
from vlsae.dictionaries.codes import code_matrix
from vlsae.dictionaries.factor_scores import Factors, checked_factors
from vlsae.dictionaries.hierarchy import hierarchy_measures
from vlsae.dictionaries.recovery import RecoveryTable, recover
from vlsae.dictionaries.removal import removal_measures, targeted_removal
from vlsae.dictionaries.sparse_probing import sparse_probing
from vlsae.result import Table
from vlsae.runs.metrics import Measure

#: Concepts that a sparse probe reads, and concepts that are taken out of a factor.
COUNTS, REMOVED = (1, 5, 20), 5


@dataclass(frozen=True)
class FactorEvaluation:
    """``metrics`` for the summary, ``recovery`` with every factor's scores, and ``tables`` of the other measures."""

    metrics: dict[str, Measure]
    recovery: RecoveryTable
    tables: tuple[Table, ...]


def evaluate_factors(
    dictionary: Dictionary,
    values: Mapping[str, Tensor],
    factors: Factors,
    *,
    counts: Sequence[int] = COUNTS,
    removed: int = REMOVED,
    seed: int = 0,
    resamples: int = 200,
) -> FactorEvaluation:
    """Return how a dictionary's concepts relate to the factors of rows ``(n, d)`` by stream.

    Row i of each stream is of the same sample, as ``factors.matrix (n, F)`` says it. Concepts are chosen on one half of
    the rows and scored on the other.
    """
    known = checked_factors(factors, values)
    common: dict[str, Any] = {"seed": seed, "resamples": resamples}
    table = recover(dictionary, values, known, **common)
    numbers = table.metrics()
    codes = {stream: code_matrix(dictionary, x, stream) for stream, x in values.items()}
    raw = {stream: x.double().cpu().numpy() for stream, x in values.items()}
    for count in counts:
        for name, scores in (("sparse_probing", codes), ("sparse_probing_units", raw)):
            found = sparse_probing(scores, known, count, **common)
            numbers |= {f"{name}/k{count}/auroc": found.auroc, f"{name}/k{count}/f1": found.f1}
    shares, absorbed = hierarchy_measures(codes, known, **common)
    falls = targeted_removal(dictionary, values, known, concepts=removed, seed=seed)
    numbers |= shares | removal_measures(falls, **common)
    tables = (
        Table(
            "absorption",
            "General factors and what their members' concepts take over",
            ("factor", "stream", "concept", "missed", "absorbed", "chance"),
            [(one.parent, one.stream, one.concept, one.missed, one.absorbed, one.chance) for one in absorbed],
        ),
        Table(
            "removal",
            f"Fall in AUROC when a factor's {removed} concepts are taken out",
            ("factor", "stream", "own", "others", "random"),
            [(one.factor, one.stream, one.own, one.others, one.random) for one in falls],
        ),
    )
    return FactorEvaluation(numbers, table, tuple(one for one in tables if one.rows))
