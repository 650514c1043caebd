"""Yes/no questions after objects, in POPE's three settings (Li et al. 2023, section 4.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vlsae.datasets.shapes_captions import question
from vlsae.datasets.shapes_world import SHAPES, SLOTS, Scenes
from vlsae.errors import unknown

if TYPE_CHECKING:
    import pyarrow as pa

SETTINGS = ("random", "popular", "adversarial")


def questions(scenes: Scenes, setting: str, per_image: int = 6, seed: int = 0) -> pa.Table:
    """Return questions after shapes, as many with the answer yes as no in each image.

    Columns ``row`` (of the dataset), ``question``, ``answer`` (yes or no), ``object``, ``setting``. The shapes that are
    not there are asked for at random, the most frequent of the dataset first (``popular``), or those first that most
    often stand beside the ones that are there (``adversarial``). An image asks at most ``per_image`` questions, and no
    more than twice the shapes it holds.

    Raises :class:`~vlsae.errors.UserError` on a setting of another name.
    """
    import pyarrow as pa

    if setting not in SETTINGS:
        raise unknown("setting of questions", setting, SETTINGS)
    rng = np.random.default_rng([seed, SETTINGS.index(setting)])
    present = _present(scenes)
    together = present.T.astype(np.int64) @ present.astype(np.int64)
    frequent = np.diag(together)
    np.fill_diagonal(together := together.copy(), 0)
    rows: list[int] = []
    shapes: list[str] = []
    answers: list[str] = []
    for row, here in enumerate(present):
        there, absent = np.flatnonzero(here), np.flatnonzero(~here)
        asked = min(len(there), len(absent), per_image // 2)
        # Ties fall at random: the shuffled order stands where scores are equal.
        absent = rng.permutation(absent)
        if setting != "random":
            score = frequent if setting == "popular" else together[there].sum(0)
            absent = absent[np.argsort(-score[absent], kind="stable")]
        for answer, chosen in (("yes", rng.permutation(there)[:asked]), ("no", absent[:asked])):
            rows += [row] * asked
            shapes += [SHAPES[shape] for shape in chosen]
            answers += [answer] * asked
    return pa.table(
        {
            "row": pa.array(rows, pa.int64()),
            "question": pa.array([question("", shape) for shape in shapes], pa.string()),
            "answer": pa.array(answers, pa.string()),
            "object": pa.array(shapes, pa.string()),
            "setting": pa.array([setting] * len(rows), pa.string()),
        }
    )


def _present(scenes: Scenes) -> np.ndarray:
    """Return which shapes each scene holds, ``(n, shapes)`` bool."""
    present = np.zeros((len(scenes), len(SHAPES)), bool)
    for slot in range(SLOTS):
        rows = np.flatnonzero(scenes.count > slot)
        present[rows, scenes.shape[rows, slot]] = True
    return present
