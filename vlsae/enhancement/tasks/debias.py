"""task=debias: take a spurious concept out of what a classifier reads, and see its worst group.

n rows, d width, h concepts. Groups are the four combinations of target and spurious attribute (Sagawa et al., 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np

from vlsae.bounds import Range
from vlsae.datasets.base import Dataset
from vlsae.enhancement.task import Evaluation, Task
from vlsae.errors import UserError
from vlsae.result import Measure, Plot, Series, Table

if TYPE_CHECKING:
    from torch import Tensor

    from vlsae.dictionaries import Dictionary
    from vlsae.models.base import Model

#: Rows of the rarest group, in each part, below which nothing is said of it.
FEWEST = 5

Clean = Callable[["Tensor"], "Tensor"]


@dataclass(frozen=True)
class _Data:
    """Images ``(n, d)``, which have the target and the spurious attribute, and the rows to fit, choose and score on."""

    images: Tensor
    target: np.ndarray
    spurious: np.ndarray
    fitting: np.ndarray
    choosing: np.ndarray
    scored: np.ndarray
    ids: list[str]

    @property
    def groups(self) -> np.ndarray:
        """The group ``(n,)`` of each row: twice the target plus the spurious attribute."""
        return 2 * self.target.astype(int) + self.spurious.astype(int)


class Debias(Task):
    """Remove what tells a spurious attribute from the embeddings, ``x + decode(code without it) − decode(code)``.

    A linear classifier of ``target`` learns from rows in which ``spurious`` goes with it; both are factors of the data
    or label fields (``name=value``). ``plant`` leaves out rows it would learn from until the two agree in that share of
    them; None takes the data as they are, and rows chosen on and scored always are. Of the concepts that find the
    spurious attribute best, the number of ``counts`` is removed that serves the worst group best on rows apart from
    those scored. Controls: as many random concepts, projecting out the difference of means among rows alike in the
    target, and weights that make the groups count alike.
    """

    sites: ClassVar[tuple[str, ...]] = ("vision.embedding",)
    reads: ClassVar[tuple[str, ...]] = ("vision.embedding",)

    def __init__(
        self,
        *,
        data: Dataset | None = None,
        target: str = "shape=ring",
        spurious: str = "background=black",
        plant: Annotated[float, Range(0.5, 1)] | None = 0.95,
        counts: list[Annotated[int, Range(1, None)]] = (1, 2, 4, 8, 16, 32, 64),  # type: ignore[assignment]
        randoms: Annotated[int, Range(1, None)] = 5,
    ) -> None:
        self.data, self.target, self.spurious, self.plant = data, target, spurious, plant
        self.counts, self.randoms = sorted(set(counts)), randoms
        self._held: _Data | None = None

    @classmethod
    def check(cls, settings: Mapping[str, Any]) -> None:
        """Raise :class:`~vlsae.errors.UserError` for attributes that the data do not know, before anything is made."""
        if settings.get("target") is not None and settings["target"] == settings.get("spurious"):
            raise UserError(
                f"task.target and task.spurious are both {settings['target']}.",
                "Name what is classified, and what shall not be used.",
            )
        if isinstance(settings.get("data"), Mapping):
            from vlsae.config import build
            from vlsae.enhancement.concept_reference import check_attribute

            data = build(settings["data"])
            for name in ("target", "spurious"):
                check_attribute(data, settings[name])

    def evaluate(self, model: Model, dictionary: Dictionary | None) -> Evaluation:
        """Return accuracy, overall and of the worst group; with a dictionary after removal, and by the controls."""
        from vlsae.enhancement.rows import check_sites

        data = self._data(model)
        plain = self._right(data, lambda x: x)
        if dictionary is None:
            self._log("clip", data, plain[data.scored])
            return self._evaluation(data, plain)
        check_sites(self.work.sites, self.sites, self.work.auxiliary)
        order = self._concepts(data, dictionary)
        counts = [count for count in self.counts if count <= len(order)]
        tried = {count: self._right(data, _without(dictionary, order[:count])) for count in counts}
        curve = {count: _worst(data, right, data.choosing) for count, right in tried.items()}
        best = max(counts, key=lambda count: (curve[count], -count))
        self._log("concepts", data, tried[best][data.scored])
        result = self._evaluation(data, tried[best])
        controls = self._controls(data, dictionary, order, best)
        methods = {"clip": [plain], "concepts": [tried[best]], **controls}
        metrics = {**result.metrics, "removed": Measure(best, "concepts")}
        for name, several in controls.items():
            value = float(np.mean([_worst(data, right, data.scored) for right in several]))
            metrics[f"worst_group/{name}"] = Measure(value, "share of the worst group's images")
        series = [
            Series(words, counts, [_worst(data, tried[count], part) for count in counts])
            for words, part in (("rows chosen on", data.choosing), ("scored rows", data.scored))
        ]
        plot = Plot("removed", "Worst group by concepts removed", "concepts removed", "accuracy of the worst group",
                    series, reference={"nothing removed": _worst(data, plain, data.scored)}, log_x=True)  # fmt: skip
        notes = self._notes(data, methods)
        table = self._table(data, methods)
        return Evaluation(
            metrics, [table], [plot], notes, ["removed"], scores=result.scores, replicates=result.replicates
        )

    def _data(self, model: Model) -> _Data:
        if self._held is None:
            from vlsae.enhancement.concept_reference import attribute
            from vlsae.enhancement.rows import halves, rows_of

            rows = rows_of(self.work, model, self.data, self.sites)
            chosen, scored = halves(rows)
            target, spurious = (attribute(self.data, rows.samples, one) for one in (self.target, self.spurious))
            order = np.random.default_rng(self.work.seed).permutation(chosen)
            fitting, choosing = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
            if self.plant is not None:
                fitting = planted(fitting, target == spurious, self.plant, self.work.seed)
            images = rows.values["vision"]
            found = _Data(images, target, spurious, fitting, choosing, scored, rows.ids)
            self._check(found)
            self._held = found
        return self._held

    def _check(self, data: _Data) -> None:
        for part in ("fitting", "choosing", "scored"):
            counts = np.bincount(data.groups[getattr(data, part)], minlength=4)
            if counts.min() < FEWEST:
                words = _group_words(self.target, self.spurious)[int(counts.argmin())]
                raise UserError(
                    f"Of the group {words!r} {counts.min()} {part} rows are there, and {FEWEST} are needed.",
                    "Take more data, or attributes that occur apart more often.",
                )

    def _right(self, data: _Data, clean: Clean, weights: np.ndarray | None = None) -> np.ndarray:
        """Return which rows ``(n,)`` a classifier gets right that learned from cleaned rows, and reads cleaned rows."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        x = clean(data.images).double().numpy()
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        own = None if weights is None else weights[data.fitting]
        model.fit(x[data.fitting], data.target[data.fitting], logisticregression__sample_weight=own)
        return (model.predict(x) == data.target).astype(float)

    def _concepts(self, data: _Data, dictionary: Dictionary) -> np.ndarray:
        """Return the concepts by how well they find the spurious attribute on the rows fitted on, best first.

        Rows with and without the target are looked at apart, since what finds the target finds what goes with it too.
        """
        from vlsae.dictionaries.auroc import auroc
        from vlsae.dictionaries.codes import code_matrix

        codes = code_matrix(dictionary, data.images[data.fitting], "vision")
        present = data.spurious[data.fitting]
        parts = [auroc(codes[part], present[part][:, None])[0] for part in _by_target(data)]
        scores = np.nan_to_num(np.mean(parts, axis=0), nan=0.5)
        live = np.flatnonzero(np.diff(codes.tocsc().indptr) > 0)
        return live[np.argsort(-scores[live], kind="stable")]

    def _controls(
        self, data: _Data, dictionary: Dictionary, order: np.ndarray, count: int
    ) -> dict[str, list[np.ndarray]]:
        generator = np.random.default_rng(self.work.seed)
        random = [generator.choice(order, count, replace=False) for _ in range(self.randoms)]
        x, present = data.images[data.fitting], data.spurious[data.fitting]
        with_target, without = (
            x[part & present].mean(dim=0) - x[part & ~present].mean(dim=0) for part in _by_target(data)
        )
        sizes = np.bincount(data.groups[data.fitting], minlength=4)
        weights = (len(data.fitting) / 4 / sizes)[data.groups]
        return {
            "random_concepts": [self._right(data, _without(dictionary, one)) for one in random],
            "mean_difference": [self._right(data, _projected(with_target + without))],
            "balanced_groups": [self._right(data, lambda rows: rows, weights)],
        }

    def _evaluation(self, data: _Data, right: np.ndarray) -> Evaluation:
        from vlsae.dictionaries.usage import mean_measure
        from vlsae.statistics import bootstrap_sums

        scored, groups = right[data.scored], data.groups[data.scored]
        own = np.stack([groups == number for number in range(4)], axis=1).astype(float)
        columns = np.concatenate([own * scored[:, None], own], axis=1)
        interval = bootstrap_sums(
            lambda m: (m[..., :4] / np.maximum(m[..., 4:], 1e-12)).min(axis=-1),
            columns,
            resamples=self.work.resamples,
            seed=self.work.seed,
        )
        worst = Measure(float(interval.estimate), "share of the worst group's images", interval.low, interval.high)
        mean = mean_measure(scored, "share of images", seed=self.work.seed, resamples=self.work.resamples)
        return Evaluation(
            {"worst_group": worst, "accuracy": mean},
            headline=["worst_group", "accuracy"],
            scores={"accuracy": scored},
            replicates={"worst_group": interval.replicates},
        )

    def _log(self, method: str, data: _Data, right: np.ndarray) -> None:
        labels = data.target[data.scored]
        self.work.items.add(
            {
                "id": data.ids[row],
                "input": data.ids[row],
                "answer": bool(label == (hit > 0)),
                "label": bool(label),
                "method": method,
                "seed": self.work.seed,
            }
            for row, label, hit in zip(data.scored, labels, right)
        )

    def _table(self, data: _Data, methods: dict[str, list[np.ndarray]]) -> Table:
        words = _group_words(self.target, self.spurious)
        groups = data.groups[data.scored]
        rows = []
        for name, several in methods.items():
            scored = [right[data.scored] for right in several]
            by_group = [float(np.mean([one[groups == number].mean() for one in scored])) for number in range(4)]
            worst = float(np.mean([_worst(data, right, data.scored) for right in several]))
            rows.append([name, worst, float(np.mean(scored)), *by_group])
        counts = ["rows scored", None, len(groups), *np.bincount(groups, minlength=4).tolist()]
        columns = ["method", "worst group", "all", *words]
        return Table("groups", "Accuracy by group", columns, [*rows, counts], shown=True)

    def _notes(self, data: _Data, methods: dict[str, list[np.ndarray]]) -> list[str]:
        worst = {
            name: float(np.mean([_worst(data, one, data.scored) for one in many])) for name, many in methods.items()
        }
        better = [name for name in worst if name not in ("concepts", "clip") and worst[name] >= worst["concepts"]]
        notes = [f"The worst group goes from {worst['clip']:.3f} to {worst['concepts']:.3f}."]
        if better:
            notes.append(f"Removing concepts serves the worst group no better than {', '.join(better)}.")
        return notes


def planted(rows: np.ndarray, agree: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Return the rows without some in which the attributes disagree, drawn at random, so that ``share`` of them agree.

    ``agree`` says it of every row of the data; where more than ``share`` agree anyway all rows are kept.
    """
    agreeing, other = rows[agree[rows]], rows[~agree[rows]]
    kept = min(len(other), round(len(agreeing) * (1 - share) / share))
    drawn = np.random.default_rng([seed, len(rows)]).choice(other, kept, replace=False)
    return np.sort(np.concatenate([agreeing, drawn]))


def _by_target(data: _Data) -> list[np.ndarray]:
    """Return which of the rows fitted on have the target, and which have it not."""
    target = data.target[data.fitting]
    return [target, ~target]


def _without(dictionary: Dictionary, concepts: np.ndarray) -> Clean:
    """Return what removes some concepts from rows, in the difference form."""
    import torch

    from vlsae.enhancement.steering import steered

    numbers = torch.from_numpy(np.asarray(concepts, dtype=np.int64))

    def remove(code: Tensor) -> Tensor:
        return code.index_fill(1, numbers, 0.0)

    def clean(x: Tensor) -> Any:
        with torch.no_grad():
            return steered(dictionary, x, "vision", remove)

    return clean


def _projected(direction: Tensor) -> Clean:
    """Return what takes the part along a direction ``(d,)`` out of rows."""
    unit = direction / direction.norm()
    return lambda x: x - (x @ unit)[:, None] * unit


def _worst(data: _Data, right: np.ndarray, rows: np.ndarray) -> float:
    groups = data.groups[rows]
    return float(min(right[rows][groups == number].mean() for number in range(4)))


def _group_words(target: str, spurious: str) -> list[str]:
    return [f"{a}{target}, {b}{spurious}" for a in ("no ", "") for b in ("no ", "")]
