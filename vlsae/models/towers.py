"""The two towers of an open_clip model: where their blocks are, and what their positions mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from vlsae.models.base import Site
from vlsae.models.hooks import INPUT

#: Where the blocks of a tower that open_clip does not describe in its configuration may lie, below the tower.
_BLOCK_PATHS = ("trunk.blocks", "transformer.encoder.layer", "transformer.encoder.layers", "transformer.block")


@dataclass(frozen=True)
class Tower:
    """One tower: ``blocks`` is the path of its list of blocks (empty where it has no sequence of blocks).

    ``parts`` maps a part's name to the submodule of a block; ``prefix`` special positions stand in front, and
    ``class_index`` is the class token's position. ``encode`` is what gives the embedding, open_clip's own by default.
    """

    stream: str
    blocks: str
    layers: int
    width: int
    embedding_width: int
    parts: Mapping[str, str] = field(default_factory=dict)
    prefix: int = 0
    class_index: int | None = None
    encode: str | None = None

    def sites(self) -> Iterator[tuple[str, Site]]:
        """Yield the tower's sites in the order in which a forward pass reaches them."""
        if self.blocks:
            yield f"{self.stream}.0", Site(self.width, f"{self.blocks}.0{INPUT}")
        for layer in range(1, self.layers + 1):
            block = f"{self.blocks}.{layer - 1}"
            for part, module in self.parts.items():
                yield f"{self.stream}.{layer}.{part}", Site(self.width, f"{block}.{module}")
            yield f"{self.stream}.{layer}", Site(self.width, block)
        own = "encode_image" if self.stream == "vision" else "encode_text"
        yield f"{self.stream}.embedding", Site(self.embedding_width, self.encode or own)


def is_native(config: Mapping[str, Any], stream: str) -> bool:
    """Tell whether a tower is one of open_clip's own, which its configuration describes whole."""
    if stream == "vision":
        return "timm_model_name" not in config["vision_cfg"]
    return "hf_model_name" not in config["text_cfg"]


def native_tower(config: Mapping[str, Any], stream: str) -> Tower:
    """Return a tower of open_clip's own from its configuration; what is left out there has the class's default."""
    width = int(config["embed_dim"])
    parts = {"attention": "attn", "mlp": "mlp"}
    if stream == "vision":
        cfg = config["vision_cfg"]
        layers = cfg.get("layers", 12)
        if isinstance(layers, list | tuple):  # a ResNet: feature maps, no sequence of tokens
            return Tower(stream, "", 0, 0, width)
        return Tower(stream, "visual.transformer.resblocks", layers, cfg.get("width", 768), width, parts, 1, 0)
    cfg = config["text_cfg"]
    # open_clip's plain CLIP class keeps the text tower on the model itself, its other classes keep it in `text`.
    custom = config.get("custom_text") or not is_native(config, stream)
    blocks = "text.transformer.resblocks" if custom else "transformer.resblocks"
    return Tower(stream, blocks, cfg.get("layers", 12), cfg.get("width", 512), width, parts)


def foreign_tower(model: nn.Module, config: Mapping[str, Any], stream: str) -> Tower:
    """Return a timm or transformers tower from the module itself."""
    prefix = "visual" if stream == "vision" else "text"
    tower: Any = model.get_submodule(prefix)
    width = int(config["embed_dim"])
    for path in _BLOCK_PATHS:
        try:
            blocks = tower.get_submodule(path)
        except AttributeError:
            continue
        if not isinstance(blocks, nn.ModuleList | nn.Sequential) or len(blocks) == 0:
            continue
        if stream == "language":
            return Tower(stream, f"{prefix}.{path}", len(blocks), int(tower.config.hidden_size), width)
        found = timm_tower(tower.trunk, f"{prefix}.trunk.", width)
        if found is not None:
            return found
    return Tower(stream, "", 0, 0, width)


def timm_tower(trunk: Any, path: str, width: int) -> Tower | None:
    """Return the tower of a vision transformer of timm that lies at a path; None for one without token sequences."""
    blocks: Any = getattr(trunk, "blocks", None)
    # Only a transformer of timm that says how many positions stand in front has a sequence of tokens.
    if (
        not isinstance(blocks, nn.ModuleList | nn.Sequential)
        or not len(blocks)
        or not hasattr(trunk, "num_prefix_tokens")
    ):
        return None
    parts = {name: module for name, module in (("attention", "attn"), ("mlp", "mlp")) if hasattr(blocks[0], module)}
    has_class = getattr(trunk, "cls_token", None) is not None
    return Tower(
        "vision",
        f"{path}blocks",
        len(blocks),
        int(trunk.embed_dim),
        width,
        parts,
        int(trunk.num_prefix_tokens),
        0 if has_class else None,
    )
