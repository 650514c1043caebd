"""How much of the wanted effect a change brings at what damage, by its strength, beside changes of equal norm.

n items that are steered, m items that damage shows in; q strengths.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from vlsae.dictionaries.usage import mean_measure
from vlsae.enhancement.steering import Change
from vlsae.result import Measure, Plot, Series, Table

METHODS = ("concept", "random", "mean_difference")


class Response(NamedTuple):
    """What a change did: the wanted effect ``(n,)``, the damage ``(m,)``, and further kinds of damage by name."""

    wanted: np.ndarray
    damage: np.ndarray
    further: Mapping[str, np.ndarray] = {}


class Output(ABC):
    """What a model makes of rows that were changed: of the images in a shared space, or of text that goes on."""

    #: What the wanted effect and the damage are, with their unit.
    wanted: str
    damage: str

    @abstractmethod
    def respond(self, change: Change | None) -> Response:
        """Return the effect of a change; of none the model as it is."""


@dataclass(frozen=True)
class Dose:
    """One method at one strength; random directions are averaged item by item."""

    method: str
    strength: float
    response: Response


def doses(output: Output, methods: Mapping[str, Mapping[float, Sequence[Change]]]) -> list[Dose]:
    """Return the response to each method at each strength; several changes of one are averaged."""
    found = []
    for method, by_strength in methods.items():
        for strength, changes in by_strength.items():
            found.append(Dose(method, strength, _mean([output.respond(change) for change in changes])))
    return found


def _mean(responses: Sequence[Response]) -> Response:
    further = {name: np.mean([one.further[name] for one in responses], axis=0) for name in responses[0].further}
    wanted, damage = (np.mean([getattr(one, part) for one in responses], axis=0) for part in ("wanted", "damage"))
    return Response(wanted, damage, further)


def at_damage(found: Sequence[Dose], method: str, budget: float) -> float | None:
    """Return a method's wanted effect where its damage first reaches a budget, between strengths by a straight line.

    Where it never does, the effect at the greatest strength; None for a method without doses.
    """
    own = sorted((dose for dose in found if dose.method == method), key=lambda dose: dose.strength)
    points = [(float(dose.response.damage.mean()), float(dose.response.wanted.mean())) for dose in own]
    for (low, before), (high, after) in pairwise(points):
        if high >= budget > low:
            return before + (after - before) * (budget - low) / (high - low)
    return points[-1][1] if points else None


def dose_table(output: Output, found: Sequence[Dose], *, seed: int, resamples: int) -> Table:
    """Return every dose with intervals over items."""
    further = list(found[0].response.further)
    rows = []
    for dose in found:
        parts = (dose.response.wanted, dose.response.damage, *(dose.response.further[name] for name in further))
        measures = [mean_measure(part, "", seed=seed, resamples=resamples) for part in parts]
        rows.append([dose.method, dose.strength, *(x for one in measures for x in (one.value, one.low, one.high))])
    columns = ["method", "strength"]
    columns += [f"{name}{end}" for name in ("wanted", "damage", *further) for end in ("", " low", " high")]
    text = (
        f"wanted: {output.wanted}; damage: {output.damage}. Controls move each row as far as the concept's edit does."
    )
    return Table("dose_response", "Dose and response", columns, rows, text, shown=True)


def dose_plots(output: Output, found: Sequence[Dose], *, seed: int, resamples: int) -> list[Plot]:
    """Return wanted effect and damage by strength, and one against the other."""
    series: dict[str, list[Series]] = {"wanted": [], "damage": []}
    against = []
    for method in dict.fromkeys(dose.method for dose in found):
        own = [dose for dose in found if dose.method == method]
        strengths = [dose.strength for dose in own]
        measured: dict[str, list[Measure]] = {}
        for part, kept in series.items():
            measured[part] = [
                mean_measure(getattr(dose.response, part), "", seed=seed, resamples=resamples) for dose in own
            ]
            values, lows, highs = ([getattr(one, end) for one in measured[part]] for end in ("value", "low", "high"))
            kept.append(Series(method, strengths, values, lows, highs))
        damage, wanted = ([one.value or 0.0 for one in measured[part]] for part in ("damage", "wanted"))
        against.append(Series(method, damage, wanted))
    x = "strength, in units of the concept's mean activity"
    return [
        Plot("wanted", "Wanted effect by strength", x, "wanted effect", series["wanted"], description=output.wanted),
        Plot("damage", "Damage by strength", x, "damage", series["damage"], description=output.damage),
        Plot("wanted_damage", "Wanted effect against damage", "damage", "wanted effect", against),
    ]
