"""A model in transformers' own format: a folder of configuration, weights and tokenizer. Nothing is loaded here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlsae.errors import MissingFile, UserError
from vlsae.models import hub
from vlsae.models.checkpoints import TOKENIZER_NAMES, file_digest, parse, require_place

CONFIG_NAME = "config.json"

#: Where such weights come from; without a prefix an existing path, then the Hub.
PREFIXES = ("path", "hub")

#: What transformers calls the classes of models that are loaded here, and what they are.
CAUSAL, IMAGE_TEXT = "AutoModelForCausalLM", "AutoModelForImageTextToText"
KINDS = {CAUSAL: "a causal language model", IMAGE_TEXT: "a vision-language model (image-text-to-text)"}

#: Names of weights, whole or in shards, in the order in which they are preferred.
WEIGHT_NAMES = ("model.safetensors", "model-*.safetensors", "pytorch_model.bin", "pytorch_model-*.bin")

#: Small files that change what a model does.
SMALL_NAMES = (
    CONFIG_NAME,
    "generation_config.json",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template.jinja",
    "chat_template.json",
    *TOKENIZER_NAMES,
)

#: The files of an adapter of peft.
ADAPTER_NAMES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class ModelFolder:
    """A model's files: its configuration as it is written, and its weights, which may lie in several shards."""

    name: str
    folder: Path
    config: Mapping[str, Any]
    weights: tuple[Path, ...]

    @property
    def is_safe(self) -> bool:
        """Whether the weights are safetensors."""
        return self.weights[0].suffix == ".safetensors"

    def digest(self, *more: Path, **settings: Any) -> str:
        """Return the SHA-256 of weights, small files and the given settings, and of ``more`` files."""
        small = [path for name in SMALL_NAMES if (path := self.folder / name).is_file()]
        description = {
            "files": {path.name: file_digest(path) for path in (*self.weights, *small)},
            "more": {path.name: file_digest(path) for path in more},
            "settings": settings,
        }
        text = json.dumps(description, sort_keys=True, separators=(",", ":"), default=list)
        return hashlib.sha256(text.encode()).hexdigest()


def resolve_folder(checkpoint: str, bundled: Path | None = None) -> ModelFolder:
    """Return the files behind ``bundled``, ``path:FOLDER``, ``hub:ORG/NAME@REV`` or a bare name.

    Raises:
        MissingFile: the folder, its configuration or its weights are missing.
        UserError: the name means nothing or two things, the weights cannot be reached, or the folder is not whole.
    """
    kind, rest = parse(checkpoint, PREFIXES)
    if kind == "hub":
        return _folder(checkpoint, hub.snapshot(rest, SMALL_NAMES, WEIGHT_NAMES))
    if kind == "path":
        return _folder(checkpoint, Path(rest).expanduser())
    if bundled is None or not bundled.is_dir():
        raise MissingFile(
            "The bundled weights are not in this installation.", "Reinstall vlsae, or make them anew by `make bundled`."
        )
    return _folder("bundled", bundled)


def adapter_files(folder: Path) -> list[Path]:
    """Return the files of a peft adapter's folder.

    Raises:
        MissingFile: one of them is missing; weights that are not safetensors do not count.
    """
    missing = [name for name in ADAPTER_NAMES if not (folder / name).is_file()]
    if missing:
        raise MissingFile(
            f"model.adapter={folder} holds no {missing[0]}.", f"A folder of peft's holds {' and '.join(ADAPTER_NAMES)}."
        )
    return [folder / name for name in ADAPTER_NAMES]


def _folder(name: str, folder: Path) -> ModelFolder:
    require_place(name, folder)
    if not (folder / CONFIG_NAME).is_file():
        raise MissingFile(
            f"{folder} holds no {CONFIG_NAME}.",
            "Give the folder that save_pretrained of transformers wrote: configuration, weights and tokenizer.",
        )
    return ModelFolder(name, folder, read_json(folder / CONFIG_NAME), _weights(folder))


def read_json(path: Path) -> dict[str, Any]:
    """Return a configuration file's object; ``UserError`` where it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}).", "Copy the file again from its source.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object.", "Copy the file again from its source.")
    return content


def _weights(folder: Path) -> tuple[Path, ...]:
    for name in WEIGHT_NAMES:
        found = sorted(folder.glob(name))
        if found:
            _refuse_missing_shards(folder, found)
            return tuple(found)
    raise MissingFile(f"{folder} holds no weights.", f"Looked for {', '.join(WEIGHT_NAMES)}.")


def _refuse_missing_shards(folder: Path, found: list[Path]) -> None:
    index = folder / f"{'model.safetensors' if found[0].suffix == '.safetensors' else 'pytorch_model.bin'}.index.json"
    if len(found) == 1 or not index.is_file():
        return
    listed = {str(name) for name in read_json(index).get("weight_map", {}).values()}
    missing = sorted(listed - {path.name for path in found})
    if missing:
        raise MissingFile(f"{folder} lacks {missing[0]}, a shard of its weights.", "Copy or download it again.")
