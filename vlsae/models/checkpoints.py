"""Where a model's weights come from: one word in, the files on this machine out. Nothing is loaded here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlsae.errors import MissingFile, UserError, nearest, unknown
from vlsae.models import hub, open_clip_tables
from vlsae.runs.files import sha256

PREFIXES = ("path", "open_clip", "hub")

#: The configuration of a folder in open_clip's own format.
CONFIG_NAME = "open_clip_config.json"

#: Weight files of such a folder, in the order in which open_clip itself prefers them.
WEIGHT_NAMES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")

#: Files that may make up a tokenizer.
TOKENIZER_NAMES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)


@dataclass(frozen=True)
class Checkpoint:
    """A model's files: ``config`` and ``preprocess`` are open_clip's, ``folder`` is one in its own format.

    A checkpoint without a folder is an ``architecture`` that open_clip describes and one file of weights.
    """

    name: str
    config: Mapping[str, Any]
    weights: Path
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    architecture: str | None = None

    @property
    def tokenizer_files(self) -> list[Path]:
        """The tokenizer's files, none where the model uses open_clip's built-in one."""
        if self.folder is None:
            return []
        return [path for name in TOKENIZER_NAMES if (path := self.folder / name).is_file()]

    def digest(self, **settings: Any) -> str:
        """Return the SHA-256 of weights, architecture, tokenizer, preprocessing and the given settings."""
        description = {
            "config": dict(self.config),
            "preprocess": dict(self.preprocess),
            "settings": settings,
            "weights": file_digest(self.weights),
            "tokenizer": {path.name: file_digest(path) for path in self.tokenizer_files},
        }
        text = json.dumps(description, sort_keys=True, separators=(",", ":"), default=list)
        return hashlib.sha256(text.encode()).hexdigest()


def resolve(checkpoint: str, architecture: str | None = None, bundled: Path | None = None) -> Checkpoint:
    """Return the files behind ``bundled``, ``path:…``, ``open_clip:ARCH/TAG``, ``hub:ORG/NAME@REV`` or a bare name.

    ``architecture`` names the architecture of a lone weight file; ``bundled`` is the family's own folder.

    Raises:
        MissingFile: a local file or folder is missing.
        UserError: the name means nothing or two things, the weights cannot be reached, or the folder is not whole.
    """
    kind, rest = parse(checkpoint)
    path = Path(rest).expanduser()
    if kind == "path" and path.is_file():
        return _file(checkpoint, path, architecture)
    if architecture is not None:
        raise UserError(
            f"model.architecture={architecture} goes with a lone weight file, and {checkpoint!r} says its own.",
            "Leave model.architecture out.",
        )
    if kind == "bundled":
        return _bundled(bundled)
    if kind == "path":
        return _folder(checkpoint, path)
    if kind == "open_clip":
        return _listed(checkpoint, *_pair(rest))
    return _folder(checkpoint, hub.snapshot(rest, (CONFIG_NAME, *TOKENIZER_NAMES), WEIGHT_NAMES))


def parse(checkpoint: str, prefixes: Sequence[str] = PREFIXES) -> tuple[str, str]:
    """Return a checkpoint's kind (``bundled``, ``path``, ``open_clip``, ``hub``) and what stands behind the prefix.

    ``prefixes`` are those that the family knows. Without one: an existing path, then a pair that open_clip lists, then
    the Hub; an error when two match.
    """
    listed = "open_clip" in prefixes
    if checkpoint == "bundled":
        return "bundled", ""
    if not checkpoint.strip():
        raise _meaningless(checkpoint, prefixes)
    prefix, colon, rest = checkpoint.partition(":")
    if colon and prefix in prefixes:
        if not rest:
            raise UserError(f"model.checkpoint={checkpoint} names nothing behind its prefix.", f"Write {prefix}:NAME.")
        return prefix, rest
    matches = {}
    if Path(checkpoint).expanduser().exists():
        matches["path"] = "a file or folder"
    first, _, second = checkpoint.partition("/")
    if listed and second and open_clip_tables.is_listed(first, second):
        matches["open_clip"] = "a pair that open_clip lists"
    if hub.is_cached(checkpoint):
        matches["hub"] = "a Hub repository in the cache"
    if len(matches) > 1:
        ways = " or ".join(f"{kind}:{checkpoint}" for kind in matches)
        raise UserError(f"model.checkpoint={checkpoint} could mean {' and '.join(matches.values())}.", f"Write {ways}.")
    if matches:
        return next(iter(matches)), checkpoint
    if listed and first in open_clip_tables.architectures():
        raise _unknown_tag(first, second)
    if hub.is_name(checkpoint):
        return "hub", checkpoint
    raise _meaningless(checkpoint, prefixes)


@lru_cache(maxsize=256)
def _digest_of(path: Path, size: int, modified: int) -> str:
    return sha256(path)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file; computed once for a file that does not change while the process runs."""
    status = path.stat()
    return _digest_of(path, status.st_size, status.st_mtime_ns)


def read_config(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return ``model_cfg`` and ``preprocess_cfg`` of an ``open_clip_config.json``.

    Raises:
        UserError: it is not JSON, a part is missing, or it asks for the code of others to be run.
    """
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}).", "Copy the file again from its source.") from error
    config = whole.get("model_cfg") if isinstance(whole, dict) else None
    needed = ("embed_dim", "vision_cfg", "text_cfg")
    missing = [name for name in needed if not isinstance(config, dict) or name not in config]
    if config is None or missing:
        raise UserError(
            f"{path} lacks {', '.join('model_cfg.' + name for name in missing)}.",
            "A folder in open_clip's own format is written by its save_for_hf.",
        )
    # Tokenizer arguments of a checkpoint go to AutoTokenizer as they are: a file from the Hub must not switch this on.
    if (config["text_cfg"].get("tokenizer_kwargs") or {}).get("trust_remote_code"):
        raise UserError(
            f"{path} asks to run code that comes with the checkpoint (tokenizer_kwargs.trust_remote_code).",
            "Remove that setting; the tokenizer's files must be enough.",
        )
    return config, dict(whole.get("preprocess_cfg") or {})


def _bundled(folder: Path | None) -> Checkpoint:
    if folder is None or not folder.is_dir():
        raise MissingFile(
            "The bundled weights are not in this installation.", "Reinstall vlsae, or make them anew by `make bundled`."
        )
    return _folder("bundled", folder)


def _file(name: str, path: Path, architecture: str | None) -> Checkpoint:
    if path.suffix not in WEIGHT_SUFFIXES:
        raise UserError(
            f"model.checkpoint={name} ends in {path.suffix or 'nothing'!r}.",
            f"A weight file ends in one of {', '.join(WEIGHT_SUFFIXES)}.",
        )
    if architecture is None:
        raise UserError(
            f"{path} holds weights alone, which do not say their architecture.",
            "Add model.architecture, for example model.architecture=ViT-B-32.",
        )
    config = open_clip_tables.architecture_config(architecture)
    return Checkpoint(name, config, path, architecture=architecture)


def require_place(name: str, place: Path) -> None:
    """Raise ``MissingFile`` with the nearest names beside it where a checkpoint's file or folder does not exist."""
    if place.exists():
        return
    siblings = [entry.name for entry in place.parent.iterdir()] if place.parent.is_dir() else []
    close = [str(place.parent / sibling) for sibling in nearest(place.name, siblings)]
    raise MissingFile(
        f"model.checkpoint={name}: {place} does not exist.",
        f"Did you mean {' or '.join(close)}?" if close else None,
    )


def _folder(name: str, folder: Path) -> Checkpoint:
    require_place(name, folder)
    if not (folder / CONFIG_NAME).is_file():
        raise MissingFile(
            f"{folder} holds no {CONFIG_NAME}.",
            f"Give a folder in open_clip's own format ({CONFIG_NAME}, {WEIGHT_NAMES[0]}), or one weight file and "
            "model.architecture.",
        )
    config, preprocess = read_config(folder / CONFIG_NAME)
    return Checkpoint(name, config, _weights(folder), preprocess, folder)


def _weights(folder: Path) -> Path:
    for name in WEIGHT_NAMES:
        if (folder / name).is_file():
            return folder / name
    others = sorted(path.name for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES[:3] and path.is_file())
    if len(others) == 1:
        return folder / others[0]
    if others:
        raise UserError(f"{folder} holds several weight files: {', '.join(others)}.", f"Name one {WEIGHT_NAMES[0]}.")
    raise MissingFile(f"{folder} holds no weights.", f"open_clip's own name for them is {WEIGHT_NAMES[0]}.")


def _pair(rest: str) -> tuple[str, str]:
    architecture, slash, tag = rest.partition("/")
    if not slash or not tag:
        open_clip_tables.architecture_config(architecture)
        raise _unknown_tag(architecture, tag)
    return architecture, tag


def _listed(name: str, architecture: str, tag: str) -> Checkpoint:
    config = open_clip_tables.architecture_config(architecture)
    source = open_clip_tables.tag_config(architecture, tag)
    # The plain architectures use GELU; a tag says when its weights were trained with QuickGELU, and is believed.
    config["quick_gelu"] = bool(config.get("quick_gelu") or source.get("quick_gelu"))
    preprocess: dict[str, Any] = {
        key: source[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in source
    }
    weights = hub.listed_weights(f"open_clip:{architecture}/{tag}", source)
    return Checkpoint(name, config, weights, preprocess, architecture=architecture)


def _unknown_tag(architecture: str, tag: str) -> UserError:
    known: Sequence[str] = open_clip_tables.tags(architecture)
    if tag:
        return unknown(f"open_clip tag of {architecture}", tag, known)
    return UserError(
        f"{architecture} is an architecture, not a checkpoint.",
        f"Write open_clip:{architecture}/TAG with one of {', '.join(known) or 'no listed tags'}.",
    )


def _meaningless(checkpoint: str, prefixes: Sequence[str]) -> UserError:
    architectures = open_clip_tables.architectures() if "open_clip" in prefixes else []
    candidates = ["bundled", *(f"{prefix}:" for prefix in prefixes), *architectures]
    close = nearest(checkpoint.split("/", 1)[0], candidates)
    if "/" in checkpoint or checkpoint.startswith((".", "~")):
        error: type[UserError] = MissingFile
        message = f"model.checkpoint={checkpoint} is no existing path."
    else:
        error, message = UserError, f"model.checkpoint={checkpoint} means nothing."
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    forms = {"path": "path:…", "open_clip": "open_clip:ARCH/TAG", "hub": "hub:ORG/NAME@REV"}
    ways = ["bundled", *(forms[prefix] for prefix in prefixes)]
    return error(message, f"{hint}Write {', '.join(ways[:-1])} or {ways[-1]}.")
