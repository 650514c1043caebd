"""Which towers a contrastive learner trains: open_clip's own configurations, with named sizes changed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from vlsae.errors import MissingFile, UserError
from vlsae.models.checkpoints import CONFIG_NAME, TOKENIZER_NAMES, read_config
from vlsae.models.clip import BUNDLED
from vlsae.models.open_clip_tables import architecture_config

if TYPE_CHECKING:
    from vlsae.models.pixels import Pixels

#: Where each named size lies in open_clip's configuration.
_PLACES = {
    "embed_dim": (None, "embed_dim"),
    "vision_width": ("vision_cfg", "width"),
    "vision_layers": ("vision_cfg", "layers"),
    "patch_size": ("vision_cfg", "patch_size"),
    "text_width": ("text_cfg", "width"),
    "text_layers": ("text_cfg", "layers"),
}


@dataclass(frozen=True)
class Architecture:
    """Towers without weights: open_clip's ``config`` and ``preprocess``, and the tokenizer's files."""

    config: dict[str, Any]
    preprocess: dict[str, Any]
    tokenizer_files: list[Path] = field(default_factory=list)
    name: str | None = None

    def pixels(self) -> Pixels:
        """Return the evaluation transform of images."""
        from vlsae.models.pixels import Pixels

        return Pixels(self.preprocess, self.config["vision_cfg"].get("image_size", 224))

    def tokenizer(self) -> Callable[[list[str]], Tensor]:
        """Return texts → ``(c, length)`` ids, by the folder's own tokenizer or the one open_clip gives the name."""
        import open_clip

        folder = self.tokenizer_files[0].parent if self.tokenizer_files else None
        return open_clip.get_tokenizer(self.name if folder is None else f"local-dir:{folder}")

    def towers(self) -> nn.Module:
        """Return the towers with open_clip's own random initialisation."""
        import open_clip

        config = copy.deepcopy(self.config)
        custom = config.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]
        if "multimodal_cfg" in config:
            raise UserError("objective=align trains two towers, and this architecture also generates text.")
        return (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**config)

    def load(self, towers: nn.Module, folder: Path) -> None:
        """Put the weights of a folder in open_clip's format into the towers."""
        from safetensors.torch import load_file

        path = folder / "model.safetensors"
        if not path.is_file():
            raise MissingFile(f"objective.initial={folder} holds no model.safetensors.")
        weights = load_file(path)
        own = towers.state_dict()
        wrong = [name for name, value in own.items() if name not in weights or weights[name].shape != value.shape]
        if wrong or set(weights) - set(own):
            raise UserError(
                f"The weights in {folder} do not fit this architecture: {', '.join(wrong[:3]) or 'there are more'}.",
                "Take the architecture they were trained with.",
            )
        towers.load_state_dict({name: value.to(own[name].dtype) for name, value in weights.items()})


def architecture_of(name: str, changes: Mapping[str, int | None]) -> Architecture:
    """Return the architecture of a folder, of ``bundled`` or of an open_clip name, with the given sizes changed.

    Raises:
        MissingFile: the folder lacks its configuration.
        UserError: open_clip knows no such name, or a width does not divide into heads.
    """
    known = None
    folder = BUNDLED if name == "bundled" else Path(name.removeprefix("path:")).expanduser()
    if (folder / CONFIG_NAME).is_file():
        config, preprocess = read_config(folder / CONFIG_NAME)
        files = [folder / file for file in TOKENIZER_NAMES if (folder / file).is_file()]
    elif name == "bundled" or name.startswith("path:") or folder.exists():
        raise MissingFile(f"objective.architecture={name}: {folder} holds no {CONFIG_NAME}.")
    else:
        config, preprocess, files = architecture_config(name), {}, []
        known = name
    config = json.loads(json.dumps(config))
    for key, value in changes.items():
        if value is not None:
            part, leaf = _PLACES[key]
            (config if part is None else config[part])[leaf] = value
    _check_heads(config)
    return Architecture(config, preprocess, files, known)


def _check_heads(config: Mapping[str, Any]) -> None:
    vision, text = config["vision_cfg"], config["text_cfg"]
    head, heads = vision.get("head_width", 64), text.get("heads", 8)
    if isinstance(vision.get("layers", 12), int) and vision.get("width", 768) % head:
        raise UserError(f"objective.vision_width={vision['width']} must be a multiple of the head width {head}.")
    if text.get("width", 512) % heads:
        raise UserError(f"objective.text_width={text['width']} must be a multiple of the {heads} heads.")
