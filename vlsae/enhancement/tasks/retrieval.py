"""task=retrieval: finding the caption of an image and the image of a caption, and searching by named concepts.

n pairs, h concepts.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np

from vlsae.bounds import OneOf, Range
from vlsae.datasets.base import Dataset
from vlsae.enhancement.rows import EMBEDDINGS
from vlsae.enhancement.task import Evaluation, Task
from vlsae.enhancement.tasks.zero_shot import ALPHAS
from vlsae.errors import UserError
from vlsae.result import Measure, Plot, Series, Table

if TYPE_CHECKING:
    from torch import Tensor

    from vlsae.dictionaries import Dictionary
    from vlsae.enhancement.rows import TaskRows
    from vlsae.enhancement.zero_shot import Coder
    from vlsae.models.base import Model

CONTROLS = ("random_encoder", "random_support", "top_k", "dense", "lsh")
RIVALS = ("top_k",)
DEPTHS = (1, 5, 10)
WAYS = ("text_of_image", "image_of_text")


@dataclass(frozen=True)
class _Pool:
    """Pairs to search: embeddings ``(n, d)``, and which captions answer which image ``(n, n)``: equal texts all do."""

    images: Tensor
    texts: Tensor
    correct: np.ndarray
    ids: list[str]
    captions: list[str]


class Retrieval(Task):
    """Retrieve by ``cos(x_v, x_l) + α cos(h_v, h_l)``, and by the codes alone; ties count against the query.

    α is the best of ``alphas`` by R@1 on pairs apart from those that are scored, unless ``alpha`` fixes it. ``pool``
    pairs are searched at once. ``queries`` such as ``+color=red -17`` search images by concepts that shall and shall
    not be there: numbers, names, or factors of the data; ``found`` images of each are listed.
    """

    sites: ClassVar[tuple[str, ...]] = EMBEDDINGS
    reads: ClassVar[tuple[str, ...]] = EMBEDDINGS

    def __init__(
        self,
        *,
        data: Dataset | None = None,
        alpha: Annotated[float, Range(0, None)] | None = None,
        alphas: list[Annotated[float, Range(0, None)]] = ALPHAS,  # type: ignore[assignment]
        controls: list[Annotated[str, OneOf(*CONTROLS)]] = CONTROLS,  # type: ignore[assignment]
        pool: Annotated[int, Range(2, None)] = 1000,
        queries: list[str] = (),  # type: ignore[assignment]
        found: Annotated[int, Range(1, None)] = 10,
    ) -> None:
        self.data, self.alpha, self.pool = data, alpha, pool
        self.alphas = sorted({0.0, *alphas}) if alpha is None else [0.0, alpha]
        self.controls, self.queries, self.found = list(controls), list(queries), found
        self._held: tuple[TaskRows, np.ndarray, _Pool, _Pool] | None = None

    @classmethod
    def wants_rivals(cls, settings: Mapping[str, Any]) -> list[str]:
        """Return the controls that are dictionaries trained alike."""
        return [name for name in settings.get("controls", CONTROLS) if name in RIVALS]

    @classmethod
    def check(cls, settings: Mapping[str, Any]) -> None:
        """Raise :class:`~vlsae.errors.UserError` for a query that cannot be read, before anything is made."""
        for query in settings.get("queries") or ():
            read_query(query)

    def evaluate(self, model: Model, dictionary: Dictionary | None) -> Evaluation:
        """Return R@1, 5 and 10 both ways; with a dictionary also by codes alone, by controls, and the searches."""
        rows, choosing, tuning, scored = self._pools(model)
        start = time.perf_counter()
        features = _features(scored)
        if dictionary is None:
            ranks = _ranks(features, scored.correct)
            self._log("clip", ranks, scored)
            return self._evaluation(ranks, time.perf_counter() - start)
        from vlsae.enhancement.coders import coder_of, sparse_codes
        from vlsae.enhancement.rows import check_sites

        check_sites(self.work.sites, self.sites, self.work.auxiliary)
        own = sparse_codes(dictionary)
        alpha, codes = self._chosen(own, tuning), _codes(own, scored)
        ranks = _ranks(features + alpha * codes, scored.correct)
        result = self._evaluation(ranks, time.perf_counter() - start)
        self._log("concepts", ranks, scored)
        table: list[list[Any]] = [
            ["clip", 0.0, *self._row(_ranks(features, scored.correct))],
            ["concepts", alpha, *self._row(ranks)],
        ]
        table.append(["concepts alone", None, *self._row(_ranks(codes, scored.correct))])
        for name in (one for one in self.controls if one not in RIVALS or one in self.work.rivals):
            coder = coder_of(name, dictionary, self.work.rivals, self.work.seed)
            best, other = self._chosen(coder, tuning), _codes(coder, scored)
            table.append([name, best, *self._row(_ranks(features + best * other, scored.correct))])
            table.append([f"{name} alone", None, *self._row(_ranks(other, scored.correct))])
        metrics = {**result.metrics, "alpha": Measure(alpha, "weight of the concepts")}
        for row in table[2:]:
            metrics |= {
                f"{way}/r1/{row[0].replace(' ', '_')}": Measure(row[2 + 3 * i], "share") for i, way in enumerate(WAYS)
            }
        columns = ["method", "α", *(f"{way.replace('_', ' ')} R@{depth}" for way in WAYS for depth in DEPTHS)]
        tables = [Table("methods", "Retrieval by concepts and controls", columns, table, shown=True)]
        searches = [
            self._search(number, query, rows, choosing, dictionary)
            for number, query in enumerate(self.queries, start=1)
        ]
        tables += [table for table, _ in searches]
        for _, numbers in searches:
            metrics |= numbers
        plots = [self._curve(own, tuning, scored)]
        return Evaluation(metrics, tables, plots, [_told(table)], ["alpha"], scores=result.scores)

    def _pools(self, model: Model) -> tuple[TaskRows, np.ndarray, _Pool, _Pool]:
        if self._held is None:
            from vlsae.enhancement.rows import halves, rows_of

            rows = rows_of(self.work, model, self.data, self.sites)
            choosing, scored = halves(rows)
            self._held = (rows, choosing, _pool(rows, choosing[: self.pool]), _pool(rows, scored[: self.pool]))
        return self._held

    def _chosen(self, coder: Coder, tuning: _Pool) -> float:
        """Return the α that is best on the tuning pairs by mean R@1 of both ways, the smallest of equals."""
        if self.alpha is not None:
            return self.alpha
        features, codes = _features(tuning), _codes(coder, tuning)
        scores = []
        for alpha in self.alphas:
            ranks = _ranks(features + alpha * codes, tuning.correct)
            scores.append(np.mean([float((one == 1).mean()) for one in ranks.values()]))
        return self.alphas[int(np.argmax(scores))]

    def _evaluation(self, ranks: Mapping[str, np.ndarray], seconds: float) -> Evaluation:
        from vlsae.dictionaries.usage import mean_measure

        scores = {f"{way}/r{depth}": (rank <= depth).astype(float) for way, rank in ranks.items() for depth in DEPTHS}
        n = len(next(iter(ranks.values())))
        metrics = {
            name: mean_measure(hits, f"share among {n}", seed=self.work.seed, resamples=self.work.resamples)
            for name, hits in scores.items()
        }
        metrics["scoring_time"] = Measure(1e6 * seconds / n, "microseconds a pair")
        return Evaluation(metrics, headline=[f"{way}/r1" for way in WAYS], scores=scores)

    def _row(self, ranks: Mapping[str, np.ndarray]) -> list[float]:
        return [float((rank <= depth).mean()) for rank in ranks.values() for depth in DEPTHS]

    def _log(self, method: str, ranks: Mapping[str, np.ndarray], pool: _Pool) -> None:
        self.work.items.add(
            {
                "id": f"{name}:{way}",
                "input": caption if way == "image_of_text" else name,
                "answer": int(rank),
                "label": 1,
                "method": method,
                "seed": self.work.seed,
            }
            for way, every in ranks.items()
            for name, caption, rank in zip(pool.ids, pool.captions, every)
        )

    def _curve(self, coder: Coder, tuning: _Pool, scored: _Pool) -> Plot:
        series = []
        for words, pool in (("chosen on", tuning), ("scored", scored)):
            features, codes = _features(pool), _codes(coder, pool)
            ranks = [_ranks(features + alpha * codes, pool.correct) for alpha in self.alphas]
            for way in WAYS:
                share = [float((one[way] == 1).mean()) for one in ranks]
                series.append(Series(f"{way.replace('_', ' ')}, pairs {words}", self.alphas, share))
        return Plot("alpha", "R@1 by α", "α", "R@1", series)

    def _search(
        self, number: int, query: str, rows: TaskRows, choosing: np.ndarray, dictionary: Dictionary
    ) -> tuple[Table, dict[str, Measure]]:
        """Return the images that a query finds among all rows apart from the choosing ones, and how many are right."""
        from vlsae.dictionaries.codes import activation_matrix
        from vlsae.enhancement.concept_reference import described

        terms = read_query(query)
        rest = np.setdiff1d(np.arange(len(rows)), choosing)
        images = rows.values["vision"]
        active = {part: activation_matrix(dictionary, images[numbers], "vision") for part, numbers in
                  (("choosing", choosing), ("rest", rest))}  # fmt: skip
        score, right, known = np.zeros(len(rest)), np.ones(len(rest), bool), True
        meant = []
        for sign, reference in terms:
            concept, present = self._term(reference, rows, choosing, active["choosing"], dictionary)
            meant.append(f"{'+' if sign > 0 else '−'}{described(reference, concept)}")
            column = active["choosing"][:, concept]
            score += sign * (active["rest"][:, concept] - column.mean()) / max(float(column.std()), 1e-12)
            known = known and present is not None
            right &= True if present is None else present[rest] == (sign > 0)
        first = np.argsort(-score, kind="stable")[: self.found]
        cells = [[place + 1, rows.ids[rest[i]], float(score[i]), bool(right[i]) if known else None] for place, i in
                 enumerate(first)]  # fmt: skip
        text = (
            f"Terms: {', '.join(meant)}; score: their activations in standard deviations above the mean, summed with "
            "their signs; right: whether the data say of all terms what the query does, where they know them."
        )
        columns, small = ["rank", "image", "score", "right"], rows.pictures(rest[first].tolist())
        table = Table(f"search_{number}", f"Search: {query}", columns, cells, text, shown=True, pictures=small)
        if not known:
            return table, {}
        return table, {
            f"search/{query}/precision": Measure(float(right[first].mean()), f"share of the first {len(first)}"),
            f"search/{query}/base_rate": Measure(float(right.mean()), "share of all images searched"),
        }

    def _term(
        self, reference: str, rows: TaskRows, choosing: np.ndarray, active: np.ndarray, dictionary: Dictionary
    ) -> tuple[int, np.ndarray | None]:
        from vlsae.dictionaries.auroc import auroc
        from vlsae.enhancement.concept_reference import attribute, factor_names, no_such, numbered

        concept = numbered(reference, dictionary, self.work.concepts)
        if concept is not None:
            return concept, None
        if "=" not in reference:
            raise no_such(reference, self.work.concepts, factor_names(self.data, rows.samples))
        present = attribute(self.data, rows.samples, reference)
        return int(np.nanargmax(auroc(active, present[choosing][:, None])[0])), present


def _told(table: Sequence[Sequence[Any]]) -> str:
    """Return in a sentence what the concepts bring, beside the embeddings and the best of the controls."""

    def both(row: Sequence[Any]) -> str:
        return f"{row[2]:.3f} / {row[2 + len(DEPTHS)]:.3f}"

    clip, own, *others = (row for row in table if not row[0].endswith(" alone"))
    words = (
        f"R@1, caption of an image / image of a caption: with concepts (α {own[1]:g}) {both(own)}, without {both(clip)}"
    )
    if not others:
        return f"{words}."
    best = max(others, key=lambda row: row[2] + row[2 + len(DEPTHS)])
    return f"{words}, with {best[0]} (α {best[1]:g}), the best control, {both(best)}."


def read_query(query: str) -> list[tuple[int, str]]:
    """Return sign and reference of each term of a query: ``+red -17``; names with spaces go in double quotes.

    Raises :class:`~vlsae.errors.UserError` for a query of another form.
    """
    found = re.findall(r'\s*([+\-−])("[^"]+"|\S+)', query)
    left = re.sub(r'\s*([+\-−])("[^"]+"|\S+)', "", query).strip()
    if not found or left:
        raise UserError(f"The query {query!r} cannot be read.", 'Write + or - before each concept: "+red -17"')
    return [(1 if sign == "+" else -1, term.strip('"')) for sign, term in found]


def _pool(rows: TaskRows, numbers: np.ndarray) -> _Pool:
    part = rows.take(numbers)
    captions = [texts[0] for texts in part.samples.column("texts").to_pylist()]
    text = np.unique(captions, return_inverse=True)[1]
    return _Pool(part.values["vision"], part.values["language"], text[:, None] == text[None], part.ids, captions)


def _features(pool: _Pool) -> Tensor:
    from vlsae.enhancement.zero_shot import unit

    return unit(pool.images) @ unit(pool.texts).T


def _codes(coder: Coder, pool: _Pool) -> Tensor:
    from vlsae.enhancement.zero_shot import unit

    return unit(coder(pool.images, "vision")) @ unit(coder(pool.texts, "language")).T


def _ranks(similarity: Tensor, correct: np.ndarray) -> dict[str, np.ndarray]:
    """Return by way the rank ``(n,)`` of each query's best right answer, every wrong one as near going before it."""
    table = similarity.double().numpy()
    found = {}
    for way, scores, right in ((WAYS[0], table, correct), (WAYS[1], table.T, correct.T)):
        best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
        found[way] = 1 + ((scores >= best) & ~right).sum(axis=1)
    return found
