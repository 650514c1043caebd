"""From an objective's node and a store's rows to a dictionary: trained by the loop, or fitted in one go."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vlsae.errors import UserError
from vlsae.stages.fitting import fit_in_run, seeded, training_metrics
from vlsae.stages.hardware import device_of

if TYPE_CHECKING:
    import numpy as np

    from vlsae.loggers import Logger
    from vlsae.representations import Reader, Store
    from vlsae.runs import Measure, Run
    from vlsae.training import FitResult

logger = logging.getLogger(__name__)


def made(
    config: Mapping[str, Any], store: Store, readers: Mapping[str, Reader], width: int
) -> tuple[Any, dict[str, Reader]]:
    """Return the objective or fit of a configuration, and the readers with whatever else it reads: labels.

    Of a class that takes them, ``classes`` are the values of the samples' label, and ``model`` is the rows' own.
    """
    from vlsae.config import build, target_class
    from vlsae.signatures import parameters_of

    node, ready = config["objective"], dict(readers)
    taken = parameters_of(target_class(node))
    runtime: dict[str, Any] = {"width": width}
    if "classes" in taken:
        runtime["classes"], numbers = classes_of(store, node["label"])
        ready = {split: reader.labelled(numbers) for split, reader in readers.items()}
    if "model" in taken:
        runtime["model"] = build(config["model"])
    return seeded(config["seed"], lambda: build(node, **runtime)), ready


def learned(
    objective: Any, readers: Mapping[str, Reader], config: Mapping[str, Any], run: Run, second: Logger
) -> tuple[Any, dict[str, Measure]]:
    """Return the dictionary that an objective or a fit makes of the readers' rows, and what to say of the making."""
    from vlsae.dictionaries.fit import Fit
    from vlsae.runs import Measure

    if isinstance(objective, Fit):
        start = time.monotonic()
        logger.info("fitting to %d rows", readers["train"].n_rows)
        dictionary = seeded(config["seed"], lambda: objective.fit(readers["train"]))
        seconds = Measure(time.monotonic() - start, "s")
        return dictionary.to(device_of(config)), {"fit_time": seconds, **size_metrics(dictionary, readers["train"])}
    result = fit_in_run(objective, readers, config, run, second)
    dictionary = objective.product().eval()
    return dictionary, training_metrics(result) | size_metrics(dictionary, readers["train"], result)


def size_metrics(dictionary: Any, reader: Reader, result: FitResult | None = None) -> dict[str, Measure]:
    """Return how many parameters a dictionary has and how many rows of all streams it saw while it was made."""
    from vlsae.runs import Measure

    parameters = sum(one.numel() for one in dictionary.parameters())
    epochs = 1.0 if result is None else result.steps / max(1, reader.steps_per_epoch)
    streams = len(reader.sites)
    return {
        "parameters": Measure(parameters, "numbers"),
        "rows_seen": Measure(round(epochs * reader.n_rows) * streams, "rows"),
    }


def holds_tokens(store: Store, sites: Mapping[str, str]) -> bool:
    """Tell whether rows of some site are tokens, which have no pairs."""
    return any("role" in store.shard_rows(store.sites[site].stream, 0).column_names for site in sites.values())


def check_rows(config: Mapping[str, Any], tokens: bool) -> None:
    """Raise ``UserError`` where an objective learns from tokens and rows are pooled."""
    from vlsae.config import target_class

    if getattr(target_class(config["objective"]), "rows", None) == "tokens" and not tokens:
        raise UserError(
            "This objective learns from single tokens, and the rows are pooled.",
            "Use extract.tokens.pooling=tokens and a layer, such as train.sites=[language.6].",
        )


def classes_of(store: Store, label: str) -> tuple[list[str], np.ndarray]:
    """Return the values of a label and each sample's number among them, ``(samples,)``.

    Raises ``UserError`` for a label that is not there or is no class, and where a sample has none.
    """
    from vlsae.probes.targets import Targets

    target = Targets(store.samples).select([label])
    if len(target) != 1 or not target[0].classes:
        raise UserError(f"The label {label} is no class of its samples.", "Choose another: objective.label=NAME.")
    missing = ~target[0].labelled
    if missing.any():
        first = store.samples["sample_id"][int(missing.argmax())].as_py()
        raise UserError(
            f"{int(missing.sum())} samples have no label {label}, {first!r} first.", "Leave them out of the data."
        )
    return list(target[0].classes), target[0].values.astype("int64")
