"""task=explain: which concepts bring an image and a text of your own together, and which keep them apart."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from vlsae.bounds import OneOf, Range
from vlsae.enhancement.task import Task
from vlsae.errors import MissingFile, UserError
from vlsae.result import Measure, Result, Table

if TYPE_CHECKING:
    from torch import Tensor

    from vlsae.dictionaries import Dictionary
    from vlsae.dictionaries.explanation import ConceptShare, Explanation
    from vlsae.models.base import Model
    from vlsae.representations import Store

#: Rows of each stream that base rates and medians rest on, at most.
ROWS = 20_000
LISTS = ("shared", "image only", "text only")
#: Characters of a text that stands for a name, in the file and in a table's column.
LONGEST_NAME = 60
LONGEST_CELL = 24
#: Pairs whose picture stands on the page.
SHOWN_PICTURES = 100
#: Pairs of which a sentence says what was found, and concepts that it names.
TOLD_PAIRS = 5
TOLD_CONCEPTS = 5
#: Mean percentile of pairs that belong together below which their concepts are said to tell little; chance is 50.
TOLD_APART = 75.0


@dataclass(frozen=True)
class Pair:
    """An image file and the text that is held against it."""

    image: Path
    text: str


@dataclass(frozen=True)
class Known:
    """What is known of the concepts from the rows they were trained on; arrays are by stream, ``(h,)`` each.

    ``rate``: share of rows in which a concept is active; ``median``: of its activation before any is left out;
    ``mismatched (m,)``: cosines of the codes of images and texts that do not belong together; ``matched``: of some that
    do.
    """

    counts: np.ndarray
    rows: int
    rate: Mapping[str, np.ndarray]
    median: Mapping[str, np.ndarray]
    mismatched: np.ndarray
    matched: np.ndarray


class Explain(Task):
    """Take the similarity of an image and a text apart: concepts of both, of the image alone, of the text alone.

    ``image`` and ``text`` are one pair, ``pairs`` a CSV of several with those columns (paths from the CSV's folder).
    Concepts are ranked by their share of the cosine of codes times ``weight`` (``idf``, ``inv_mean``, ``none``);
    ``shown`` of each list are printed, all are in ``explanation.json``. The pair's cosine stands among those of
    ``mismatched`` pairs of the rows that the dictionary was trained on. Source: VL-SAE (arXiv 2510.21323).
    """

    compares = False

    def __init__(
        self,
        *,
        image: str | None = None,
        text: str | None = None,
        pairs: str | None = None,
        weight: Annotated[str, OneOf("idf", "inv_mean", "none")] = "idf",
        mismatched: Annotated[int, Range(1, None)] = 1000,
        shown: Annotated[int, Range(1, None)] = 8,
    ) -> None:
        self.image, self.text, self.pairs = image, text, pairs
        self.weight, self.mismatched, self.shown = weight, mismatched, shown

    @classmethod
    def check(cls, settings: Mapping[str, Any]) -> None:
        """Raise :class:`~vlsae.errors.UserError` for pairs that cannot be read, before any dictionary is made."""
        for pair in pairs_of(settings.get("image"), settings.get("text"), settings.get("pairs")):
            picture(pair.image)

    def evaluate(self, model: Model, dictionary: Dictionary | None) -> Result:
        """Return each pair's concepts, ranked, with base rates, medians and the pair's place among mismatched ones."""
        if dictionary is None:
            raise UserError("task=explain needs concepts, and there is no dictionary.", "Give one: --run RUN")
        if self.work.training is None:
            raise UserError(
                "task=explain needs the rows that the dictionary was trained on, and their run is gone.",
                "Train a dictionary anew: vlsae train",
            )
        pairs = pairs_of(self.image, self.text, self.pairs)
        images, texts = self._rows(model, pairs)
        known = known_of(dictionary, self.work, self.mismatched)
        found = [self._explained(dictionary, image, text, known) for image, text in zip(images, texts)]
        self._write(pairs, found, known)
        totals: list[list[Any]] = []
        rows: list[list[Any]] = []
        for number, (pair, one) in enumerate(zip(pairs, found), start=1):
            place = percentile(one.cosine, known.mismatched)
            totals.append([number, pair.image.name, pair.text, one.cosine, one.jaccard, place, *map(len, _lists(one))])
            rows += self._table_rows(number, one, known)
        placed = (
            f"cosine, jaccard: of the codes; percentile: share in percent of {len(known.mismatched):,} mismatched "
            "pairs of the rows trained on whose cosine is lower; then how many concepts each list has."
        )
        columns = ["pair", "image", "text", "cosine", "jaccard", "percentile", *LISTS]
        tables = [
            Table("pairs", "Pairs", columns, totals, placed, shown=True, pictures=_small(pairs)),
            Table("concepts", "Concepts of each pair", COLUMNS, rows, _description(self.weight), shown=True),
        ]
        metrics = {"pairs": Measure(len(pairs), "pairs")}
        if len(pairs) == 1:
            metrics |= {
                "code_cosine": Measure(found[0].cosine, "cosine of the pair's codes"),
                "code_jaccard": Measure(found[0].jaccard, "shared among the pair's concepts"),
                "percentile": Measure(totals[0][5], "% of mismatched pairs below"),
            }
        for kind, some in (("mismatched", known.mismatched), ("matched", known.matched)):
            mean = float(some.mean()) if len(some) else None
            metrics[f"{kind}_cosine"] = Measure(mean, f"mean cosine, {kind} pairs")
        told = [told_of(number, one, known) for number, one in enumerate(found[:TOLD_PAIRS], start=1)]
        return Result(metrics, tables, (), [*told, *warned(known), *self._notes()])

    def _rows(self, model: Model, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
        """Return the pairs' rows as the dictionary reads them, of images and of texts ``(n, d)``."""
        from vlsae.models.base import TokenSelection

        sites, store = dict(self.work.sites), self.work.training
        if set(sites) != {"vision", "language"} or store is None:
            raise UserError(f"The dictionary reads {', '.join(sites.values())} alone.", "A pair needs both streams.")
        batch = model.prepare([picture(pair.image) for pair in pairs], [pair.text for pair in pairs])
        rows = {}
        for stream, site in sites.items():
            selection = TokenSelection(pooling=store.site(site).pooling)
            values = model.represent(batch, [site], selection)[site].values.float().cpu()
            auxiliary = self.work.auxiliary
            rows[stream] = values if auxiliary is None else auxiliary.encode(values, stream)
        return rows["vision"], rows["language"]

    def _explained(self, dictionary: Dictionary, image: Tensor, text: Tensor, known: Known) -> Explanation:
        from vlsae.dictionaries.explanation import explain

        means = np.array([concept.get("mean_activation") or 0.0 for concept in self.work.concepts])
        return explain(
            dictionary,
            image,
            text,
            counts=known.counts,
            rows=known.rows,
            means=means if len(means) == dictionary.n_concepts else None,
            weight=self.weight,
        )

    def _table_rows(self, number: int, one: Explanation, known: Known) -> list[list[Any]]:
        rows: list[list[Any]] = []
        for name, several in zip(LISTS, _lists(one)):
            rows += [[number, name, *self._cells(share, known, LONGEST_CELL)] for share in several[: self.shown]]
        return rows

    def _cells(self, share: ConceptShare, known: Known, longest: int = LONGEST_NAME) -> list[Any]:
        i = share.concept
        above = [
            activity - float(known.median[stream][i]) if activity else None
            for activity, stream in ((share.vision, "vision"), (share.language, "language"))
        ]
        rates = [float(known.rate[stream][i]) for stream in ("vision", "language")]
        contribution = share.contribution if share.vision and share.language else None
        return [i, self._name(i, longest), contribution, share.score, *above, *rates]

    def _name(self, number: int, longest: int) -> str:
        """Return a concept's name, or the text that activates it most, in quotes."""
        concept = self.work.concepts[number] if number < len(self.work.concepts) else {}
        if concept.get("name"):
            return str(concept["name"])
        texts = concept.get("texts") or []
        text = texts[0]["text"] if texts else ""
        return f"“{text[:longest].rstrip()}{'…' if len(text) > longest else ''}”" if text else "no text activates it"

    def _notes(self) -> list[str]:
        if all(concept.get("name") for concept in self.work.concepts):
            return []
        return ["Of a concept without a name that passed its test the text that activates it most stands in quotes."]

    def _write(self, pairs: Sequence[Pair], found: Sequence[Explanation], known: Known) -> None:
        """Write every list whole, and the concepts in them for the page's pictures."""
        if self.work.folder is None:
            return
        from vlsae.runs.files import dump_json, write_atomic, write_json

        content: list[dict[str, Any]] = []
        used: dict[int, None] = {}
        for pair, one in zip(pairs, found):
            lists = {
                name: [dict(zip(COLUMNS[2:], self._cells(share, known))) for share in several]
                for name, several in zip(LISTS, _lists(one))
            }
            place = percentile(one.cosine, known.mismatched)
            numbers = {"cosine": one.cosine, "jaccard": one.jaccard, "percentile": place}
            content.append({"image": str(pair.image), "text": pair.text, **numbers, **lists})
            used |= {share.concept: None for several in _lists(one) for share in several[: self.shown]}
        write_json(self.work.folder / "explanation.json", content)
        lines = [dump_json(self.work.concepts[i], indent=None) for i in used if i < len(self.work.concepts)]
        write_atomic(self.work.folder / "concepts.jsonl", "".join(line + "\n" for line in lines))


COLUMNS = (
    "pair", "list", "concept", "name", "contribution", "score", "image above median", "text above median",
    "base rate in images", "base rate in texts",
)  # fmt: skip

_FACTORS = {"idf": "ln((N + 1)/(n + 1)), n of N training rows active", "inv_mean": "1/mean activation", "none": "1"}


def _description(weight: str) -> str:
    return (
        "contribution: share of the cosine of the codes (those of shared concepts sum to it); score: what a list is "
        f"ranked by, contribution or, of one side alone, activation, times {_FACTORS[weight]}; above median: "
        "activation beyond the concept's median over training rows, before any is left out; base rate: share of "
        "training rows in which it is active."
    )


def warned(known: Known) -> list[str]:
    """Return a warning where the codes of pairs that belong together are hardly more alike than those of others."""
    places = [percentile(float(one), known.mismatched) or 0.0 for one in known.matched]
    if not places or np.mean(places) >= TOLD_APART:
        return []
    return [
        "The dictionary hardly tells pairs that belong together from others (mean cosine of codes "
        f"{known.matched.mean():.3f} and {known.mismatched.mean():.3f}): shared concepts say little here."
    ]


def told_of(number: int, one: Explanation, known: Known) -> str:
    """Return in a sentence how alike a pair is, and by which concepts most; no word of the data is in it."""
    place = percentile(one.cosine, known.mismatched)
    alike = f"Pair {number}: cosine of codes {one.cosine:.3f}"
    if len(known.matched):
        alike += f" (pairs that belong together: {known.matched.mean():.3f})"
    if place is not None:
        alike += f", above {place:.1f} % of {len(known.mismatched):,} mismatched pairs"
    if not one.shared:
        return f"{alike}; no concept is active in both."
    first = one.shared[:TOLD_CONCEPTS]
    part, numbers = sum(share.contribution for share in first), ", ".join(str(share.concept) for share in first)
    return f"{alike}. {len(one.shared)} concepts are shared; the first, {numbers}, bring {part:.3f} of it."


def pairs_of(image: str | None, text: str | None, pairs: str | None) -> list[Pair]:
    """Return the pairs that are asked for; :class:`~vlsae.errors.UserError` names what is missing or wrong."""
    if pairs is not None:
        if image is not None or text is not None:
            raise UserError("Both task.pairs and image or text are given.", "Give a CSV of pairs, or one pair.")
        return _pairs_in(Path(pairs).expanduser())
    if image is None or text is None or not text.strip():
        lacking = "image" if image is None else "text"
        raise UserError(f"task=explain has no {lacking}.", 'Give a pair: image=cat.jpg text="a cat on a mat"')
    return [_checked(Pair(Path(image).expanduser(), text), "image")]


def picture(path: Path) -> Any:
    """Return an image file as an RGB image; ``UserError`` names a file that holds none."""
    from vlsae.datasets.pictures import decode

    try:
        return decode(path.read_bytes())
    except UserError as error:
        raise UserError(f"{path}: {error.message}.", "Give an image file, such as a JPEG or PNG.") from error


def known_of(dictionary: Dictionary, work: Any, mismatched: int) -> Known:
    """Return the base rates and medians of concepts over the rows trained on, and cosines of mismatched pairs."""
    from vlsae.dictionaries.codes import activation_matrix, code_matrix
    from vlsae.dictionaries.consistency import cosine

    store: Store = work.training
    generator = np.random.default_rng(work.seed)
    codes, owner, median = {}, {}, {}
    for stream, site in work.sites.items():
        total = int(store.row_starts(stream)[-1])
        rows = np.sort(generator.choice(total, min(ROWS, total), replace=False))
        values = store.read(site, rows)
        values = values if work.auxiliary is None else work.auxiliary.encode(values, stream)
        codes[stream] = code_matrix(dictionary, values, stream)
        owner[stream] = store.row_table(stream).column("sample").to_numpy()[rows]
        median[stream] = np.median(activation_matrix(dictionary, values[:2000], stream), axis=0)
    left = generator.integers(0, codes["vision"].shape[0], 4 * mismatched)
    right = generator.integers(0, codes["language"].shape[0], 4 * mismatched)
    apart = np.flatnonzero(owner["vision"][left] != owner["language"][right])[:mismatched]
    cosines = cosine(codes["vision"][left[apart]], codes["language"][right[apart]])
    _, left, right = np.intersect1d(owner["vision"], owner["language"], return_indices=True)
    matched = cosine(codes["vision"][left[:mismatched]], codes["language"][right[:mismatched]])
    fires = {stream: np.asarray((matrix > 0).sum(axis=0)).ravel() for stream, matrix in codes.items()}
    rate = {stream: fires[stream] / codes[stream].shape[0] for stream in codes}
    total = sum(matrix.shape[0] for matrix in codes.values())
    return Known(fires["vision"] + fires["language"], total, rate, median, cosines, matched)


def percentile(value: float, others: np.ndarray) -> float | None:
    """Return the share in percent of other values below one, ties counting half; None for no others."""
    return 100 * float(((others < value) + 0.5 * (others == value)).mean()) if len(others) else None


def _small(pairs: Sequence[Pair]) -> list[bytes | None]:
    """Return small pictures of the pairs for the page, of the first ones."""
    from vlsae.representations.thumbnails import thumbnails

    first = thumbnails([picture(pair.image) for pair in pairs[:SHOWN_PICTURES]], side=96)
    return [*first, *[None] * (len(pairs) - len(first))]


def _lists(one: Explanation) -> tuple[list[ConceptShare], list[ConceptShare], list[ConceptShare]]:
    return one.shared, one.vision_only, one.language_only


def _pairs_in(file: Path) -> list[Pair]:
    if not file.is_file():
        raise MissingFile(
            f"There is no file of pairs {file}.", "task.pairs=FILE, a CSV with the columns image and text."
        )
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        columns = reader.fieldnames or []
        if not {"image", "text"} <= set(columns):
            raise UserError(f"{file} has the columns {', '.join(columns) or 'none'}.", "It needs image and text.")
        found = []
        for line, row in enumerate(reader, start=2):
            if not (row["image"] or "").strip() or not (row["text"] or "").strip():
                raise UserError(f"{file}, line {line}: the image or the text is empty.", "Fill in both.")
            found.append(
                _checked(Pair(file.parent / row["image"].strip(), row["text"].strip()), f"{file}, line {line}")
            )
    if not found:
        raise UserError(f"{file} holds no pairs.", "Add a line for each.")
    return found


def _checked(pair: Pair, where: str) -> Pair:
    if not pair.image.is_file():
        raise MissingFile(f"{where}: there is no image {pair.image}.", "Name a file that exists.")
    return pair
