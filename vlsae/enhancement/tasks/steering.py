"""task=steering: raise, lower, remove or swap a concept, in a CLIP's image space or in a language model.

n rows, d width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from vlsae.bounds import OneOf, Range
from vlsae.datasets.base import Dataset
from vlsae.enhancement.rows import EMBEDDINGS
from vlsae.enhancement.steering import ACTIONS
from vlsae.enhancement.task import Task
from vlsae.errors import UserError
from vlsae.result import Measure, Result

if TYPE_CHECKING:
    from vlsae.dictionaries import Dictionary
    from vlsae.enhancement.dose_response import Curve, Dose
    from vlsae.enhancement.steering import Change
    from vlsae.enhancement.steering_target import Target
    from vlsae.models.base import Model
    from vlsae.statistics import Interval


#: What the concept's edit is held against, in words.
CONTROLS = {"random": "random directions", "mean_difference": "the difference of means"}


class Steering(Task):
    """Edit one concept, always as ``x + decode(edited code) − decode(code)``, and weigh wanted effect against damage.

    ``concept`` is a number, a name, a factor of the data (``color=red``, for which the concept that finds it best on
    the choosing rows is taken), or a file of a direction, such as ``directions.safetensors#vision.6/color=red`` of a
    probe's run; ``other`` is what ``action=swap`` puts in its place.
    ``strengths`` are in units of the concept's mean activity, for ``remove`` and ``swap`` the share of it that is taken
    out, at most 1; the numbers are those of ``strength``. Beside it
    ``randoms`` random directions and the difference of means, at equal norm. ``budget`` is the damage in nats at which
    the methods are compared; ``texts`` bounds the pool of captions, or of texts of each kind; ``scale`` is a
    contrastive model's factor of cosines, its own by default.
    """

    compares = False

    def __init__(
        self,
        *,
        data: Dataset | None = None,
        concept: int | str = "color=red",
        action: Annotated[str, OneOf(*ACTIONS)] = "raise",
        other: int | str | None = None,
        strengths: list[Annotated[float, Range(0, None)]] = (0.5, 1.0, 2.0, 4.0, 8.0),  # type: ignore[assignment]
        strength: Annotated[float, Range(0, None)] = 1.0,
        randoms: Annotated[int, Range(1, None)] = 5,
        budget: Annotated[float, Range(0, None)] = 0.1,
        texts: Annotated[int, Range(4, None)] = 500,
        scale: Annotated[float, Range(1e-6, None)] | None = None,
    ) -> None:
        _check_second(action, other)
        self.data, self.concept, self.action, self.other = data, concept, action, other
        # Of what is taken out or moved there is no more than all of it.
        most = 1.0 if action in ("remove", "swap") else math.inf
        self.strength = min(strength, most)
        self.strengths = sorted({0.0, self.strength, *(min(one, most) for one in strengths)})
        self.randoms, self.budget = randoms, budget
        self.texts, self.scale = texts, scale

    @classmethod
    def check(cls, settings: Mapping[str, Any]) -> None:
        """Raise :class:`~vlsae.errors.UserError` for what cannot be steered, before anything is made."""
        from vlsae.enhancement.concept_reference import check_direction, is_direction

        _check_second(settings.get("action", "raise"), settings.get("other"))
        for name in ("concept", "other"):
            if is_direction(settings.get(name)):  # type: ignore[arg-type]
                check_direction(settings[name])

    @classmethod
    def wants_sites(cls, settings: Mapping[str, Any], model: type) -> tuple[str, ...]:
        """Return the embeddings of a contrastive model; a language model's texts are read as they are."""
        return () if hasattr(model, "logits") else EMBEDDINGS

    def evaluate(self, model: Model, dictionary: Dictionary | None) -> Result:
        """Return wanted effect and damage by strength, of the concept's edit and of controls of equal norm."""
        from vlsae.enhancement.dose_response import METHODS, curve_of, dose_plots, dose_table, doses
        from vlsae.enhancement.steering_target import caption_target, text_target

        if dictionary is None:
            raise UserError("task=steering edits concepts, and there is no dictionary.", "Give one: --run RUN")
        make = text_target if hasattr(model, "logits") else caption_target
        target = make(self, model, dictionary)
        found = doses(target.output, self._methods(target))
        common: dict[str, Any] = {"seed": self.work.seed, "resamples": self.work.resamples}
        compared, notes = self._compared(
            {name: curve_of(found, name, **common) for name in METHODS}, target.output.unit
        )
        self._log(target, found)
        names = [f"{part}/{name}" for part in ("wanted", "damage", "wanted_at_budget") for name in METHODS]
        return Result(
            {**self._metrics(found, target.output.unit), **compared, **target.metrics},
            [dose_table(target.output, found, **common), *target.tables],
            dose_plots(target.output, found, **common),
            [target.words, *notes],
            [*names, *(name for name in compared if name not in names)],
        )

    def _compared(self, curves: Mapping[str, Curve], unit: str) -> tuple[dict[str, Measure], list[str]]:
        """Return each method's wanted effect at the budget, what the concept gains at equal damage, and in words."""
        from vlsae.enhancement.dose_response import more_at_damage
        from vlsae.statistics import interval_of

        metrics: dict[str, Measure] = {}
        notes: list[str] = []
        for name, curve in curves.items():
            values, damage = curve.at(self.budget), min(self.budget, curve.reach)
            found = interval_of(float(values[0]), values[1:])
            metrics[f"wanted_at_budget/{name}"] = Measure(
                found.estimate, f"{unit}, at damage {damage:.3g}", found.low, found.high
            )
            if name == "concept":
                notes.append(f"At damage {damage:.3g} {_effect(found, unit)}")
        own = curves["concept"]
        for name, words in CONTROLS.items():
            damage, gain = more_at_damage(own, curves[name], self.budget)
            metrics[f"gain_at_equal_damage/{name}"] = Measure(
                gain.estimate, f"{unit}, at damage {damage:.3g}", gain.low, gain.high
            )
            least = "the concept" if own.reach < curves[name].reach else words
            where = f"At damage {damage:.3g}" if damage else "At the greatest strength"
            if damage < self.budget:
                where += f" (no more is reached by {least})"
            notes.append(f"{where} {_verdict(gain, words, unit)}")
        return metrics, notes

    def _methods(self, target: Target) -> dict[str, dict[float, list[Change]]]:
        from vlsae.enhancement.steering import along, random_directions

        width = len(target.mean_difference)
        randoms = random_directions(width, self.randoms, self.work.seed)
        own = {strength: target.change(strength) for strength in self.strengths}
        return {
            "concept": {strength: [change] for strength, change in own.items()},
            "random": {s: [along(direction, change) for direction in randoms] for s, change in own.items()},
            "mean_difference": {s: [along(target.mean_difference, change)] for s, change in own.items()},
        }

    def _metrics(self, found: list[Dose], unit: str) -> dict[str, Measure]:
        from vlsae.dictionaries.usage import mean_measure

        units = {"wanted": unit, "damage": "nats"}
        return {
            f"{part}/{dose.method}": mean_measure(
                getattr(dose.response, part), unit, seed=self.work.seed, resamples=self.work.resamples
            )
            for part, unit in units.items()
            for dose in found
            if dose.strength == self.strength
        }

    def _log(self, target: Target, found: list[Dose]) -> None:
        for dose in found:
            if dose.strength == self.strength:
                self.work.items.add(
                    {
                        "id": name,
                        "input": name,
                        "answer": float(effect),
                        "label": self.action,
                        "method": dose.method,
                        "seed": self.work.seed,
                    }
                    for name, effect in zip(target.ids, dose.response.wanted)
                )


def _check_second(action: str, other: int | str | None) -> None:
    if action == "swap" and other is None:
        raise UserError("task.action=swap needs a second concept.", "Name it: task.other=CONCEPT")


def _effect(own: Interval, unit: str) -> str:
    found = f"the concept changes what is wanted by {own.estimate:+.3g} ({own.low:+.3g} to {own.high:+.3g} {unit})"
    if own.low > 0:
        return f"{found}."
    return f"{found}: {'it works against it' if own.high < 0 else 'no effect is shown'}."


def _verdict(gain: Interval, control: str, unit: str) -> str:
    sign = 1 if gain.low > 0 else -1 if gain.high < 0 else 0
    if not sign:
        found = f"{gain.estimate:.3g} ({gain.low:.3g} to {gain.high:.3g} {unit})"
        return f"no difference is shown between the concept and {control} of equal norm: {found}."
    low, high = sorted((sign * gain.low, sign * gain.high))
    found = f"{sign * gain.estimate:.3g} ({low:.3g} to {high:.3g} {unit}) {'more' if sign > 0 else 'less'}"
    return f"the concept brings {found} of what is wanted than {control} of equal norm."
