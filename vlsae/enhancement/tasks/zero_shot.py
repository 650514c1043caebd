"""task=zero_shot: classification by prompts, plain and with the cosine of codes added, beside its controls.

n images, c classes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np

from vlsae.bounds import OneOf, Range
from vlsae.datasets.base import Dataset
from vlsae.enhancement.rows import EMBEDDINGS
from vlsae.enhancement.task import Evaluation, Task
from vlsae.errors import UserError, unknown
from vlsae.result import Measure, Plot, Series, Table
from vlsae.statistics import mcnemar, paired_bootstrap

if TYPE_CHECKING:
    from torch import Tensor

    from vlsae.dictionaries import Dictionary
    from vlsae.enhancement.rows import TaskRows
    from vlsae.enhancement.zero_shot import Prompts
    from vlsae.models.base import Model

#: The weights of the concepts that are tried (VL-SAE, section on zero-shot).
ALPHAS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)
CONTROLS = ("random_encoder", "random_support", "top_k", "dense", "sharpened", "lsh")
RIVALS = ("top_k",)
POWER = 3.0
PLAIN = "clip"
METHOD = "concepts"


@dataclass(frozen=True)
class _Setup:
    """What both evaluations work on: rows, which are chosen on and which scored, labels by number, classes, prompts."""

    rows: TaskRows
    choosing: np.ndarray
    scored: np.ndarray
    truth: np.ndarray
    labels: list[str]
    prompts: Prompts


@dataclass(frozen=True)
class _Scored:
    """A method on the scored rows: its α, predictions ``(n,)``, and accuracy by α on both halves."""

    alpha: float
    predicted: np.ndarray
    chosen_curve: list[float]
    scored_curve: list[float]


class ZeroShot(Task):
    """Classify images by the prompts of their classes: ``cos(x_v, x_l) + α cos(h_v, h_l)``.

    ``prompts`` names a file of classes and templates (:mod:`vlsae.enhancement.prompts`), bundled or of your own;
    ``classes``, ``templates`` and ``descriptions`` replace its parts, ``label`` is the data's label field. α is the
    best of ``alphas`` on rows apart from those that are scored, unless ``alpha`` fixes it; each control has its own.
    ``examples`` answers that changed are listed, each way. Source: VL-SAE (arXiv 2510.21323), zero-shot classification.
    """

    sites: ClassVar[tuple[str, ...]] = ("vision.embedding",)
    reads: ClassVar[tuple[str, ...]] = EMBEDDINGS

    def __init__(
        self,
        *,
        data: Dataset | None = None,
        prompts: str | None = None,
        label: str | None = None,
        classes: str | list[str] | None = None,
        templates: str | list[str] | None = None,
        descriptions: str | None = None,
        ensemble: Annotated[str, OneOf("prototype", "meanact")] = "prototype",
        alpha: Annotated[float, Range(0, None)] | None = None,
        alphas: list[Annotated[float, Range(0, None)]] = ALPHAS,  # type: ignore[assignment]
        controls: list[Annotated[str, OneOf(*CONTROLS)]] = CONTROLS,  # type: ignore[assignment]
        examples: Annotated[int, Range(0, None)] = 10,
    ) -> None:
        self.data, self.prompts, self.label = data, prompts, label
        self.classes, self.templates, self.descriptions = classes, templates, descriptions
        self.ensemble, self.alpha, self.examples = ensemble, alpha, examples
        self.alphas = sorted({0.0, *alphas}) if alpha is None else [0.0, alpha]
        self.controls = list(controls)
        self._held: _Setup | None = None

    @classmethod
    def check(cls, settings: Mapping[str, Any]) -> None:
        """Raise :class:`~vlsae.errors.UserError` for classes and texts that cannot be used, before anything is made."""
        from vlsae.enhancement import prompts

        task = cls(**{name: value for name, value in settings.items() if name not in ("_target_", "data")})
        classes = task._given_classes()
        if isinstance(settings.get("data"), Mapping):
            from vlsae.config import build

            table = build(settings["data"]).table.select_columns(["labels"])
            found = task._labels(table.with_format("arrow")[:])
            prompts.check_known(classes or {}, found)
            classes = classes or prompts.classes_in(found, task._file.names)
        task._class_texts(classes or {})

    @classmethod
    def wants_rivals(cls, settings: Mapping[str, Any]) -> list[str]:
        """Return the controls that are dictionaries trained alike."""
        return [name for name in settings.get("controls", CONTROLS) if name in RIVALS]

    def evaluate(self, model: Model, dictionary: Dictionary | None) -> Evaluation:
        """Return the accuracy on the scored rows; with a dictionary also α, its curve, controls."""
        setup = self._setup(model)
        return self._plain(setup) if dictionary is None else self._enhanced(setup, dictionary)

    def _plain(self, setup: _Setup) -> Evaluation:
        start = time.perf_counter()
        predicted = self._features(setup).argmax(1).numpy()[setup.scored]
        seconds = time.perf_counter() - start
        right = self._right(setup, predicted)
        self._log(setup, PLAIN, predicted)
        metrics = {
            "accuracy": self._mean(right, "share of images"),
            "scoring_time": Measure(1e6 * seconds / len(setup.rows), "microseconds an image"),
        }
        return Evaluation(metrics, headline=["accuracy"], scores={"accuracy": right})

    def _enhanced(self, setup: _Setup, dictionary: Dictionary) -> Evaluation:
        from vlsae.enhancement.coders import sparse_codes
        from vlsae.enhancement.rows import check_sites
        from vlsae.enhancement.zero_shot import code_cosines

        check_sites(self.work.sites, EMBEDDINGS, self.work.auxiliary)
        features = self._features(setup)
        plain = features.argmax(1).numpy()[setup.scored]
        start = time.perf_counter()
        own = code_cosines(sparse_codes(dictionary), setup.rows.values["vision"], setup.prompts, self.ensemble)
        (features + own).argmax(1)
        seconds = time.perf_counter() - start
        found = {METHOD: self._scored(setup, features, own)}
        for name in self._controls():
            found[name] = self._scored(setup, features, self._control(name, setup, dictionary))
        for name, method in found.items():
            self._log(setup, name, method.predicted)
        right = {name: self._right(setup, method.predicted) for name, method in found.items()}
        before = self._right(setup, plain)
        metrics = {
            "accuracy": self._mean(right[METHOD], "share of images"),
            "scoring_time": Measure(1e6 * seconds / len(setup.rows), "microseconds an image"),
            "alpha": Measure(found[METHOD].alpha, "weight of the concepts"),
            "accuracy/oracle": Measure(max(found[METHOD].scored_curve), "share, α chosen on the scored rows"),
        }
        for name in self._controls():
            metrics[f"accuracy/{name}"] = self._mean(right[name], "share of images")
            test = self._paired(right[METHOD], right[name])
            metrics[f"gain_over/{name}"] = Measure(test.difference, "share of images", test.low, test.high)
        return Evaluation(
            metrics,
            [
                self._methods_table(found, right, before),
                self._classes_table(setup, before, right[METHOD]),
                self._changes_table(setup, plain, found[METHOD].predicted),
            ],
            [self._curve(found)],
            self._notes(found, right, before),
            ["alpha", *(f"gain_over/{name}" for name in self._controls())],
            scores={"accuracy": right[METHOD]},
        )

    def _setup(self, model: Model) -> _Setup:
        """Return what is worked on, made once."""
        if self._held is None:
            from vlsae.enhancement.rows import halves, rows_of

            rows = rows_of(self.work, model, self.data, self.sites)
            choosing, scored = halves(rows)
            found = self._labels(rows.samples)
            classes, texts = self._texts(found)
            labels = list(classes)
            truth = np.array([labels.index(one) for one in found])
            self._held = _Setup(rows, choosing, scored, truth, labels, self._encoded(model, texts))
        return self._held

    @cached_property
    def _file(self) -> Any:
        from vlsae.enhancement.prompts import read_prompts

        return read_prompts(self.prompts)

    def _labels(self, samples: Any) -> list[str]:
        """Return each label of an Arrow table of samples as text."""
        column = samples.column("labels").combine_chunks()
        fields = [column.type.field(number).name for number in range(column.type.num_fields)]
        name = self.label or self._file.label or (fields[0] if len(fields) == 1 else "label")
        if name not in fields:
            raise unknown("label in the task's data", name, fields)
        chunk = column.chunk(0) if hasattr(column, "chunk") else column
        values = chunk.field(name).to_pylist()
        missing = sum(value is None for value in values)
        if missing:
            raise UserError(f"{missing} of {len(values)} rows have no {name!r}.", "Name a label that every row has.")
        return [str(value) for value in values]

    def _given_classes(self) -> Mapping[str, str] | None:
        """Return the classes by label that the settings name; None where they are those in the data."""
        from vlsae.enhancement.prompts import read_classes

        return read_classes(self.classes) or self._file.classes

    def _class_texts(self, classes: Mapping[str, str]) -> list[list[str]]:
        from vlsae.enhancement import prompts

        templates = prompts.read_templates(self.templates)
        templates = self._file.templates if templates is None else templates
        descriptions = prompts.read_descriptions(self.descriptions) or (
            {} if self.templates else self._file.descriptions
        )
        return prompts.class_texts(classes, templates, descriptions)

    def _texts(self, found: Sequence[str]) -> tuple[dict[str, str], list[list[str]]]:
        """Return the classes by label and the texts of each."""
        from vlsae.enhancement import prompts

        classes = self._given_classes() or prompts.classes_in(found, self._file.names)
        prompts.check_classes(classes, found)
        return dict(classes), self._class_texts(classes)

    def _encoded(self, model: Model, texts: Sequence[Sequence[str]]) -> Prompts:
        import torch

        from vlsae.enhancement.rows import encode_texts
        from vlsae.enhancement.zero_shot import Prompts

        owner = [number for number, several in enumerate(texts) for _ in several]
        return Prompts(encode_texts(model, [t for several in texts for t in several]), torch.tensor(owner), len(texts))

    def _features(self, setup: _Setup) -> Tensor:
        from vlsae.enhancement.zero_shot import feature_cosines

        return feature_cosines(setup.rows.values["vision"], setup.prompts)

    def _controls(self) -> list[str]:
        return [name for name in self.controls if name not in RIVALS or name in self.work.rivals]

    def _control(self, name: str, setup: _Setup, dictionary: Dictionary) -> Tensor:
        from vlsae.enhancement.coders import coder_of
        from vlsae.enhancement.zero_shot import code_cosines, sharpened_cosines

        images = setup.rows.values["vision"]
        if name == "sharpened":
            return sharpened_cosines(images, setup.prompts, POWER)
        coder = coder_of(name, dictionary, self.work.rivals, self.work.seed)
        return code_cosines(coder, images, setup.prompts, self.ensemble)

    def _scored(self, setup: _Setup, features: Tensor, codes: Tensor) -> _Scored:
        """Return a method with the α that is best on the choosing rows, the smallest of equals."""
        predicted = {alpha: (features + alpha * codes).argmax(1).numpy() for alpha in self.alphas}
        right = {alpha: one == setup.truth for alpha, one in predicted.items()}
        chosen = [float(right[alpha][setup.choosing].mean()) for alpha in self.alphas]
        best = self.alphas[int(np.argmax(chosen))] if self.alpha is None else self.alpha
        curve = [float(right[alpha][setup.scored].mean()) for alpha in self.alphas]
        return _Scored(best, predicted[best][setup.scored], chosen, curve)

    def _right(self, setup: _Setup, predicted: np.ndarray) -> np.ndarray:
        return (predicted == setup.truth[setup.scored]).astype(np.float64)

    def _mean(self, right: np.ndarray, unit: str) -> Measure:
        from vlsae.dictionaries.usage import mean_measure

        return mean_measure(right, unit, seed=self.work.seed, resamples=self.work.resamples)

    def _paired(self, a: np.ndarray, b: np.ndarray) -> Any:
        return paired_bootstrap(a, b, resamples=self.work.resamples, seed=self.work.seed)

    def _log(self, setup: _Setup, method: str, predicted: np.ndarray) -> None:
        ids, labels = setup.rows.ids, setup.labels
        self.work.items.add(
            {
                "id": ids[row],
                "input": ids[row],
                "answer": labels[answer],
                "label": labels[setup.truth[row]],
                "method": method,
                "seed": self.work.seed,
            }
            for row, answer in zip(setup.scored.tolist(), predicted.tolist())
        )

    def _methods_table(
        self, found: Mapping[str, _Scored], right: Mapping[str, np.ndarray], before: np.ndarray
    ) -> Table:
        rows: list[list[Any]] = [[PLAIN, 0.0, *_numbers(self._mean(before, "")), *[None] * 8]]
        for name, method in found.items():
            gain, own = self._paired(right[name], before), self._paired(right[METHOD], right[name])
            over = (
                [None] * 4
                if name == METHOD
                else [own.difference, own.low, own.high, mcnemar(right[METHOD], right[name]).p_value]
            )
            test = mcnemar(right[name], before)
            numbers = _numbers(self._mean(right[name], ""))
            rows.append([name, method.alpha, *numbers, gain.difference, gain.low, gain.high, test.p_value, *over])
        columns = ["method", "α", "accuracy", "low", "high", "gain", "gain low", "gain high", "p"]
        columns += ["concepts over it", "over low", "over high", "over p"]
        chosen = "was chosen on the same rows, apart from those scored" if self.alpha is None else "is the one given"
        text = (
            f"gain: over plain CLIP, paired by image; p: McNemar's exact test. Every method's α {chosen}. A gain that "
            "a control reaches too is none of what the concepts learned."
        )
        return Table("methods", "Concepts and controls", columns, rows, text, shown=True)

    def _classes_table(self, setup: _Setup, before: np.ndarray, after: np.ndarray) -> Table:
        rows: list[list[Any]] = []
        truth = setup.truth[setup.scored]
        for number, label in enumerate(setup.labels):
            own = truth == number
            if own.any():
                test = self._paired(after[own], before[own])
                numbers = (float(before[own].mean()), float(after[own].mean()), test.difference, test.low, test.high)
                rows.append([label, int(own.sum()), *numbers, mcnemar(after[own], before[own]).p_value])
        columns = ["class", "images", "before", "after", "difference", "low", "high", "p"]
        return Table("classes", "By class", columns, rows, "Paired by image; p: McNemar's exact test, not corrected.")

    def _changes_table(self, setup: _Setup, before: np.ndarray, after: np.ndarray) -> Table:
        ids, truth = setup.rows.ids, setup.truth[setup.scored]
        rows: list[list[Any]] = []
        changed: list[int] = []
        for kind, which in (
            ("mended", (before != truth) & (after == truth)),
            ("broken", (before == truth) & (after != truth)),
            ("wrong otherwise", (before != truth) & (after != truth) & (before != after)),
        ):
            for place in np.flatnonzero(which)[: self.examples]:
                named = (setup.labels[number] for number in (truth[place], before[place], after[place]))
                row = int(setup.scored[place])
                rows.append([kind, int(which.sum()), ids[row], *named])
                changed.append(row)
        columns = ["change", "of", "image", "label", "before", "after"]
        text = "The first of each kind; all are in samples.jsonl." if rows else "No answer changed."
        return Table("changes", "Answers that changed", columns, rows, text, pictures=setup.rows.pictures(changed))

    def _curve(self, found: Mapping[str, _Scored]) -> Plot:
        series = [Series("concepts, rows α is chosen on", self.alphas, found[METHOD].chosen_curve)]
        series += [
            Series(METHOD if name == METHOD else name, self.alphas, method.scored_curve)
            for name, method in found.items()
        ]
        plain = found[METHOD].scored_curve[0]
        text = "Accuracy by the weight of the second cosine, on the scored rows unless said otherwise."
        return Plot(
            "alpha", "Accuracy by α", "α", "accuracy", series, description=text, reference={"plain CLIP": plain}
        )

    def _notes(self, found: Mapping[str, _Scored], right: Mapping[str, np.ndarray], before: np.ndarray) -> list[str]:
        gain = self._paired(right[METHOD], before)
        notes = [
            f"With concepts (α {found[METHOD].alpha:g}) {100 * right[METHOD].mean():.1f} % of images are right, "
            f"by plain CLIP {100 * before.mean():.1f} %: {100 * gain.difference:+.1f} points "
            f"({100 * gain.low:+.1f} to {100 * gain.high:+.1f})."
        ]
        equal = [name for name in self._controls() if self._paired(right[METHOD], right[name]).low <= 0]
        if equal:
            notes.append(f"The concepts are not clearly better than {', '.join(equal)}.")
        if "sharpened" in found and self._held is not None and len(self._held.prompts.owner) == len(self._held.labels):
            notes.append("With one prompt a class, sharpening the cosine cannot change an answer.")
        return notes


def _numbers(measure: Measure) -> tuple[float | None, float | None, float | None]:
    return measure.value, measure.low, measure.high
