"""aqi: score how far apart safe and unsafe inputs lie, layer by layer. Not built yet in this version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlsae.stages.not_built import not_built

SCHEMA = 1


def parents(config: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Refuse: the stage is not built yet."""
    raise not_built("aqi")
