"""Reading weights of the published VL-SAE code: parameter names, no k, no kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor

from vlsae.dictionaries.base import Dictionary
from vlsae.errors import UserError

AnyDictionary = TypeVar("AnyDictionary", bound=Dictionary)

#: Published name → ours, where they differ (the SAE_D and SAE_V classes of that code).
RENAMED = {
    "sae_d": {
        "v_encoder": "vision_encoder",
        "t_encoder": "text_encoder",
        "vision_decoder.0": "vision_decoder",
        "text_decoder.0": "text_decoder",
    },
    "sae_s": {"decoder.0": "decoder"},
}


def from_author_state(cls: type[AnyDictionary], state: Mapping[str, Tensor], k: int | None) -> AnyDictionary:
    """Return the dictionary of a state dict of the published code.

    ``k`` stands only in that code's file name and is never guessed: ``ValueError`` without it, and where parameters
    are missing, unknown or of another shape.
    """
    if k is None:
        raise UserError("The published weights do not hold k, the number of active concepts.", "Give k.")
    renamed = {_ours(cls.kind, name): tensor for name, tensor in state.items()}
    decoder = next((renamed[name] for name in ("vision_decoder.weight", "decoder.weight") if name in renamed), None)
    if decoder is None or decoder.ndim != 2:
        raise UserError(f"The state dict is none of {cls.__name__}: it holds {', '.join(state) or 'nothing'}.")
    width, n_concepts = decoder.shape
    dictionary: Any = cls(int(width), int(n_concepts), k).to(decoder.dtype)
    try:
        dictionary.load_state_dict(renamed, strict=True)
    except RuntimeError as error:
        raise UserError(f"The state dict is none of {cls.__name__}: {error}") from error
    return dictionary


def _ours(kind: str, name: str) -> str:
    stem, dot, leaf = name.rpartition(".")
    return RENAMED.get(kind, {}).get(stem, stem) + dot + leaf
