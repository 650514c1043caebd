"""Names of a dictionary's concepts, tested on held-out rows, and on a known world checked against its factors.

n rows of a stream, h concepts, T names, F factors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np

from vlsae.bounds import OneOf, Range
from vlsae.dictionaries.naming import (
    UNNAMED,
    ConceptName,
    NamingRows,
    distinct,
    matches,
    name_concepts,
    scored,
)
from vlsae.dictionaries.usage import mean_measure
from vlsae.errors import UserError
from vlsae.probes.base import Probe, Representations
from vlsae.probes.naming_truth import by_truth
from vlsae.result import Measure, Plot, Result, Series, Table
from vlsae.statistics import bootstrap_sums, paired_bootstrap

if TYPE_CHECKING:
    from vlsae.probes.targets import Targets

NAMERS = ("phrases", "transformers", "served")
RESAMPLES = 1000
#: Names that the terminal shows.
BEST = 20


class Naming(Probe):
    """Names each live concept, tests the names, and leaves those below ``threshold`` unnamed.

    Names come from the training rows: the phrase that a concept's ``items`` top images' and texts' captions hold most
    above the usual. They are tested on held-out rows: the AUROC of "the row says the name" for "the concept fires",
    over all active rows, weak and strong, and those where it is silent. A name stands if its score reaches
    ``threshold`` and at most a share ``level`` of the other concepts' names score as high. ``encoder``, a CLIP
    checkpoint other than the model's, scores the names by its own similarities as well. ``namer`` ``transformers``
    (``language_model``: a folder or Hub id) and ``served`` (``address`` of an OpenAI-compatible service) have a
    language model propose and judge.
    """

    reads: ClassVar[str] = "dictionary"

    def __init__(
        self,
        *,
        items: Annotated[int, Range(2, 100)] = 10,
        threshold: Annotated[float, Range(0.5, 1)] = 0.6,
        level: Annotated[float, Range(0.001, 1)] = 0.05,
        smallest_contrast: Annotated[float, Range(0, 1)] = 0.2,
        encoder: str | None = None,
        namer: Annotated[str, OneOf(*NAMERS)] = "phrases",
        language_model: str | None = None,
        address: str | None = None,
        most_concepts: Annotated[int, Range(1, None)] | None = None,
    ) -> None:
        if namer != "phrases" and language_model is None:
            raise UserError(f"probe.namer={namer} needs probe.language_model.", "Name the model.")
        if (namer == "served") != (address is not None):
            raise UserError(
                f"probe.namer={namer}, and probe.address is {address!r}.",
                "An address goes with namer=served, and only.",
            )
        self.items = items
        self.threshold = threshold
        self.level = level
        self.smallest_contrast = smallest_contrast
        self.encoder = encoder
        self.namer = namer
        self.language_model = language_model
        self.address = address
        self.most_concepts = most_concepts

    def variants(
        self, model: Mapping[str, Any], dataset: Mapping[str, Any], runs: Path | None = None
    ) -> dict[str, dict[str, Any]]:
        """Return the extraction by the independent encoder, where one is given."""
        if self.encoder is None:
            return {}
        if model.get("checkpoint") == self.encoder:
            raise UserError(
                f"probe.encoder is {self.encoder!r}, the model's own checkpoint.",
                "Name another: it must be independent.",
            )
        return {"encoder": {"model": _encoder_node(self.encoder)}}

    def measure(self, representations: Representations, targets: Targets) -> Result:
        """Return the names' table ``names``, their scores beside shuffled names', and what the factors say of them."""
        rows = naming_rows(representations)
        judge = self._language_model()
        names = name_concepts(
            rows,
            items=self.items,
            smallest_contrast=self.smallest_contrast,
            namer=judge,
            seed=representations.seed,
        )
        if judge is None:
            found = scored(names, rows)
        else:
            found = judge.scored(names, rows, seed=representations.seed)
        seed = representations.seed
        owners = {stream: representations.sites[_site(representations, stream)].sample for stream in rows}
        passed = [one.concept for one in found if self._passes(one)]
        metrics = self._metrics(found, rows, seed)
        columns = self._columns(found, rows)
        for numbers, more in (
            self._by_encoder(found, rows, representations),
            by_truth(found, passed, rows, owners, targets, seed),
        ):
            metrics |= numbers
            columns |= more
        plots = [_score_plot(found), *(_rate_plot(found, rows, seed) if judge is None else [])]
        headline = [name for name in metrics if not name.startswith("naming/rows")]
        tables = [_best(found, passed), _table(columns)]
        return Result(metrics, tables, plots, self._notes(found, rows), headline)

    def _columns(self, names: Sequence[ConceptName], rows: Mapping[str, NamingRows]) -> dict[str, list[Any]]:
        """Return the columns of the table of names; a person may edit the column ``name``."""
        columns: dict[str, list[Any]] = {
            "concept": [one.concept for one in names],
            "name": [one.proposed if self._passes(one) else UNNAMED for one in names],
            "score": [one.score for one in names],
            "shuffled": [one.shuffled for one in names],
            "p_value": [one.p_value for one in names],
            "proposed": [one.proposed for one in names],
            "second": [next(iter(one.alternatives), None) for one in names],
            "third": [next(iter(one.alternatives[1:]), None) for one in names],
            "contrast": [one.contrast for one in names],
            "margin": [one.margin for one in names],
        }
        return columns | {f"score_{stream}": [one.by_stream.get(stream) for one in names] for stream in rows}

    def _passes(self, one: ConceptName) -> bool:
        return one.passes(self.threshold, self.level if self.namer == "phrases" else 0.5)

    def _language_model(self) -> Any:
        if self.namer == "phrases":
            return None
        from vlsae.dictionaries.language_namer import LanguageNamer, local_model, served_model

        name = str(self.language_model)
        answer = served_model(str(self.address), name) if self.namer == "served" else local_model(name)
        return LanguageNamer(answer, most=self.most_concepts)

    def _metrics(self, names: Sequence[ConceptName], rows: Mapping[str, NamingRows], seed: int) -> dict[str, Measure]:
        live = np.zeros(len(names), bool)
        for one in rows.values():
            live |= np.diff(one.codes.tocsc().indptr) > 0
        tested = [one for one in names if one.score is not None and one.shuffled is not None]
        passed = [one for one in tested if self._passes(one)]
        metrics = {
            "naming/live": Measure(int(live.sum()), "concepts"),
            "naming/tested": Measure(len(tested), "concepts"),
            "naming/named": Measure(len(passed), "concepts"),
            "naming/distinct": Measure(len({one.proposed for one in passed}), "names"),
        }
        if tested:
            own = np.array([one.score for one in tested], dtype=float)
            other = np.array([one.shuffled for one in tested], dtype=float)
            excess = paired_bootstrap(own, other, resamples=RESAMPLES, seed=seed)
            metrics["naming/score"] = mean_measure(own, "AUROC", seed=seed, resamples=RESAMPLES)
            metrics["naming/score/shuffled"] = mean_measure(other, "AUROC", seed=seed, resamples=RESAMPLES)
            metrics["naming/score/excess"] = Measure(excess.difference, "AUROC", excess.low, excess.high)
        for stream, one in rows.items():
            metrics[f"naming/rows/{stream}"] = Measure(int(one.score.sum()), "held-out rows")
        return metrics

    def _notes(self, names: Sequence[ConceptName], rows: Mapping[str, NamingRows]) -> list[str]:
        notes = []
        silent = [stream for stream, one in rows.items() if not any(any(text for text in d) for d in one.documents)]
        if silent:
            notes.append(f"The rows of {' and '.join(silent)} have no texts and no labels, so that nothing names them.")
        if not any(one.score is not None for one in names):
            notes.append("No name could be tested: too few held-out rows, or no phrases. All concepts stay unnamed.")
        return notes

    def _by_encoder(
        self, names: Sequence[ConceptName], rows: Mapping[str, NamingRows], representations: Representations
    ) -> tuple[dict[str, Measure], dict[str, list[Any]]]:
        """Return the names' scores by an independent encoder: it compares rows with the names, no words are matched."""
        if self.encoder is None:
            return {}, {}
        predicted = _similarities(self.encoder, distinct(names), rows, representations)
        again = scored(names, {stream: rows[stream] for stream in predicted}, predicted)
        tested = [one for one in again if one.score is not None and one.shuffled is not None]
        column = {"score_encoder": [one.score for one in again], "shuffled_encoder": [one.shuffled for one in again]}
        if not tested:
            return {}, column
        own, other = (np.array([getattr(one, part) for one in tested], float) for part in ("score", "shuffled"))
        excess = paired_bootstrap(own, other, resamples=RESAMPLES, seed=representations.seed)
        return {
            "naming/encoder_score": mean_measure(own, "AUROC", seed=representations.seed, resamples=RESAMPLES),
            "naming/encoder_score/shuffled": mean_measure(
                other, "AUROC", seed=representations.seed, resamples=RESAMPLES
            ),
            "naming/encoder_score/excess": Measure(excess.difference, "AUROC", excess.low, excess.high),
        }, column


def naming_rows(representations: Representations) -> dict[str, NamingRows]:
    """Return the dictionary's codes of all rows and what each row says, by stream; ``UserError`` without one."""
    from vlsae.dictionaries.codes import code_matrix

    trained = representations.dictionary
    if trained is None or representations.samples is None:
        raise UserError("Naming reads a dictionary's run.", "Name one with --run train/NAME/latest.")
    samples = representations.samples
    found = {}
    for stream in trained.sites:
        site = representations.sites[_site(representations, stream)]
        split = np.asarray(site.table.column("split").to_pylist())
        documents = _documents(samples, site, stream)
        keys = {document: number for number, document in enumerate(dict.fromkeys(documents))}
        held_out = split == "validation" if (split == "validation").any() else split != "train"
        found[stream] = NamingRows(
            code_matrix(trained.dictionary, trained.inputs(site.read(), stream), stream),
            documents,
            np.array([keys[one] for one in documents]) if stream == "language" else site.sample,
            split == "train",
            held_out,
        )
    return found


def _site(representations: Representations, stream: str) -> str:
    return str(representations.dictionary.sites[stream])  # type: ignore[union-attr]


def _documents(samples: Any, site: Any, stream: str) -> list[tuple[str, ...]]:
    """Return what each row says: a text row its own text, an image row all texts of its sample, else its labels."""
    owner, item = site.sample, np.asarray(site.table.column("item").to_numpy())
    texts = samples.column("texts").to_pylist() if "texts" in samples.column_names else [[]] * samples.num_rows
    if stream == "language":
        return [(texts[sample][number],) for sample, number in zip(owner, item)]
    whole = [tuple(several) if several else None for several in texts]
    if any(one is None for one in whole):
        labels = samples.column("labels").to_pylist() if "labels" in samples.column_names else [None] * len(whole)
        whole = [one if one is not None else _label_words(label) for one, label in zip(whole, labels)]
    return [whole[sample] or () for sample in owner]


def _label_words(labels: Any) -> tuple[str, ...]:
    values = labels.values() if isinstance(labels, Mapping) else [labels]
    return tuple(value.replace("_", " ") for value in values if isinstance(value, str))


def _encoder_node(checkpoint: str) -> dict[str, Any]:
    return {
        "_target_": "vlsae.models.CLIP",
        "checkpoint": checkpoint,
        "architecture": None,
        "normalize": False,
        "image_size": None,
    }


def _similarities(
    checkpoint: str, names: Sequence[str], rows: Mapping[str, NamingRows], representations: Representations
) -> dict[str, np.ndarray]:
    """Return by stream the cosines ``(n, T)`` of an encoder's embeddings of held-out rows and of names."""
    import torch

    from vlsae.config import build

    variant = representations.variants["encoder"]
    model = build(_encoder_node(checkpoint))
    model.load(representations.device)
    with torch.no_grad():
        said = model.represent(model.prepare(texts=list(names)), ["language.embedding"])["language.embedding"].values
    said = torch.nn.functional.normalize(said.float().cpu(), dim=1)
    found = {}
    for stream, one in rows.items():
        site = _site(representations, stream)
        if not site.endswith(".embedding"):
            raise UserError(
                f"probe.encoder compares embeddings, and the dictionary reads {site}.", "Leave out probe.encoder."
            )
        held_out = torch.from_numpy(np.flatnonzero(one.score))
        values = torch.nn.functional.normalize(variant.rows(site).read()[held_out], dim=1)
        found[stream] = (values @ said.T).numpy()
    return found


def _table(columns: Mapping[str, list[Any]]) -> Table:
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    note = "Edit the column name in names.csv; reports and tasks read it back."
    return Table("names", "Names of concepts", list(columns), rows, note)


def _best(names: Sequence[ConceptName], passed: Sequence[int]) -> Table:
    best = sorted((names[concept] for concept in passed), key=lambda one: -(one.score or 0))[:BEST]
    rows = [[one.concept, one.proposed, one.score, one.shuffled] for one in best]
    return Table("best_names", "Best names", ["concept", "name", "score", "shuffled"], rows, shown=True)


def _score_plot(names: Sequence[ConceptName]) -> Plot:
    tested = sorted((one for one in names if one.score is not None), key=lambda one: -(one.score or 0))
    places = list(range(1, len(tested) + 1))
    series = [
        Series("own name", places, [one.score for one in tested]),
        Series("names of other concepts", places, [one.shuffled for one in tested]),
    ]
    title = "Detection score of each concept's name, best first"
    return Plot("name_scores", title, "concept by rank", "AUROC", series, kind="scatter", reference={"chance": 0.5})


def _rate_plot(names: Sequence[ConceptName], rows: Mapping[str, NamingRows], seed: int) -> list[Plot]:
    """Return how often rows say the name, by how strongly they activate the concept, beside another concept's name."""
    from vlsae.dictionaries.detection import PARTS, rates

    chosen = np.array([one.concept for one in names if one.score is not None], dtype=np.int64)
    texts = distinct(names)
    if len(chosen) < 2:
        return []
    column = {text: place for place, text in enumerate(texts)}
    own = np.array([column[str(names[concept].proposed)] for concept in chosen])
    found = matches(rows, texts)
    x = ["silent", *(f"{part} of {PARTS}" for part in range(1, PARTS + 1))]
    series = []
    for stream, one in rows.items():
        codes = one.codes[one.score][:, chosen]
        for label, columns in (("own name", own), ("name of another concept", np.roll(own, 1))):
            table = rates(codes, found[stream], columns)
            table = table[~np.isnan(table).any(axis=1)]
            if len(table):
                interval = bootstrap_sums(lambda means: means, table, resamples=RESAMPLES, seed=seed)
                parts = (interval.estimate, interval.low, interval.high)
                y, low, high = (np.atleast_1d(part).tolist() for part in parts)
                series.append(Series(label, x, y, low, high, panel=stream))
    title = "How often rows say the name, by activation"
    return [Plot("name_rates", title, "active rows, weak to strong", "share of rows", series)] if series else []
