"""Yes/no questions after the objects of pictures, in POPE's three settings (Li et al. 2023, section 4.1).

n pictures, c kinds of objects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vlsae.errors import unknown

if TYPE_CHECKING:
    import pyarrow as pa

SETTINGS = ("random", "popular", "adversarial")


def ask(
    present: np.ndarray,
    names: Sequence[str],
    setting: str,
    question: Callable[[str], str],
    per_image: int = 6,
    seed: int = 0,
) -> pa.Table:
    """Return questions after objects, as many with the answer yes as no in each picture.

    ``present (n, c)`` bool: which objects, by ``names``, are in which picture. Columns ``row`` (of the pictures),
    ``question``, ``answer`` (yes or no), ``object``, ``setting``. Objects that are not there are asked for at random,
    the most frequent of all pictures first (``popular``), or those first that most often stand beside the ones that
    are there (``adversarial``). A picture asks at most ``per_image`` questions, and no more than twice the objects it
    holds.

    Raises :class:`~vlsae.errors.UserError` on a setting of another name.
    """
    if setting not in SETTINGS:
        raise unknown("setting of questions", setting, SETTINGS)
    rng = np.random.default_rng([seed, SETTINGS.index(setting)])
    together = present.T.astype(np.int64) @ present.astype(np.int64)
    frequent = np.diag(together)
    np.fill_diagonal(together := together.copy(), 0)
    rows: list[int] = []
    objects: list[str] = []
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
            objects += [names[one] for one in chosen]
            answers += [answer] * asked
    return questions_table(rows, [question(one) for one in objects], answers, objects, setting)


def questions_table(
    rows: Sequence[int], questions: Sequence[str], answers: Sequence[str], objects: Sequence[str], setting: str
) -> pa.Table:
    """Return questions as the table that every dataset with objects gives."""
    import pyarrow as pa

    return pa.table(
        {
            "row": pa.array(rows, pa.int64()),
            "question": pa.array(questions, pa.string()),
            "answer": pa.array(answers, pa.string()),
            "object": pa.array(objects, pa.string()),
            "setting": pa.array([setting] * len(rows), pa.string()),
        }
    )
