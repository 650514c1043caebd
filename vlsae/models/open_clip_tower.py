"""The vision tower of a CLIP of open_clip as transformers has it: the same numbers under other names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vlsae.errors import UserError

#: What open_clip calls the parts of a tower outside its blocks, and what transformers does.
_OUTER = {
    "visual.class_embedding": "embeddings.class_embedding",
    "visual.conv1.weight": "embeddings.patch_embedding.weight",
    "visual.positional_embedding": "embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "pre_layrnorm.weight",
    "visual.ln_pre.bias": "pre_layrnorm.bias",
    "visual.ln_post.weight": "post_layernorm.weight",
    "visual.ln_post.bias": "post_layernorm.bias",
}

#: The same within a block; queries, keys and values are one matrix in open_clip.
_INNER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def vision_settings(config: Mapping[str, Any], layers: int | None = None) -> dict[str, Any]:
    """Return the arguments of transformers' ``CLIPVisionConfig`` for an open_clip ``model_cfg``.

    Raises:
        UserError: the tower is no plain vision transformer, or has fewer layers than asked for.
    """
    vision = config["vision_cfg"]
    if "timm_model_name" in vision or not isinstance(vision.get("layers"), int):
        raise UserError(
            "This CLIP's vision tower is no plain vision transformer of open_clip.", "Use a ViT of its own."
        )
    if layers is not None and layers > vision["layers"]:
        raise UserError(f"{layers} vision layers are asked for, and the CLIP has {vision['layers']}.")
    width = vision.get("width", 768)
    return {
        "hidden_size": width,
        "intermediate_size": int(width * vision.get("mlp_ratio", 4.0)),
        "num_hidden_layers": layers or vision["layers"],
        "num_attention_heads": width // vision.get("head_width", 64),
        "image_size": vision.get("image_size", 224),
        "patch_size": vision.get("patch_size", 16),
        "hidden_act": "quick_gelu" if config.get("quick_gelu") else "gelu",
        "layer_norm_eps": 1e-5,
    }


def vision_weights(weights: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Return open_clip's weights of the first ``layers`` blocks by the names of transformers' vision transformer."""
    found = {new: weights[old] for old, new in _OUTER.items()}
    for number in range(layers):
        old, new = f"visual.transformer.resblocks.{number}", f"encoder.layers.{number}"
        for kind in ("weight", "bias"):
            for part, named in _INNER.items():
                found[f"{new}.{named}.{kind}"] = weights[f"{old}.{part}.{kind}"]
            for name, value in zip("qkv", weights[f"{old}.attn.in_proj_{kind}"].chunk(3)):
                found[f"{new}.self_attn.{name}_proj.{kind}"] = value
    return found
