"""Learners: representations trained from raw samples."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlsae.learners.align import Align
    from vlsae.learners.next_token import NextToken
    from vlsae.learners.visual_instruction import VisualInstruction

_HOMES = {"Align": "align", "NextToken": "next_token", "VisualInstruction": "visual_instruction"}

__all__ = ["Align", "NextToken", "VisualInstruction"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"vlsae.learners.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'vlsae.learners' has no attribute {name!r}")
