"""Models, each with named sites to read and to edit: the original modules, hooked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlsae import lazy

if TYPE_CHECKING:
    from vlsae.models.base import Batch, Model, Rows, Site, TokenSelection
    from vlsae.models.clip import CLIP
    from vlsae.models.lm import LM
    from vlsae.models.sites import expand_sites
    from vlsae.models.vlm import VLM

_HOMES = {
    "Batch": "base",
    "Model": "base",
    "Rows": "base",
    "Site": "base",
    "TokenSelection": "base",
    "CLIP": "clip",
    "LM": "lm",
    "VLM": "vlm",
    "expand_sites": "sites",
}

__all__ = ["CLIP", "LM", "VLM", "Batch", "Model", "Rows", "Site", "TokenSelection", "expand_sites"]

__getattr__ = lazy.exports(__name__, _HOMES)
