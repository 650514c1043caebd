"""Concept recovery: did a dictionary find the factors that a world is known to be made of?

For each factor value the best concept is chosen on one half of the held-out rows and scored on the other; one and the
same concept must serve both streams, so its AUROC counts as the smaller of the two. n rows, h concepts, F factors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from vlsae.dictionaries.auroc import auroc, influences
from vlsae.errors import UserError
from vlsae.runs.metrics import Measure
from vlsae.statistics import interval_of, multinomial_weights

#: Rows of either kind that a factor needs in each half to be scored.
FEWEST_ROWS = 20
#: AUROC from which a factor counts as covered.
COVERED = 0.9


class Factors(NamedTuple):
    """What is known of each row: ``names`` and ``groups`` of F factor values, ``matrix (n, F)`` bool.

    ``only`` maps factors that one stream alone can know, by their names or their group's, to that stream.
    """

    names: Sequence[str]
    groups: Sequence[str]
    matrix: np.ndarray
    only: Mapping[str, str] = {}


@dataclass(frozen=True)
class FactorScore:
    """How well one concept found one factor; ``auroc`` and ``f1`` are the smaller over the streams scored."""

    factor: str
    group: str
    positives: int
    concept: int | None
    auroc: float
    f1: float
    by_stream: dict[str, dict[str, float]]

    def row(self) -> dict[str, Any]:
        """Return the score as a row of a table."""
        flat = {
            f"{name}_{stream}": value for stream, values in self.by_stream.items() for name, value in values.items()
        }
        plain = {"factor": self.factor, "group": self.group, "positives": self.positives, "concept": self.concept}
        return {**plain, "auroc": self.auroc, "f1": self.f1, "streams": "+".join(self.by_stream), **flat}


@dataclass(frozen=True)
class Recovery:
    """Scores of all factors that were scored; the joint numbers cover those that both streams can know."""

    factors: list[FactorScore]
    auroc: Measure
    f1: Measure
    coverage: Measure
    skipped: list[str] = field(default_factory=list)
    one_stream: list[str] = field(default_factory=list)

    def metrics(self, prefix: str = "recovery") -> dict[str, Measure]:
        """Return the numbers of the summary under a prefix."""
        return {f"{prefix}/auroc": self.auroc, f"{prefix}/f1": self.f1, f"{prefix}/coverage": self.coverage}


def recovery(
    scores: Mapping[str, Any],
    factors: Factors | tuple[Sequence[str], Sequence[str], np.ndarray],
    *,
    seed: int = 0,
    resamples: int = 200,
    signed: bool = False,
) -> Recovery:
    """Score how well single columns of ``scores`` find each factor.

    ``scores``: stream → ``(n, h)``, dense or SciPy sparse, row i of each stream of the same sample. Factors of fewer
    than 20 rows with or without in a half are skipped; factors that one stream alone knows are scored there and left
    out of the joint numbers. ``signed`` lets a column serve by its negative too, for units without a direction.
    Intervals resample the scored half by the AUROC's first-order influence. Raises ``ValueError`` for rows that do not
    match.
    """
    known = checked_factors(factors, scores)
    choose, score = halves(len(known.matrix), seed)
    chosen = {stream: auroc(x[choose], known.matrix[choose]) for stream, x in scores.items()}
    if signed:
        chosen = {stream: np.concatenate([table, 1 - table], axis=1) for stream, table in chosen.items()}
    width = next(iter(scores.values())).shape[1]

    def column(number: int, stream: str, rows: np.ndarray, concept: int) -> np.ndarray:
        values = _column(scores[stream], rows, concept % width)
        return -values if concept >= width else values

    def best(number: int, streams: Sequence[str]) -> int:
        return int(np.argmax(np.min([chosen[stream][number] for stream in streams], axis=0)))

    return score_factors(known, tuple(scores), choose, score, best, column, resamples=resamples, seed=seed)


def score_factors(
    factors: Factors,
    streams: Sequence[str],
    choose: np.ndarray,
    score: np.ndarray,
    best: Any,
    column: Any,
    *,
    resamples: int,
    seed: int,
) -> Recovery:
    """Score chosen columns: ``best(factor, streams)`` picks one, ``column(factor, stream, rows, concept)`` reads it.

    Thresholds of F1 are set on the rows ``choose``, one a stream; all numbers come from the rows ``score``.
    """
    found: list[FactorScore] = []
    skipped: list[str] = []
    influence: list[list[tuple[float, np.ndarray, float, np.ndarray]]] = []
    for number, name in enumerate(factors.names):
        present = factors.matrix[:, number]
        if not all(_enough(present[half]) for half in (choose, score)):
            skipped.append(name)
            continue
        able = [factors.only[name]] if name in factors.only else list(streams)
        able = [stream for stream in able if stream in streams]
        if not able:
            skipped.append(name)
            continue
        concept = best(number, able)
        parts, by_stream = [], {}
        for stream in able:
            threshold = best_threshold(column(number, stream, choose, concept), present[choose])
            values = column(number, stream, score, concept)
            area, area_influence = influences(values, present[score])
            f1, f1_influence = _f1(values >= threshold, present[score])
            parts.append((area, area_influence, f1, f1_influence))
            by_stream[stream] = {"auroc": area, "f1": f1, "threshold": float(threshold)}
        if name not in factors.only:
            influence.append(parts)
        found.append(
            FactorScore(
                name,
                factors.groups[number],
                int(present.sum()),
                None if concept < 0 else concept,
                min(part[0] for part in parts),
                min(part[2] for part in parts),
                by_stream,
            )
        )
    joint = _joint(influence, len(score), resamples, seed)
    alone = [name for name in factors.names if name in factors.only and name not in skipped]
    return Recovery(found, *joint, skipped=skipped, one_stream=alone)


def checked_factors(factors: Any, scores: Mapping[str, Any]) -> Factors:
    """Return factors with their matrix as bool; ``ValueError`` where names, rows and scores do not match."""
    known = factors if isinstance(factors, Factors) else Factors(*factors)
    matrix = np.asarray(known.matrix, dtype=bool)
    if matrix.ndim != 2 or matrix.shape[1] != len(known.names) or len(known.groups) != len(known.names):
        words = f"{len(known.names)} names and {len(known.groups)} groups"
        raise UserError(f"factors.matrix has shape {matrix.shape}, which does not fit {words}; (n, F) was expected.")
    if not scores:
        raise UserError("scores must hold at least one stream.")
    for stream, x in scores.items():
        if x.shape[0] != len(matrix):
            raise UserError(f"scores[{stream!r}] has {x.shape[0]} rows; factors.matrix has {len(matrix)}.")
    alone = {name: known.only.get(name, known.only.get(group)) for name, group in zip(known.names, known.groups)}
    return known._replace(matrix=matrix, only={name: stream for name, stream in alone.items() if stream is not None})


def halves(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to choose concepts on and the rows to score them on: a seeded split into halves."""
    order = np.random.default_rng([seed, n]).permutation(n)
    return np.sort(order[: n // 2]), np.sort(order[n // 2 :])


def best_threshold(values: np.ndarray, present: np.ndarray) -> float:
    """Return the smallest value that is called present where F1 is best; the highest such where several are."""
    order = np.argsort(-values, kind="stable")
    hits = np.cumsum(present[order])
    called = np.arange(1, len(order) + 1)
    f1 = 2 * hits / (called + present.sum())
    # Only between different values can a threshold lie.
    ordered = values[order]
    last = np.append(ordered[1:] != ordered[:-1], True)
    f1[~last] = -1
    return float(ordered[int(np.argmax(f1))])


def _f1(called: np.ndarray, present: np.ndarray) -> tuple[float, np.ndarray]:
    hits = (called & present).astype(np.float64)
    total = called.astype(np.float64) + present
    value = 2 * hits.sum() / total.sum()
    return float(value), (2 * hits - value * total) / total.mean()


def _joint(
    parts: list[list[tuple[float, np.ndarray, float, np.ndarray]]], n: int, resamples: int, seed: int
) -> tuple[Measure, Measure, Measure]:
    """Return mean AUROC, mean F1 and coverage over factors, each the smaller of the streams, with intervals."""
    if not parts:
        return tuple(Measure(None, unit) for unit in ("AUROC", "F1", "share of factors"))  # type: ignore[return-value]
    values = np.array([[[part[0], part[2]] for part in one] for one in parts])
    influences = np.array([[[part[1], part[3]] for part in one] for one in parts])
    factors, streams, _ = values.shape
    flat = influences.reshape(-1, n)
    moved = np.concatenate([(w - 1) @ flat.T for w in multinomial_weights(n, resamples, seed)]) / n
    drawn = (values + moved.reshape(-1, factors, streams, 2)).clip(0, 1).min(axis=2)
    joint = values.min(axis=1)
    return (
        _measure(joint[:, 0].mean(), drawn[..., 0].mean(axis=1), "AUROC"),
        _measure(joint[:, 1].mean(), drawn[..., 1].mean(axis=1), "F1"),
        _measure((joint[:, 0] > COVERED).mean(), (drawn[..., 0] > COVERED).mean(axis=1), "share of factors"),
    )


def _measure(value: float, replicates: np.ndarray, unit: str) -> Measure:
    interval = interval_of(value, replicates)
    return Measure(float(value), unit, interval.low, interval.high)


def _enough(present: np.ndarray) -> bool:
    positives = int(present.sum())
    return min(positives, len(present) - positives) >= FEWEST_ROWS


def _column(x: Any, rows: np.ndarray, concept: int) -> np.ndarray:
    if sparse.issparse(x):
        return np.asarray(x[:, [concept]].toarray(), dtype=np.float64)[rows, 0]
    return np.asarray(x[rows, concept], dtype=np.float64)


def write_table(results: Mapping[str, Recovery], folder: Path) -> None:
    """Write every factor's scores by every method as ``recovery.parquet`` and ``recovery.csv`` into a folder."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    rows = [{"method": method, **score.row()} for method, result in results.items() for score in result.factors]
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows])
    folder.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, folder / "recovery.parquet")
    csv.write_csv(table, folder / "recovery.csv")
