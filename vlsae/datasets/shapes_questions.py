"""Yes/no questions after the shapes of drawn scenes, in POPE's three settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vlsae.datasets.object_questions import SETTINGS, ask
from vlsae.datasets.shapes_captions import question
from vlsae.datasets.shapes_world import SHAPES, SLOTS, Scenes

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["SETTINGS", "present", "questions"]


def questions(scenes: Scenes, setting: str, per_image: int = 6, seed: int = 0) -> pa.Table:
    """Return questions after shapes: :func:`vlsae.datasets.object_questions.ask`."""
    return ask(present(scenes), SHAPES, setting, lambda shape: question("", shape), per_image, seed)


def present(scenes: Scenes) -> np.ndarray:
    """Return which shapes each scene holds, ``(n, shapes)`` bool."""
    found = np.zeros((len(scenes), len(SHAPES)), bool)
    for slot in range(SLOTS):
        rows = np.flatnonzero(scenes.count > slot)
        found[rows, scenes.shape[rows, slot]] = True
    return found
