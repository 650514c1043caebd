"""How a vision-language model of transformers is built: where its decoder is, and how it takes in an image."""

from __future__ import annotations

import inspect
from typing import Any

from vlsae.errors import UserError

#: Families that read the prompt in both directions, so that an image's rows depend on its text.
TWO_WAY = ("paligemma",)


def decoder_path(model: Any) -> str:
    """Return the path of the module that holds the language decoder's blocks.

    Raises:
        UserError: the model has an encoder and a decoder, takes its image in by cross-attention, or reads its prompt
            in both directions: then no rows of an image stand in front of its text.
    """
    config = model.config
    text = config.get_text_config()
    if getattr(config, "is_encoder_decoder", False) or getattr(text, "is_encoder_decoder", False):
        _refuse(model, "has an encoder and a decoder")
    if getattr(text, "cross_attention_layers", None):
        _refuse(model, "takes its image in by cross-attention")
    if config.model_type in TWO_WAY:
        _refuse(model, "reads image and text in both directions, so that an image's rows depend on its text")
    decoder = model.get_decoder()
    found = next((name for name, module in model.named_modules() if module is decoder), None)
    if not found:
        _refuse(model, "does not say which of its modules is the language decoder")
    return str(found)


def image_token_id(config: Any, processor: Any) -> int:
    """Return the id of the token that stands for a part of an image; ``UserError`` where none is named."""
    for source, name in (
        (processor, "image_token_id"),
        (config, "image_token_id"),
        (config, "image_token_index"),
    ):
        found = getattr(source, name, None)
        if isinstance(found, int):
            return found
    raise UserError(
        f"Neither the configuration of {config.model_type} nor its processor names an image token.",
        "Use a model whose image stands in its sequence, such as LLaVA or Qwen2.5-VL.",
    )


def input_names(model: Any) -> frozenset[str]:
    """Return the names of the inputs that a model's forward pass takes."""
    return frozenset(inspect.signature(type(model).forward).parameters) - {"self", "kwargs"}


def _refuse(model: Any, why: str) -> None:
    raise UserError(
        f"{type(model).__name__} {why}.",
        "Use a model whose image stands in front of its text in one sequence, such as LLaVA or Qwen2.5-VL.",
    )
