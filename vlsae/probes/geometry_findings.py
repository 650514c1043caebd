"""Numbers, tables and figures of probe=geometry. S sites."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vlsae.result import HeatMap, Measure, Plot, Series
from vlsae.statistics import Interval

#: Names of the similarity maps, as of :class:`~vlsae.probes.similarity_maps.SimilarityMaps`.
MAPS = {"cka": "CKA", "cka_unbiased": "CKA, unbiased", "rsa": "RSA"}

#: Lines of a panel at most.
SHOWN = 8


class Shape(NamedTuple):
    """One site's participation ratio, TwoNN at n, n/2 and n/4, and alignments with input and targets; intervals."""

    site: str
    width: int
    ratio: tuple[float, float, float]
    dimension: tuple[float, float, float]
    halved: float
    quartered: float
    input: tuple[float, float, float]
    targets: dict[str, tuple[float, float, float]]


def three(found: Interval, place: Any) -> tuple[float, float, float]:
    return tuple(float(np.asarray(part)[place]) for part in (found.estimate, found.low, found.high))  # type: ignore[return-value]


def within(values: tuple[float, float, float], lowest: float) -> tuple[float, float, float]:
    """Return a value and its ends no further than the measure goes: to ``lowest`` and 1."""
    return tuple(float(np.clip(value, lowest, 1)) for value in values)  # type: ignore[return-value]


def shape_metrics(shapes: Sequence[Shape]) -> dict[str, Measure]:
    found = {}
    for one in shapes:
        found[f"participation_ratio/{one.site}"] = Measure(one.ratio[0], "dimensions", *one.ratio[1:])
        found[f"twonn/{one.site}"] = Measure(one.dimension[0], "dimensions", *one.dimension[1:])
        found[f"input_alignment/{one.site}"] = Measure(one.input[0], "CKA", *one.input[1:])
        for name, value in one.targets.items():
            found[f"target_alignment/{name}/{one.site}"] = Measure(value[0], "CKA", *value[1:])
    return found


def abstract_metrics(rows: Sequence[Sequence[Any]]) -> dict[str, Measure]:
    found = {}
    for row in rows:
        site, first, second, name = row[:4]
        place = f"{name}|{second if name == first else first}/{site}" if " xor " not in name else f"{name}/{site}"
        found[f"parallelism/{place}"] = Measure(row[4], "cosine", *row[5:7])
        found[f"ccgp/{place}"] = Measure(row[7], "accuracy", *row[8:10])
        found[f"shattering/{first}|{second}/{site}"] = Measure(row[13], "accuracy", *row[14:16])
    return found


def shape_rows(shapes: Sequence[Shape]) -> list[list[Any]]:
    return [[one.site, one.width, *one.ratio, *one.dimension, one.halved, one.quartered, *one.input] for one in shapes]


def target_rows(shapes: Sequence[Shape]) -> list[list[Any]]:
    return [[one.site, name, *value] for one in shapes for name, value in one.targets.items()]


def _split(site: str) -> tuple[str, str]:
    stream, _, layer = site.partition(".")
    return stream, layer or stream


def _line(label: str, points: Sequence[tuple[str, tuple[float, float, float]]], panel: str) -> Series:
    value, low, high = ([point[1][k] for point in points] for k in range(3))
    return Series(label, [_split(site)[1] for site, _ in points], value, low, high, panel)


def dimension_plot(shapes: Sequence[Shape]) -> Plot:
    series = []
    for stream in dict.fromkeys(_split(one.site)[0] for one in shapes):
        own = [one for one in shapes if _split(one.site)[0] == stream]
        series.append(_line("participation ratio", [(one.site, one.ratio) for one in own], stream))
        series.append(_line("TwoNN", [(one.site, one.dimension) for one in own], stream))
    return Plot("dimension", "Dimension by layer", "layer", "dimensions", series, "lines", SHAPES)


def alignment_plot(shapes: Sequence[Shape]) -> Plot:
    series = []
    for stream in dict.fromkeys(_split(one.site)[0] for one in shapes):
        own = [one for one in shapes if _split(one.site)[0] == stream]
        series.append(_line("input", [(one.site, one.input) for one in own], stream))
        for name in list(own[0].targets)[:SHOWN]:
            series.append(_line(name, [(one.site, one.targets[name]) for one in own], stream))
    return Plot("alignment", "Kernel alignment by layer", "layer", "CKA", series, "lines", ALIGNMENTS)


def abstract_plot(rows: Sequence[Sequence[Any]]) -> Plot:
    series = []
    for stream in dict.fromkeys(_split(row[0])[0] for row in rows):
        for names in dict.fromkeys((row[1], row[2], row[3]) for row in rows):
            own = [row for row in rows if tuple(row[1:4]) == names and _split(row[0])[0] == stream]
            points = [(row[0], tuple(row[7:10])) for row in own]
            series.append(_line(names[2], points, f"{stream}: {names[0]}, {names[1]}"))  # type: ignore[arg-type]
    return Plot(
        "ccgp", "Cross-condition generalisation by layer", "layer", "accuracy", series, "lines", ABSTRACT,
        {"chance": 0.5},
    )  # fmt: skip


def heat_maps(rows: Sequence[Sequence[Any]]) -> list[HeatMap]:
    own = list(dict.fromkeys(row[0] for row in rows))
    known = list(dict.fromkeys(row[1] for row in rows))
    others = [site for site in known if site not in own]
    found = []
    for kind, (name, title) in enumerate(MAPS.items()):
        value = {(row[0], row[1]): row[2 + 3 * kind] for row in rows}
        for suffix, columns, words in (("", own, "any two sites"), ("_other", others, "this run and the other")):
            if columns:
                cells = [[value[a, b] for b in columns] for a in own]
                found.append(
                    HeatMap(f"{name}{suffix}", f"{title} of {words}", "site", "site", columns, own, cells, SIMILARITY)
                )
    return found


SHAPE_COLUMNS = [
    "site", "width", "participation ratio", "low", "high", "TwoNN", "TwoNN low", "TwoNN high", "TwoNN n/2",
    "TwoNN n/4", "input alignment", "input low", "input high",
]  # fmt: skip
TARGET_COLUMNS = ["site", "target", "alignment", "low", "high"]
PAIR_COLUMNS = [
    "site", "first", "second", "dichotomy", "parallelism", "parallelism low", "parallelism high", "CCGP", "CCGP low",
    "CCGP high", "decoding", "decoding low", "decoding high", "shattering", "shattering low", "shattering high",
]  # fmt: skip
MAP_COLUMNS = ["site", "other site", *(f"{name}{end}" for name in MAPS.values() for end in ("", " low", " high"))]
SHAPES = (
    "Participation ratio of the covariance; TwoNN by maximum likelihood, also of every second and fourth sample. "
    "95 % jackknife intervals over blocks of groups."
)
ALIGNMENTS = "Linear CKA with the input's site and with each target's kernel; 95 % jackknife intervals over groups."
ABSTRACT = (
    "For two binary targets: CCGP learns one at one value of the other and is scored at the other value (chance 0.5; "
    "below it where conditions interact). Parallelism: cosine of the target's coding directions in the two contexts. "
    "Shattering: mean out-of-fold accuracy of the three balanced dichotomies, xor among them; conditions count alike."
)
SIMILARITY = "Of the same samples; 95 % jackknife intervals over blocks of groups."
