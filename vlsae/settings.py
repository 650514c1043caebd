"""The settings of the stages: type and bounds of each, checked before anything is loaded.

These belong to no class; a class's own are checked against its signature (``signatures.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from vlsae.bounds import Matches, OneOf, Range, conform
from vlsae.errors import UserError

Count = Annotated[int, Range(1, None)]
Whole = Annotated[int, Range(0, None)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Share = Annotated[float, Range(0, 1)]
Positive = Annotated[float, Range(1e-12, None)]
Word = Annotated[str, Matches(r"(?s).*\S.*", "a text that is not empty")]
Sites = Word | int | list[Word | int]

SETTINGS: dict[str, Any] = {
    "stage": str,
    "name": str | None,
    "seed": Seed,
    "limit": Count | None,
    "run": Word | None,
    "dictionary": Word | dict[str, Any] | None,
    "runs_dir": str,
    "upstream": Annotated[str, OneOf("auto", "require")],
    "force": bool,
    "verify": bool,
    "assume_yes": bool,
    "split.seed": Seed,
    "split.validation": Share,
    "split.test": Share,
    "hardware.device": Annotated[str, Matches(r"auto|cpu|mps|cuda(:\d{1,3})?", "auto | cpu | mps | cuda | cuda:N")],
    "hardware.dtype": Annotated[str, OneOf("float32", "bfloat16", "float16")],
    "hardware.quantisation": Annotated[str, OneOf("none", "8bit", "4bit")],
    # More than any machine has cores: what is meant for another setting would end the machine.
    "hardware.workers": Annotated[int, Range(0, 1024)],
    "hardware.threads": Annotated[int, Range(1, 1024)] | None,
    "hardware.ranks": Annotated[int, Range(1, 1024)] | None,
    "launcher.jobs": Annotated[int, OneOf(-1)] | Count,
    "launcher.cluster": Annotated[str, OneOf("slurm", "local")],
    "launcher.partition": Word | None,
    "launcher.account": Word | None,
    "launcher.qos": Word | None,
    "launcher.time": Count,
    "launcher.requeues": Whole,
    "launcher.gpus": Annotated[float, Range(0, None)],
    "launcher.cpus": Annotated[float, Range(0, None)],
    "launcher.memory_gb": Positive,
    "launcher.array": Count,
    "launcher.address": Word | None,
    "extract.sites": Sites,
    "extract.tokens.pooling": Annotated[str, OneOf("default", "cls", "mean", "last", "eot", "tokens")],
    "extract.tokens.include": Annotated[str, OneOf("content", "answer", "all")],
    "extract.dtype": Annotated[str, OneOf("bfloat16", "float16", "float32")],
    "extract.batch_size": Count,
    "extract.shard_samples": Count,
    "extract.thumbnails": Whole,
    "train.source": Annotated[str, OneOf("auto", "representations", "live", "samples")],
    "train.sites": Sites,
    "train.epochs": Count,
    "train.batch_size": Count,
    "train.lr": Positive,
    "train.schedule": Annotated[str, OneOf("fixed", "reference", "cosine")],
    "train.warmup_epochs": Whole,
    "train.shuffle": bool,
    "train.order_seed": Seed | None,
    "train.tune": Word,
    "train.patience": Count | None,
    "train.clip": Positive | None,
    "train.unpaired": bool,
    "train.checkpoint_every": Count,
    "train.log_every": Count,
    "train.keep": Annotated[int, OneOf(0)] | Annotated[int, Range(2, None)],
    "train.auxiliary": Annotated[str, OneOf("auto", "always", "never")],
    "train.auxiliary_autoencoder.width": Count | None,
    "train.auxiliary_autoencoder.similarity": Annotated[str, OneOf("cosine", "dot")],
    "train.auxiliary_autoencoder.temperature": Positive,
    "train.auxiliary_autoencoder.lr": Positive,
    "train.auxiliary_autoencoder.epochs": Count,
    "train.auxiliary_autoencoder.batch_size": Count,
    "train.live.window": Count,
    "train.live.kept": Count,
    "train.evaluate.rows": Count,
    "train.evaluate.bootstrap": Annotated[int, Range(2, None)],
    "train.evaluate.concepts": Count,
    "train.evaluate.names": bool,
    "aqi.source": Annotated[str, OneOf("store", "live")],
    "aqi.stream": Annotated[str, OneOf("auto", "vision", "language", "joint")],
    "aqi.label": Word | None,
    "aqi.classes": list[Word | int | bool],
    "aqi.strata": Annotated[str, OneOf("auto", "none")] | list[Word],
    "aqi.rows.min_per_cell": Annotated[int, Range(2, None)],
    "aqi.rows.max_per_cell": Annotated[int, Range(2, None)] | None,
    "aqi.rows.seed": Seed,
    "aqi.rows.on_unknown_label": Annotated[str, OneOf("error", "drop")],
    "aqi.rows.on_null_label": Annotated[str, OneOf("error", "drop")],
    "aqi.rows.on_duplicate": Annotated[str, OneOf("first", "keep", "error")],
    "aqi.rows.on_conflict": Annotated[str, OneOf("error", "drop_both")],
    "aqi.blocks": Annotated[int, Range(5, None)],
    "aqi.folds": Annotated[int, Range(2, 20)],
    "aqi.permutations": Whole,
    "aqi.pairwise": Annotated[str, OneOf("auto", "all", "headline", "none")],
    "aqi.composites.names": list[
        Annotated[
            str,
            OneOf("paper_sum", "paper_product", "code_dbs_dunn", "code_sil_chi", "code_sil_xbi", "code_chi_xbi"),
        ]
    ],
    "aqi.composites.lambda": float,
    "aqi.composites.gamma": float,
    "aqi.composites.chi_max": Positive | None,
    "aqi.length_match": bool,
    "aqi.learned.loss": Annotated[str, OneOf("fisher", "hinge_push", "hinge_push_pull")] | None,
    "aqi.learned.map": Annotated[str, OneOf("softmax", "sparsemax", "entmax15")],
    "aqi.learned.rows": Annotated[int, Range(10, None)],
    "aqi.projection": Annotated[str, OneOf("pca", "umap")],
    "aqi.live_rows": Whole,
    "aqi.memory_gb": Positive,
    "aqi.compare": tuple[Word, Word] | None,
    "image": Word | None,
    "text": Word | None,
    "answers": Word | None,
    "enhance.names": Word | None,
    "enhance.resamples": Annotated[int, Range(2, None)],
    "enhance.split.seed": Seed,
    "enhance.split.validation": Share,
    "enhance.split.test": Share,
}

#: Settings at the top that only `vlsae enhance` has.
OF_ENHANCE = ("image", "text", "answers")

#: Settings that only some launchers and hardware have.
OPTIONAL = ("launcher.", "hardware.ranks", "hardware.quantisation", "dictionary")


def check(config: Mapping[str, Any]) -> None:
    """Check the stages' own settings in a plain config; ``UserError`` names the setting, its value and its rule."""
    for path, annotation in SETTINGS.items():
        found, value = lookup(config, path)
        if found:
            conform(path, value, annotation)
    for node in ("split", "enhance.split"):
        shares = [lookup(config, f"{node}.{name}")[1] for name in ("validation", "test")]
        if None not in shares and sum(shares) > 1 + 1e-9:
            raise UserError(
                f"{node}.validation={shares[0]} and {node}.test={shares[1]} are more than all there is.",
                "Use shares that add up to at most 1; what is left over is for training.",
            )


def check_whole(config: Mapping[str, Any]) -> None:
    """Raise ``UserError`` where an override or a file took away a setting or a part that the stage needs."""
    trains = config.get("stage") not in ("extract", "aqi")
    for path in SETTINGS:
        needed = not path.startswith(OPTIONAL) and (trains or not path.startswith("train."))
        if path.startswith("aqi."):
            needed = config.get("stage") == "aqi"
        if path in OF_ENHANCE or path.startswith("enhance."):
            needed = config.get("stage") == "enhance"
        if needed and not lookup(config, path)[0]:
            raise UserError(f"The configuration lacks {path}.", "Leave out the override or the file that removes it.")
    own = {"probe": ["probe"], "enhance": ["task"]}.get(str(config.get("stage")), [])
    for part in ("model", "dataset", *(["objective"] if trains else []), *own):
        node = config.get(part)
        if not isinstance(node, Mapping) or "_target_" not in node:
            raise UserError(f"The configuration's {part} names no class.", "Choose one, or give its YAML a _target_.")


def lookup(config: Mapping[str, Any], path: str) -> tuple[bool, Any]:
    """Return whether a dotted path exists in a plain config, and its value."""
    node: Any = config
    for part in path.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return False, None
        node = node[part]
    return True, node
