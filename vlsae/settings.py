"""The settings of the stages: type and bounds of each, checked before anything is loaded.

These belong to no class; a class's own are checked against its signature (``signatures.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from vlsae.bounds import OneOf, Range, conform

Count = Annotated[int, Range(1, None)]
Whole = Annotated[int, Range(0, None)]
Share = Annotated[float, Range(0, 1)]
Positive = Annotated[float, Range(1e-12, None)]
Sites = str | int | list[str | int]

SETTINGS: dict[str, Any] = {
    "stage": str,
    "name": str | None,
    "seed": Whole,
    "limit": Count | None,
    "run": str | None,
    "runs_dir": str,
    "upstream": Annotated[str, OneOf("auto", "require")],
    "force": bool,
    "verify": bool,
    "assume_yes": bool,
    "split.seed": Whole,
    "split.validation": Share,
    "split.test": Share,
    "hardware.device": str,
    "hardware.dtype": Annotated[str, OneOf("float32", "bfloat16", "float16")],
    "hardware.workers": Whole,
    "hardware.threads": Count | None,
    "hardware.ranks": Count | None,
    "launcher.jobs": Annotated[int, Range(-1, None)],
    "extract.sites": Sites,
    "extract.tokens.pooling": Annotated[str, OneOf("default", "cls", "mean", "eot", "tokens")],
    "extract.tokens.include": Annotated[str, OneOf("content", "all")],
    "extract.dtype": Annotated[str, OneOf("bfloat16", "float16", "float32")],
    "extract.batch_size": Count,
    "extract.shard_samples": Count,
    "extract.thumbnails": Whole,
    "train.source": Annotated[str, OneOf("auto", "representations", "samples")],
    "train.sites": Sites,
    "train.epochs": Count,
    "train.batch_size": Count,
    "train.lr": Positive,
    "train.schedule": Annotated[str, OneOf("fixed", "reference", "cosine")],
    "train.warmup_epochs": Whole,
    "train.shuffle": bool,
    "train.patience": Count | None,
    "train.clip": Positive | None,
    "train.unpaired": bool,
    "train.checkpoint_every": Count,
    "train.log_every": Count,
    "train.auxiliary": Annotated[str, OneOf("auto", "always", "never")],
    "train.auxiliary_autoencoder.width": Count | None,
    "train.auxiliary_autoencoder.similarity": Annotated[str, OneOf("cosine", "dot")],
    "train.auxiliary_autoencoder.temperature": Positive,
    "train.auxiliary_autoencoder.lr": Positive,
    "train.auxiliary_autoencoder.epochs": Count,
    "train.auxiliary_autoencoder.batch_size": Count,
    "train.evaluate.rows": Count,
    "train.evaluate.bootstrap": Whole,
    "train.evaluate.concepts": Whole,
}


def check(config: Mapping[str, Any]) -> None:
    """Check the stages' own settings in a plain config; ``UserError`` names the setting, its value and its rule."""
    for path, annotation in SETTINGS.items():
        found, value = lookup(config, path)
        if found:
            conform(path, value, annotation)


def lookup(config: Mapping[str, Any], path: str) -> tuple[bool, Any]:
    """Return whether a dotted path exists in a plain config, and its value."""
    node: Any = config
    for part in path.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return False, None
        node = node[part]
    return True, node
