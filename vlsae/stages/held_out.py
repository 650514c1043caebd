"""Scoring a trained dictionary on the held-out rows of a store."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from vlsae.dictionaries.factor_scores import Factors
    from vlsae.representations import Store
    from vlsae.runs import Measure, Run

logger = logging.getLogger(__name__)

#: Training rows of a stream that the names of concepts are made from, at most.
ROWS_FOR_NAMES = 50_000
#: Held-out samples below which concept recovery is not scored.
FEWEST_FOR_RECOVERY = 100


@dataclass(frozen=True)
class HeldOut:
    """Held-out rows: ``values`` by stream ``(n, d)``; where ``paired``, row i of each stream is one pair.

    ``samples`` is the store's table of the samples that the vision (else only) stream's rows belong to; ``joint`` says
    that the rows are the model's joint embedding.
    """

    values: dict[str, Tensor]
    samples: Any
    paired: bool
    joint: bool = False

    def mapped(self, encode: Callable[[Tensor, str], Tensor]) -> HeldOut:
        """Return the same rows seen through an encoder of ``(values, stream)``."""
        return replace(self, joint=False, values={stream: encode(x, stream).cpu() for stream, x in self.values.items()})


def rows(store: Store, sites: Mapping[str, str], *, paired: bool, limit: int, seed: int) -> HeldOut:
    """Return at most ``limit`` rows a stream of the validation split, the same for every run of a seed."""
    generator = np.random.default_rng(seed)
    if len(sites) > 1 and paired:
        chosen = _some(_one_caption_each(store), limit, generator)
        by_stream = {"vision": chosen[:, 0], "language": chosen[:, 1]}
    else:
        by_stream = {stream: _some(store.split_rows(stream, "validation"), limit, generator) for stream in sites}
    values = {stream: store.read(sites[stream], numbers) for stream, numbers in by_stream.items()}
    first = next(iter(by_stream))
    owner = store.row_table(first)["sample"].to_numpy()[by_stream[first]]
    joint = all(site.endswith(".embedding") for site in sites.values())
    return HeldOut(values, store.samples.take(owner), paired and len(sites) > 1, joint)


def measure(dictionary: Any, held_out: HeldOut, config: Mapping[str, Any], run: Run) -> dict[str, Measure]:
    """Return every number of the summary that is measured on held-out rows."""
    from vlsae.dictionaries.evaluation import evaluate
    from vlsae.dictionaries.evaluation_cost import evaluation_cost

    settings, seed = config["train"]["evaluate"], config["seed"]
    factors = _factors(held_out, config)
    cost = evaluation_cost(
        dictionary,
        held_out.values,
        factors=0 if factors is None else len(factors.names),
        resamples=settings["bootstrap"],
    )
    logger.info("scoring on held-out rows: %s", cost)
    common: dict[str, Any] = {"seed": seed, "bootstrap": settings["bootstrap"]}
    metrics = dict(evaluate(dictionary, held_out.values, paired=held_out.paired, joint=held_out.joint, **common))
    return metrics if factors is None else metrics | _of_factors(dictionary, held_out, factors, config, run)


def loss_in_model(
    dictionary: Any, model: Any, store: Store, sites: Mapping[str, str], config: Mapping[str, Any]
) -> dict[str, Measure]:
    """Return the loss recovered with one site's tokens reconstructed within a language model; else nothing."""
    from vlsae.dictionaries.loss_recovered import token_recovery

    ((stream, site),) = sites.items()
    if site.endswith(".embedding"):
        return {}
    mean = store.read(site, store.split_rows(stream, "validation")).mean(dim=0)
    common = {"seed": config["seed"], "resamples": config["train"]["evaluate"]["bootstrap"]}
    return token_recovery(model, site, dictionary, store.row_table(stream), store.samples, mean, **common)


def name_concepts(
    dictionary: Any, store: Store, sites: Mapping[str, str], auxiliary: Any, config: Mapping[str, Any], run: Run
) -> dict[str, Measure]:
    """Write ``tables/names.csv``, the concepts' names tested on held-out rows; return the numbers of the summary."""
    from vlsae.config import target_class
    from vlsae.probes.base import Representations, TrainedDictionary
    from vlsae.probes.naming import Naming
    from vlsae.probes.targets import Targets
    from vlsae.runs.results import TABLES, write_table

    settings, seed = config["train"]["evaluate"], config["seed"]
    if not settings["names"]:
        return {}
    rows = {
        site: _rows_for_names(store, site, stream, settings["rows"], np.random.default_rng(seed))
        for stream, site in sites.items()
    }
    trained = TrainedDictionary(dictionary, sites, auxiliary)
    representations = Representations(rows, store.samples, seed, dictionary=trained)
    factors_of = getattr(target_class(config["dataset"]), "factors", None)
    targets = Targets(store.samples, None if factors_of is None else factors_of(store.samples))
    result = Naming().measure(representations, targets)
    for note in result.notes:
        logger.warning(note)
    for table in result.tables:
        if table.name == "names":
            write_table(run.path / TABLES, table.name, table.columns, table.rows)
    return dict(result.metrics)


def _rows_for_names(store: Store, site: str, stream: str, held_out: int, generator: np.random.Generator) -> Any:
    from vlsae.probes.base import SiteRows

    counts = {"train": ROWS_FOR_NAMES, "validation": held_out}
    parts = [_some(store.split_rows(stream, split), count, generator) for split, count in counts.items()]
    chosen = np.sort(np.concatenate(parts))
    table = store.row_table(stream).take(chosen)
    return SiteRows(store.sites[site].width, table, lambda: store.read(site, chosen))


def write_concepts(
    dictionary: Any, store: Store, sites: Mapping[str, str], auxiliary: Any, items: int, run: Run
) -> None:
    """Write ``concepts.jsonl``: each concept's statistics and most activating items over the whole store."""
    from vlsae.dictionaries.concepts import top_items
    from vlsae.dictionaries.naming import has_names, read_names

    names = read_names(run.path) if has_names(run.path) else {}
    encode = None if auxiliary is None else auxiliary.encode
    with (run.path / "concepts.jsonl").open("w", encoding="utf-8") as file:
        for concept in top_items(dictionary, store, sites, items=items, encode=encode):
            if concept["id"] in names:
                concept["name"] = names[concept["id"]].name
            file.write(json.dumps(concept, ensure_ascii=False, allow_nan=False) + "\n")


def _factors(held_out: HeldOut, config: Mapping[str, Any]) -> Factors | None:
    """Return the world's own factors of held-out pairs, None where the dataset knows none or pairs are few."""
    from vlsae.config import target_class
    from vlsae.dictionaries.factor_scores import Factors

    dataset = target_class(config["dataset"])
    factors_of = getattr(dataset, "factors", None)
    if factors_of is None or not held_out.paired or held_out.samples.num_rows < FEWEST_FOR_RECOVERY:
        return None
    return Factors(*factors_of(held_out.samples))._replace(only=getattr(dataset, "one_stream", {}))


def _of_factors(
    dictionary: Any, held_out: HeldOut, factors: Factors, config: Mapping[str, Any], run: Run
) -> dict[str, Measure]:
    """Score how single concepts relate to the world's own factors, and write every factor's scores."""
    from vlsae.dictionaries.factor_evaluation import evaluate_factors
    from vlsae.runs.results import TABLES, write_table

    found = evaluate_factors(
        dictionary,
        held_out.values,
        factors,
        seed=config["seed"],
        resamples=config["train"]["evaluate"]["bootstrap"],
    )
    found.recovery.write(run.path / TABLES)
    for table in found.tables:
        write_table(run.path / TABLES, table.name, table.columns, table.rows)
    return found.metrics


def write_token_marks(dictionary: Any, store: Store, sites: Mapping[str, str], run: Run) -> None:
    """Write ``concept_tokens.jsonl``: which tokens and patches activate the concepts that the report shows."""
    from vlsae.dictionaries.naming import has_names, read_names
    from vlsae.dictionaries.token_marks import token_marks
    from vlsae.reporting.concept_table import most_informative
    from vlsae.runs.files import load_json

    names = read_names(run.path) if has_names(run.path) else {}
    file = store.path.parent / "tokens.json"
    texts = load_json(file.read_text(encoding="utf-8")) if file.is_file() else {}
    pieces = {int(number): text for number, text in texts.items()}
    file = store.path.parent / "framing.json"
    seen = {"framing": load_json(file.read_text(encoding="utf-8"))} if file.is_file() else {}
    with (run.path / "concept_tokens.jsonl").open("w", encoding="utf-8") as out:
        for marks in token_marks(dictionary, store, sites, most_informative(run.path, names), pieces):
            out.write(json.dumps({**marks, **seen}, ensure_ascii=False, allow_nan=False) + "\n")


def _one_caption_each(store: Store) -> np.ndarray:
    """Return held-out pairs with one caption an image, so that no image counts twice."""
    splits = np.asarray(store.row_table("vision")["split"].to_pylist())
    pairs = store.pairs[splits[store.pairs[:, 0]] == "validation"]
    _, first = np.unique(pairs[:, 0], return_index=True)
    return pairs[np.sort(first)]


def _some(rows: np.ndarray, limit: int, generator: np.random.Generator) -> np.ndarray:
    if len(rows) <= limit:
        return rows
    return rows[np.sort(generator.choice(len(rows), limit, replace=False))]
