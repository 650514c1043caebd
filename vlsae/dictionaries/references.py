"""``dictionary=`` anywhere: a run, a folder, a Hub id, SAELens' layout, or the VL-SAE authors' weights.

dictionary=train/clip-shapes-vl_sae/latest          dictionary=hub:ORG/NAME
'dictionary={path: weights.pth, k: 256, sites: {vision: vision.embedding, language: language.embedding}}'
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlsae.errors import MissingFile, UserError, unknown
from vlsae.runs import input_run, runs_root
from vlsae.runs.files import load_json
from vlsae.runs.manifest import MANIFEST

if TYPE_CHECKING:
    from torch import Tensor

    from vlsae.dictionaries.auxiliary import AuxiliaryAutoencoder
    from vlsae.dictionaries.base import Dictionary

INPUT = "input.json"

#: Endings of files that the authors' code may have written.
_WEIGHTS = (".pth", ".pt", ".bin")

#: What a mapping in place of a reference may say.
OPTIONS = ("path", "k", "sites", "check")

#: How far mean lengths may differ, and mean rows beside the mean length, before rows count as others than trained on.
LENGTH, MEAN = 0.25, 0.5


@dataclass(frozen=True)
class Referenced:
    """A dictionary with what is known of the rows it reads; ``sites`` by stream are None where nobody said.

    ``statistics``: stream → mean and standard deviation of lengths and the mean row, of the rows it was made from.
    ``auxiliary`` maps rows first. ``facts`` are those of ``input.json``, ``path`` is where it came from.
    """

    dictionary: Dictionary
    path: Path
    sites: dict[str, str] | None = None
    auxiliary: AuxiliaryAutoencoder | None = None
    statistics: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    checked: bool = True

    def site(self, stream: str) -> str:
        """Return the site that is read for a stream; ``UserError`` asks for it where nobody said."""
        if self.sites is None or stream not in self.sites:
            raise UserError(
                f"{self.path} does not say which site it reads for {stream}.",
                "Say it: 'dictionary={path: …, sites: {" + stream + ": " + stream + ".8}}'.",
            )
        return self.sites[stream]

    def check(self, rows: Mapping[str, Tensor]) -> None:
        """Refuse rows ``(n, d)`` by stream that are not like those the dictionary was made from, by their statistics.

        Raises ``UserError`` with both numbers: another layer, another scaling or another model gives such rows.
        """
        import torch

        for stream, x in rows.items():
            if x.shape[1] != self._width(stream):
                raise UserError(f"Rows of {stream} are {x.shape[1]} wide; {self.path} reads {self._width(stream)}.")
            known = self.statistics.get(stream)
            if known is None or not self.checked or len(x) == 0:
                continue
            length = float(torch.linalg.vector_norm(x.double(), dim=1).mean())
            apart = float(torch.linalg.vector_norm(x.double().mean(dim=0) - torch.tensor(known["mean"]).double()))
            if abs(length / known["norm_mean"] - 1) > LENGTH or apart > MEAN * known["norm_mean"]:
                raise UserError(
                    f"{self.path} was made from {stream} rows of mean length {known['norm_mean']:.4g}; these have "
                    f"{length:.4g}, and their mean lies {apart:.4g} away.",
                    "Read the site and scaling it was made from, or add check: false to the reference.",
                )

    def _width(self, stream: str) -> int:
        if self.auxiliary is None:
            return self.dictionary.width
        return self.auxiliary.vision_width if stream == "vision" else self.auxiliary.language_width


def load_dictionary(reference: str | Mapping[str, Any], root: Path | None = None) -> Referenced:
    """Return what a reference names: see the module. Nothing is unpickled.

    A mapping has ``path``, and may have ``sites`` (by stream), ``k`` (needed for the authors' weights, which do not
    hold it) and ``check: false``. Raises ``UserError`` for what is not there or cannot be read.
    """
    options: dict[str, Any] = {"path": reference} if isinstance(reference, str) else dict(reference)
    for name in options:
        if name not in OPTIONS:
            raise unknown("setting of dictionary", str(name), OPTIONS)
    if not options.get("path"):
        raise UserError("dictionary names no path.", "Write dictionary=RUN, a folder, or hub:ORG/NAME.")
    found = _found(str(options["path"]), options.get("k"), root if root is not None else runs_root(None))
    if options.get("sites") is not None:
        found = replace(found, sites=dict(options["sites"]))
    return replace(found, checked=bool(options.get("check", True)))


def statistics_of(rows: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what later rows are checked against, by stream: lengths' mean and deviation, and the mean row."""
    import torch

    found = {}
    for stream, x in rows.items():
        lengths = torch.linalg.vector_norm(x.double(), dim=1)
        deviation = float(lengths.std(correction=0))
        mean = [round(value, 6) for value in x.double().mean(dim=0).tolist()]
        found[stream] = {"norm_mean": float(lengths.mean()), "norm_deviation": deviation, "mean": mean}
    return found


def read_input(folder: Path) -> dict[str, Any]:
    """Return what ``input.json`` beside a dictionary's weights says of the rows that it reads.

    Raises ``MissingFile`` without the file and ``UserError`` where it is damaged.
    """
    file = folder / INPUT
    try:
        facts = load_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingFile(f"There is no {file}, which says what the dictionary reads.", "Train it anew.") from error
    except ValueError as error:
        raise UserError(f"{file} is damaged: {error}.", "Copy it again, or train the dictionary anew.") from error
    needed = {"extraction": str, "sites": dict, "auxiliary": bool}
    wrong = [name for name, kind in needed.items() if not isinstance(facts, dict) or type(facts.get(name)) is not kind]
    if wrong:
        raise UserError(f"{file} is damaged: it lacks {', '.join(wrong)}.", "Copy it again, or train anew.")
    return dict(facts)


def _found(text: str, k: int | None, root: Path) -> Referenced:
    path = Path(text).expanduser()
    if path.is_file() and path.suffix in _WEIGHTS:
        return Referenced(_authors(path, k), path)
    # A folder of a dictionary alone; whatever is a run must be done.
    if path.is_dir() and not (path / MANIFEST).is_file() and (folder := _folder(path)) is not None:
        return _of_folder(folder)
    if text.startswith("hub:"):
        return _of_folder(_snapshot(text.removeprefix("hub:")))
    run = input_run(text, root, "train").path
    if (folder := _folder(run)) is None:
        raise MissingFile(f"{text} trained no dictionary.", "Name the training of one.")
    return _of_folder(folder)


def _folder(path: Path) -> Path | None:
    """Return the folder of a dictionary: the path itself, or within a run; None where there is none."""
    from vlsae.dictionaries.saelens import is_saelens

    for one in (path, path / "dictionary"):
        if is_saelens(one) or ((one / "config.json").is_file() and (one / "model.safetensors").is_file()):
            return one
    return None


def _of_folder(folder: Path) -> Referenced:
    from vlsae.dictionaries.auxiliary import AuxiliaryAutoencoder
    from vlsae.dictionaries.pretrained import from_pretrained
    from vlsae.dictionaries.saelens import is_saelens, read_saelens, site_of

    if is_saelens(folder):
        dictionary, metadata = read_saelens(folder)
        own = metadata.get("vlsae") or {}
        site = site_of(metadata)
        sites = own.get("sites") or (None if site is None else {"language": site})
        return Referenced(dictionary, folder, sites, None, own.get("statistics") or {}, own)
    facts = read_input(folder) if (folder / INPUT).is_file() else {}
    auxiliary = None
    if facts.get("auxiliary"):
        places = [folder / "auxiliary", folder.parent / "auxiliary"]
        place = next((one for one in places if (one / "config.json").is_file()), places[0])
        auxiliary = AuxiliaryAutoencoder.from_pretrained(place).eval()
    dictionary = from_pretrained(folder)
    return Referenced(dictionary, folder, facts.get("sites"), auxiliary, facts.get("statistics") or {}, facts)


def _authors(path: Path, k: int | None) -> Dictionary:
    """Return the dictionary of the published VL-SAE code's weight file, whose kind its parameter names tell."""
    import torch

    from vlsae.dictionaries.sae_d import SAED
    from vlsae.dictionaries.sae_s import SAES
    from vlsae.dictionaries.vl_sae import VLSAE

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} cannot be read as plain weights: {reason}", "It must hold tensors alone.") from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(hasattr(one, "shape") for one in state.values()):
        raise UserError(f"{path} holds no state dict.", "Give the weights of VL_SAE, SAE_D or SAE_V.")
    cls: Any = VLSAE if "encoder" in state else SAED if "v_encoder.weight" in state else SAES
    return cls.from_author_state(state, k).float().eval()


def _snapshot(name: str) -> Path:
    """Return the local folder of a Hub id ``ORG/NAME``, ``ORG/NAME@REV`` or ``ORG/NAME/SUBFOLDER``."""
    from huggingface_hub import snapshot_download

    words, _, revision = name.partition("@")
    parts = words.split("/")
    if len(parts) < 2 or not all(parts):
        raise UserError(f"hub:{name} is no name on the Hub.", "Write hub:ORG/NAME or hub:ORG/NAME@REV.")
    repository, below = "/".join(parts[:2]), "/".join(parts[2:])
    try:
        got = Path(snapshot_download(repository, revision=revision or None))
    except Exception as error:  # offline, not found, gated, a broken connection: each is out of reach
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"hub:{name} cannot be reached: {reason}", "Download it where there is a network, and name the folder."
        ) from error
    folder = _folder(got / below)
    if folder is None:
        raise MissingFile(
            f"hub:{name} holds no dictionary.", "It needs config.json and model.safetensors, or cfg.json."
        )
    return folder
