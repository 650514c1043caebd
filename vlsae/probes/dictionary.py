"""probe=dictionary: one evaluation for every kind of dictionary, and several side by side on the same rows.

n rows, d width, h concepts, F factors.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np

from vlsae.bounds import Range
from vlsae.errors import UserError
from vlsae.probes.base import Probe, Representations, TrainedDictionary
from vlsae.result import Result, Table, merge
from vlsae.runs.metrics import Measure

if TYPE_CHECKING:
    from torch import Tensor

    from vlsae.dictionaries.factor_scores import Factors
    from vlsae.probes.targets import Targets

logger = logging.getLogger(__name__)

#: Held-out rows below which factors are not scored.
FEWEST = 100

CHECKPOINT = (
    "Intervals are of this checkpoint: they resample the rows it was scored on, and say nothing of other seeds."
)


@dataclass(frozen=True)
class Held:
    """Held-out rows by stream ``(n, d)``, the sample of each, and whether row i of each stream is of one sample."""

    values: dict[str, Tensor]
    samples: np.ndarray
    paired: bool


class DictionaryProbe(Probe):
    """Explained variance, usage, monosemanticity, consistency, recovery, absorption, removal, loss recovered.

    Scored on at most ``rows`` held-out rows a stream with ``bootstrap`` resamples. ``counts`` are the concepts that
    sparse probes read, ``removed`` those that targeted removal takes out. ``runs`` names further dictionaries, which
    are scored on the same rows beside this one; those of its kind and size are matched concept by concept.
    ``runs`` may name a folder, a Hub id, SAELens' layout or published weights as well (``dictionaries/references.py``).
    ``texts`` is how many held-out texts run through a language model whose layer's tokens were coded, for the loss
    recovered.
    """

    reads: ClassVar[str] = "dictionary"

    def __init__(
        self,
        *,
        rows: Annotated[int, Range(2)] = 10_000,
        bootstrap: Annotated[int, Range(2)] = 200,
        counts: list[Annotated[int, Range(1)]] | None = None,
        removed: Annotated[int, Range(1)] = 5,
        runs: list[str | dict] | None = None,
        texts: Annotated[int, Range(0)] = 64,
    ) -> None:
        self.rows, self.bootstrap, self.removed, self.texts = rows, bootstrap, removed, texts
        self.counts, self.runs = list(counts or (1, 5, 20)), list(runs or ())

    def measure(self, representations: Representations, targets: Targets) -> Result:
        """Return every number of the dictionary, and with ``runs`` the comparison and the stability across seeds."""
        trained = representations.dictionary
        if trained is None:
            raise UserError("There is no dictionary to score.", "Name a training: --run train/NAME/latest.")
        others = [_opened(reference, trained) for reference in self.runs]
        held = held_out(representations, trained, self.rows, representations.seed)
        factors = self._factors(held, targets, representations)
        own = self._scored(trained, held, factors, representations)
        if not others:
            return own
        from vlsae.dictionaries.comparison import comparison

        every = [trained, *others]
        scored = [own, *(self._scored(one, held, factors, representations) for one in others)]
        compared = [_compared(one, result) for one, result in zip(every, scored)]
        return merge(own, comparison(compared), self._stability(every, representations.seed))

    def _scored(
        self, trained: TrainedDictionary, held: Held, factors: Factors | None, representations: Representations
    ) -> Result:
        import torch

        from vlsae.dictionaries.evaluation import evaluate
        from vlsae.dictionaries.evaluation_cost import evaluation_cost
        from vlsae.dictionaries.factor_evaluation import evaluate_factors
        from vlsae.dictionaries.loss_recovered import SCALE

        dictionary = trained.dictionary
        with torch.no_grad():
            values = {stream: trained.inputs(x, stream).cpu() for stream, x in held.values.items()}
        known = 0 if factors is None else len(factors.names)
        cost = evaluation_cost(dictionary, values, factors=known, resamples=self.bootstrap)
        logger.info("%s: %s on %s rows", trained.run_id or "the dictionary", cost, len(next(iter(values.values()))))
        joint = trained.auxiliary is None and all(site.endswith(".embedding") for site in trained.sites.values())
        common: dict[str, Any] = {"seed": representations.seed, "bootstrap": self.bootstrap}
        scale = _sharpness(representations) if joint and held.paired else None
        numbers = evaluate(dictionary, values, paired=held.paired, joint=joint, scale=scale or SCALE, **common)
        numbers["parameters"] = Measure(sum(one.numel() for one in dictionary.parameters()), "numbers")
        tables: tuple[Table, ...] = ()
        if factors is not None:
            found = evaluate_factors(
                dictionary,
                values,
                factors,
                counts=self.counts,
                removed=self.removed,
                seed=representations.seed,
                resamples=self.bootstrap,
            )
            numbers |= found.metrics
            tables = (*found.tables, _recovery_table(found.recovery))
        numbers |= self._loss_recovered(trained, representations)
        headline = [name for name in _HEADLINE if name in numbers]
        return Result(numbers, tables, notes=(CHECKPOINT,), headline=headline)

    def _factors(self, held: Held, targets: Targets, representations: Representations) -> Factors | None:
        from vlsae.dictionaries.factor_scores import Factors

        if not held.paired and len(held.values) > 1:
            return None
        names, groups, columns = [], [], []
        for target in targets.usable()[0]:
            column = target.values[held.samples]
            if target.kind == "number" or not np.isfinite(column).all():
                continue
            shown = [1] if target.kind == "binary" else range(len(target.classes))
            for value in shown:
                named = target.kind == "binary" and target.classes == ("no", "yes")
                names.append(target.name if named else f"{target.name}={target.classes[value]}")
                groups.append(target.factor or target.name)
                columns.append(column == value)
        if not names or len(held.samples) < FEWEST:
            return None
        only = getattr(representations.dataset(), "one_stream", {}) if representations.dataset is not None else {}
        return Factors(names, groups, np.stack(columns, axis=1), only)

    def _loss_recovered(self, trained: TrainedDictionary, representations: Representations) -> dict[str, Measure]:
        """Return the loss recovered within a language model whose layer the dictionary codes, token by token."""
        sites = list(trained.sites.items())
        if self.texts == 0 or representations.model is None or len(sites) != 1 or trained.auxiliary is not None:
            return {}
        _, site = sites[0]
        rows = representations.rows(site)
        if site.endswith(".embedding") or "role" not in rows.table.column_names:
            return {}
        if representations.samples is None:
            return {}
        from vlsae.dictionaries.loss_recovered import token_recovery

        return token_recovery(
            representations.model(),
            site,
            trained.dictionary,
            rows.table,
            representations.samples,
            rows.read().mean(dim=0),
            texts=self.texts,
            seed=representations.seed,
            resamples=self.bootstrap,
        )

    def _stability(self, every: Sequence[TrainedDictionary], seed: int) -> Result:
        """Return how well concepts of dictionaries of one kind and size match one to one, a value a pair."""
        from vlsae.dictionaries.stability import stability

        first = every[0].dictionary
        alike = [one for one in every if type(one.dictionary) is type(first) and _size(one) == _size(every[0])]
        if len(alike) < 2:
            return Result({}, notes=("No other dictionary has this kind and size, so stability was not measured.",))
        numbers, rows = {}, []
        for stream in every[0].sites:
            found = stability([one.dictionary for one in alike], stream, seed)
            for name, values in found.items():
                unit = "cosine" if name.endswith("cosine") else "share of concepts"
                numbers[f"stability/{stream}/{name}"] = Measure(float(np.mean(values)), unit)
                rows += [(stream, name, number, value) for number, value in enumerate(values)]
        table = Table(
            "stability", "Matched concepts of pairs of dictionaries", ("stream", "what", "pair", "value"), rows
        )
        return Result(numbers, (table,))


_HEADLINE = (
    "explained_variance/vision",
    "explained_variance/language",
    "l0/vision",
    "l0/language",
    "dead/vision",
    "dead/language",
    "consistency",
    "consistency/excess",
    "monosemanticity/vision",
    "loss_recovered/mean",
    "recovery/auroc",
    "recovery_random/auroc",
    "recovery_ceiling/auroc",
    "sparse_probing/k1/auroc",
    "absorption",
    "splitting",
    "removal",
)


def held_out(representations: Representations, trained: TrainedDictionary, most: int, seed: int) -> Held:
    """Return at most ``most`` held-out rows a stream; where both streams have pooled rows, one pair a sample.

    Raises ``UserError`` where the validation split is empty.
    """
    import torch

    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    tokens = False
    for stream, site in trained.sites.items():
        table = representations.rows(site).table
        own = np.flatnonzero(np.asarray(table.column("split").to_pylist()) == "validation")
        found[stream] = own, np.asarray(table.column("sample").to_numpy())[own]
        tokens = tokens or "role" in table.column_names
    if any(len(rows) == 0 for rows, _ in found.values()):
        raise UserError(
            "The validation split holds no row to score the dictionary on.", "Use a larger split.validation."
        )
    generator = np.random.default_rng(seed)
    paired = len(found) > 1 and not tokens
    if paired:
        firsts = {stream: dict(zip(owner[::-1], rows[::-1])) for stream, (rows, owner) in found.items()}
        shared = np.array(sorted(set.intersection(*(set(one) for one in firsts.values()))), dtype=np.int64)
        samples = _some(shared, most, generator)
        chosen = {stream: np.array([one[sample] for sample in samples]) for stream, one in firsts.items()}
    else:
        chosen = {stream: _some(rows, most, generator) for stream, (rows, _) in found.items()}
        first = next(iter(chosen))
        samples = np.asarray(representations.rows(trained.sites[first]).sample)[chosen[first]]
    values = {
        stream: representations.rows(trained.sites[stream]).read()[torch.from_numpy(rows)]
        for stream, rows in chosen.items()
    }
    return Held(values, samples, paired)


def _some(rows: np.ndarray, most: int, generator: np.random.Generator) -> np.ndarray:
    return rows if len(rows) <= most else rows[np.sort(generator.choice(len(rows), most, replace=False))]


def _opened(reference: Any, beside: TrainedDictionary) -> TrainedDictionary:
    """Return another dictionary; ``UserError`` where it says that it reads other sites."""
    from vlsae.dictionaries.references import load_dictionary
    from vlsae.runs import runs_root

    root = runs_root(None) if beside.path is None else beside.path.parents[2]
    found = load_dictionary(reference, root)
    if found.sites is not None and dict(found.sites) != dict(beside.sites):
        raise UserError(f"{reference} reads {found.sites}, the dictionary beside it {dict(beside.sites)}.")
    run = found.path.parent if (found.path.parent / "manifest.json").is_file() else None
    name = str(found.path) if run is None else "/".join(run.parts[-3:])
    return TrainedDictionary(found.dictionary, dict(beside.sites), found.auxiliary, run, name)


def _compared(trained: TrainedDictionary, result: Result) -> Any:
    from vlsae.dictionaries.comparison import Compared
    from vlsae.runs import read_manifest
    from vlsae.runs.metrics import read_summary

    own = None if trained.path is None else read_summary(trained.path)
    seen = ((own or {}).get("metrics", {}).get("rows_seen") or {}).get("value")
    seed = None if trained.path is None else read_manifest(trained.path)["seeds"].get("seed")
    metrics = {**result.metrics, "rows_seen": Measure(seen, "rows")}
    return Compared(trained.run_id or "", trained.dictionary.kind, seed, metrics)


def _sharpness(representations: Representations) -> float | None:
    """Return the model's own factor of cosines, None where it has none."""
    if representations.model is None:
        return None
    scale = getattr(getattr(representations.model(), "module", None), "logit_scale", None)
    return None if scale is None else float(scale.detach().exp())


def _recovery_table(recovery: Any) -> Table:
    rows = [{"method": method, **one.row()} for method, found in recovery.results.items() for one in found.factors]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return Table(
        "recovery", "Every factor by every method", columns, [[row.get(name) for name in columns] for row in rows]
    )


def _size(trained: TrainedDictionary) -> tuple[int, int]:
    return trained.dictionary.width, trained.dictionary.n_concepts
