"""How much of the wanted effect a change brings at what damage, by its strength, beside changes of equal norm.

n items that are steered, m items that damage shows in; q strengths.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vlsae.dictionaries.usage import mean_measure
from vlsae.enhancement.steering import Change
from vlsae.result import Measure, Plot, Series, Table
from vlsae.statistics import Interval, interval_of, multinomial_weights

METHODS = ("concept", "random", "mean_difference")


class Response(NamedTuple):
    """What a change did: the wanted effect ``(n,)``, the damage ``(m,)``, and further kinds of damage by name."""

    wanted: np.ndarray
    damage: np.ndarray
    further: Mapping[str, np.ndarray] = {}


class Output(ABC):
    """What a model makes of rows that were changed: of the images in a shared space, or of text that goes on."""

    #: What the wanted effect and the damage are, and the wanted effect's unit; damage is in nats.
    wanted: str
    damage: str
    unit: str

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


@dataclass(frozen=True)
class Curve:
    """A method's mean damage and mean wanted effect ``(1 + B, q)`` by rising strength, then those of B resamples."""

    damage: np.ndarray
    wanted: np.ndarray

    @property
    def reach(self) -> float:
        """The greatest damage that the method does."""
        return float(self.damage[0].max())

    def at(self, damage: float) -> np.ndarray:
        """Return the wanted effect ``(1 + B,)`` where a damage is first reached, between strengths by straight lines.

        Where it never is, the effect at the greatest strength.
        """
        found = self.wanted[:, -1]
        for k in reversed(range(self.damage.shape[1] - 1)):
            low, high = self.damage[:, k], self.damage[:, k + 1]
            crossed = (high >= damage) & (damage > low)
            share = (damage - low) / np.where(crossed, high - low, 1.0)
            found = np.where(crossed, self.wanted[:, k] + share * (self.wanted[:, k + 1] - self.wanted[:, k]), found)
        return found


def curve_of(found: Sequence[Dose], method: str, *, seed: int, resamples: int) -> Curve:
    """Return a method's curve; equal ``seed`` and ``resamples`` draw the same items for every method."""
    own = sorted((dose for dose in found if dose.method == method), key=lambda dose: dose.strength)

    def means(part: str) -> np.ndarray:
        columns = np.stack([getattr(dose.response, part) for dose in own], axis=1)
        weights = multinomial_weights(len(columns), resamples, seed)
        return np.concatenate([columns.mean(axis=0)[None], *(some @ columns / len(columns) for some in weights)])

    return Curve(means("damage"), means("wanted"))


def more_at_damage(own: Curve, other: Curve, budget: float) -> tuple[float, Interval]:
    """Return the damage at which two methods are compared, the budget or the most that both reach, and what one gains.

    Where one of them does no damage at all, both are taken at their greatest strength.
    """
    damage = min(budget, own.reach, other.reach)
    gained = own.at(damage) - other.at(damage)
    return damage, interval_of(float(gained[0]), gained[1:])


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
    x, wanted_axis = "strength, in units of the concept's mean activity", f"wanted effect, {output.unit}"
    return [
        Plot("wanted", "Wanted effect by strength", x, wanted_axis, series["wanted"], description=output.wanted),
        Plot("damage", "Damage by strength", x, "damage, nats", series["damage"], description=output.damage),
        Plot("wanted_damage", "Wanted effect against damage", "damage, nats", wanted_axis, against),
    ]
