"""What each position of a tower's sequence is: padding, special or content, and where its summary is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Vocabulary:
    """Token ids that are not text: ``special`` are put there by the tokenizer, ``padding`` fills up."""

    special: frozenset[int]
    padding: int


@dataclass(frozen=True)
class Positions:
    """Of b items with s positions: ``token (b, s)``, ``real (b, s)`` (no padding), ``special (b, s)``, ``end (b,)``.

    ``answer (b, s)`` tells which positions are an answer's; None where there are no answers. ``end`` is the position of
    a text's summary, None for images. Patches, class tokens of a vision tower and one that a text tower appends itself
    have the token −1. ``first`` tells whether the first position counts as content.
    """

    token: Tensor
    real: Tensor
    special: Tensor
    end: Tensor | None
    role: str
    first: bool
    answer: Tensor | None = None

    @property
    def content(self) -> Tensor:
        """``(b, s)``: neither padding nor special nor, in texts, the first position (where attention sinks)."""
        content = self.real & ~self.special
        if not self.first:
            content[:, 0] = False
        return content


def image_positions(batch: int, length: int, prefix: int) -> Positions:
    """Describe the positions of a vision tower with ``prefix`` special ones in front of its patches."""
    special = (torch.arange(length) < prefix).expand(batch, length)
    token = torch.full((batch, length), -1)
    return Positions(token, torch.ones_like(special), special, None, "image", first=True)


def vocabulary(tokenizer: Any, text_config: Mapping[str, Any]) -> Vocabulary:
    """Return the special ids of one of open_clip's tokenizers."""
    inner = getattr(tokenizer, "tokenizer", tokenizer)
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "cls_token_id", "sep_token_id", "mask_token_id")
    special = {value for name in names if (value := getattr(inner, name, None)) is not None}
    if inner is tokenizer:  # open_clip's own tokenizer, which pads with 0, an id that is a token too
        special = set(tokenizer.all_special_ids)
    padding = getattr(inner, "pad_token_id", None)
    return Vocabulary(frozenset(special), int(text_config.get("pad_id", 0) if padding is None else padding))


def text_positions(ids: Tensor, text_config: Mapping[str, Any], vocabulary: Vocabulary) -> Positions:
    """Describe token ids ``(b, l)`` as the text tower of this configuration sees them."""
    batch, length = ids.shape
    position = torch.arange(length, device=ids.device).expand(batch, length)
    # The last position that is not padding; 0 where all of them are.
    filled = torch.where(ids != vocabulary.padding, position, 0).amax(dim=1)
    pooling = _pooling(text_config)
    if pooling == "argmax":
        end = ids.argmax(dim=1)
    elif pooling == "eos":
        end = (ids == text_config.get("eos_id", 2)).int().argmax(dim=1)
    elif pooling == "first":
        end = torch.zeros_like(filled)
    elif pooling == "last":
        end = torch.full_like(filled, length - 1)
    else:
        end = filled
    marked = pooling in ("argmax", "eos")
    real = position <= (end if marked else filled)[:, None]
    special = torch.isin(ids, torch.tensor(sorted(vocabulary.special), dtype=ids.dtype, device=ids.device))
    if marked:
        special = special | (position == end[:, None])
    if text_config.get("embed_cls"):
        end = torch.full_like(end, length)
        appended = torch.ones(batch, 1, dtype=torch.bool, device=ids.device)
        real, special = torch.cat([real, appended], dim=1), torch.cat([special, appended], dim=1)
        ids = torch.cat([ids, torch.full((batch, 1), -1, dtype=ids.dtype, device=ids.device)], dim=1)
    return Positions(ids, real, special, end, "text", first=False)


def _pooling(text_config: Mapping[str, Any]) -> str:
    if "hf_model_name" in text_config:
        pooler = text_config.get("hf_pooler_type", "mean_pooler")
        return "first" if pooler.startswith("cls") else "mean"
    return str(text_config.get("pool_type", "argmax"))
