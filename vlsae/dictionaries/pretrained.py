"""Saving a dictionary as ``model.safetensors`` and ``config.json``, and getting an equal one back."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from torch import nn

import vlsae
from vlsae.errors import MissingFile, UserError, unknown
from vlsae.signatures import parameters_of
from vlsae.training import weight_files

SCHEMA = 1

#: Where each kind's class lives; classes of plug-ins add themselves when they are defined.
KINDS: dict[str, str] = {
    "vl_sae": "vlsae.dictionaries.vl_sae",
    "sae_d": "vlsae.dictionaries.sae_d",
    "sae_s": "vlsae.dictionaries.sae_s",
    "top_k": "vlsae.dictionaries.top_k",
    "auxiliary": "vlsae.dictionaries.auxiliary",
    "shared_lin_2dec": "vlsae.dictionaries.shared_lin_2dec",
    "dist_1dec": "vlsae.dictionaries.dist_1dec",
    "random_enc": "vlsae.dictionaries.random_enc",
    "relu_l1": "vlsae.dictionaries.relu_l1",
    "batch_top_k": "vlsae.dictionaries.batch_top_k",
    "jump_relu": "vlsae.dictionaries.jump_relu",
    "gated": "vlsae.dictionaries.gated",
    "matryoshka": "vlsae.dictionaries.matryoshka",
    "matryoshka_k": "vlsae.dictionaries.matryoshka_k",
    "codebook": "vlsae.dictionaries.codebook_dictionary",
    "prototype": "vlsae.dictionaries.prototype_network",
    "canonical": "vlsae.dictionaries.canonical",
    "sae_v": "vlsae.dictionaries.sae_v",
    "linear_basis": "vlsae.dictionaries.linear_basis",
    "nonnegative": "vlsae.dictionaries.nonnegative",
}

_classes: dict[str, type[Pretrained]] = {}

Self = TypeVar("Self", bound="Pretrained")


class Pretrained:
    """A module that is saved with what its constructor needs."""

    #: The name of the class in files.
    kind: ClassVar[str] = ""
    #: Arguments that only give others their defaults, and so are in no file.
    not_saved: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.__dict__.get("kind"):
            _classes[cls.kind] = cls

    def settings(self) -> dict[str, Any]:
        """Return the constructor's arguments that give a module of this form: the attributes of their names."""
        return {name: getattr(self, name) for name in parameters_of(type(self)) if name not in self.not_saved}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``model.safetensors`` and ``config.json`` into a folder, each whole or not at all."""
        from vlsae.runs.files import write_json

        assert isinstance(self, nn.Module)
        folder = Path(folder)
        header = {"kind": self.kind, "schema": SCHEMA, **self.settings()}
        digest = weight_files.write(folder / "model.safetensors", self.state_dict(), header)
        write_json(folder / "config.json", {**header, "digest": digest, "version": vlsae.__version__})

    @classmethod
    def from_pretrained(cls: type[Self], folder: str | Path) -> Self:
        """Return what was saved in a folder, in the dtype it was saved in and in evaluation mode.

        Raises ``ValueError`` for another kind, a newer schema or damaged weights, ``FileNotFoundError`` for none.
        """
        config = read_config(Path(folder))
        if config["kind"] != cls.kind:
            raise UserError(
                f"{folder} holds a dictionary of kind {config['kind']!r}; {cls.__name__} reads {cls.kind!r}.",
                "Use vlsae.dictionaries.from_pretrained(folder), which returns whatever class was saved.",
            )
        return _load(cls, Path(folder), config)


def from_pretrained(folder: str | Path) -> Any:
    """Return the dictionary of whatever class was saved in a folder.

    Raises ``ValueError`` for an unknown kind, a newer schema or damaged weights, ``FileNotFoundError`` for none.
    """
    config = read_config(Path(folder))
    return _load(class_of(config["kind"]), Path(folder), config)


def class_of(kind: str) -> type[Pretrained]:
    """Return the class of a kind; ``ValueError`` where none is known."""
    if kind not in _classes and kind in KINDS:
        importlib.import_module(KINDS[kind])
    if kind not in _classes:
        raise unknown("kind of dictionary", kind, {*KINDS, *_classes})
    return _classes[kind]


def read_config(folder: Path) -> dict[str, Any]:
    """Return ``config.json`` of a saved dictionary, its kind, schema and digest checked to be there."""
    path = folder / "config.json"
    if not path.is_file():
        raise MissingFile(f"There is no {path}.", "Give the folder that save_pretrained wrote.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}.") from error
    missing = {"kind", "schema", "digest"} - set(config) if isinstance(config, dict) else {"kind"}
    if missing or not isinstance(config["kind"], str):
        raise UserError(f"{path} is no dictionary's configuration: it lacks {', '.join(sorted(missing)) or 'kind'}.")
    if config["schema"] != SCHEMA:
        raise UserError(f"{path} has schema {config['schema']!r}; this version reads {SCHEMA}.", "Update vlsae.")
    return config


def _load(cls: type[Self], folder: Path, config: dict[str, Any]) -> Self:
    path = folder / "model.safetensors"
    if not path.is_file():
        raise MissingFile(f"There is no {path}.", "Give the folder that save_pretrained wrote.")
    try:
        tensors, header, digest = weight_files.read(path)
    except weight_files.DamagedFile as error:
        raise UserError(str(error), "Save the dictionary again, or train it anew.") from error
    stated = {name: value for name, value in config.items() if name not in ("digest", "version")}
    if stated != header or config["digest"] != digest:
        raise UserError(f"{folder}: config.json does not describe model.safetensors: one of them was changed.")
    module = cls(**{name: value for name, value in header.items() if name not in ("kind", "schema")})
    assert isinstance(module, nn.Module)
    try:
        module.to(next(tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()))
        module.load_state_dict(tensors, strict=True)
    except (RuntimeError, StopIteration) as error:
        raise UserError(f"{path} does not hold the parameters of a {cls.__name__}: {error}") from error
    return module.eval()
