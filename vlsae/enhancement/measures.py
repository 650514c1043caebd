"""The two measures of hallucination as one: from items of each seed to numbers, and by which they are ranked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlsae.enhancement.chair import chair_mentions
from vlsae.enhancement.chair_results import chair_columns, chair_resampled
from vlsae.enhancement.pope_results import pope_columns, pope_resampled
from vlsae.enhancement.resampled import Resampled

MEASURES = ("pope", "chair")

#: By which number methods of each measure are ranked, and whether more is better.
RANKED = {"pope": ("f1/mean", 1), "chair": ("chair_i", -1)}

Items = Sequence[Mapping[str, Any]]


def measured(
    measure: str, by_seed: Sequence[Items], words: Mapping[str, str], parser: str, *, resamples: int, seed: int
) -> Resampled:
    """Return POPE's or CHAIR's numbers of one method, whose items there are for each seed.

    An item has ``answer``, ``label`` (yes or no; of captions the objects that are there) and ``image``; questions have
    a ``setting`` too. ``words`` maps words to objects.
    """
    if measure == "pope":
        settings = list(dict.fromkeys(one["setting"] for one in by_seed[0]))
        names = {image: number for number, image in enumerate(dict.fromkeys(one["image"] for one in by_seed[0]))}
        columns = [pope_columns(items, settings, names, parser) for items in by_seed]
        return pope_resampled(columns, settings, resamples=resamples, seed=seed)
    counts = [
        chair_columns(
            [chair_mentions(one["answer"], words) for one in items],
            [set(one["label"]) for one in items],
            [len(one["answer"].split()) for one in items],
        )
        for items in by_seed
    ]
    return chair_resampled(counts, resamples=resamples, seed=seed)


def strongest(measure: str, found: Mapping[str, Resampled], methods: Sequence[str]) -> str:
    """Return which of some methods is best by the measure's ranking number; the first where none has one."""
    name, sign = RANKED[measure]
    values = {method: found[method].measures[name].value for method in methods}
    known = {method: sign * value for method, value in values.items() if value is not None}
    return max(known, key=lambda method: known[method]) if known else methods[0]
