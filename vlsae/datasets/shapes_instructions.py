"""dataset=shapes_instructions: what is asked about scenes of shapes, with the answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from vlsae.bounds import OneOf, Range
from vlsae.datasets.base import Dataset
from vlsae.datasets.shapes import Shapes
from vlsae.datasets.shapes_world import SLOTS

if TYPE_CHECKING:
    import datasets as hf
    import pyarrow as pa

#: How a description and an answer of one word are asked for; each form is as frequent as the others.
DESCRIBE = ("please describe this image in detail .", "describe the image .")
SUFFIXES = ("", " please answer this question with one word .")


class ShapesInstructions(Dataset):
    """Scenes of :class:`vlsae.datasets.Shapes`, each in several samples: its description, and yes/no questions.

    A sample's text is what is asked and its ``answer`` what is to be said. The shapes that are asked for and not there
    are drawn at random, as many as those that are there (:func:`vlsae.datasets.shapes_questions.questions`);
    ``questions`` is the most of a scene. ``cooccurrence``, ``imbalance`` and the rest are those of ``Shapes``.
    """

    def __init__(
        self,
        *,
        n: Annotated[int, Range(1, None)] = 10_000,
        seed: Annotated[int, Range(0, None)] = 0,
        size: Annotated[int, Range(32, 512)] = 64,
        hard: bool = False,
        simple: bool = False,
        max_objects: Annotated[int, Range(1, SLOTS)] = SLOTS,
        detail: Annotated[str, OneOf("full", "short")] = "short",
        imbalance: Annotated[float, Range(0, 5)] = 0.0,
        cooccurrence: Annotated[float, Range(0, 1)] = 0.0,
        questions: Annotated[int, Range(0, None)] = 4,
    ) -> None:
        self.shapes = Shapes(
            n=n,
            seed=seed,
            size=size,
            hard=hard,
            simple=simple,
            max_objects=max_objects,
            detail=detail,
            imbalance=imbalance,
            cooccurrence=cooccurrence,
        )
        self.questions = questions

    @cached_property
    def table(self) -> hf.Dataset:
        import datasets as hf

        return hf.Dataset(self._arrow())

    @property
    def has_images(self) -> bool:
        return True

    def images(self, indices: Sequence[int]) -> np.ndarray:
        return self.shapes.images(self._scenes[np.asarray(indices, dtype=np.int64)].tolist())

    def digest(self) -> str:
        facts = {"shapes": self.shapes.digest(), "questions": self.questions, "describe": DESCRIBE, "suffix": SUFFIXES}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @cached_property
    def _scenes(self) -> np.ndarray:
        """The scene of each row."""
        return np.concatenate([np.arange(len(self.shapes)), self._asked["row"].to_numpy()])

    @cached_property
    def _asked(self) -> pa.Table:
        return self.shapes.questions("random", self.questions, seed=self.shapes.seed)

    def _arrow(self) -> pa.Table:
        import pyarrow as pa

        scenes, asked, n = self._scenes, self._asked, len(self.shapes)
        form = np.random.default_rng([self.shapes.seed, 1]).integers(len(SUFFIXES), size=len(scenes)).tolist()
        described = [DESCRIBE[one] for one in form[:n]]
        questions = [text + SUFFIXES[one] for text, one in zip(asked["question"].to_pylist(), form[n:])]
        whole = self.shapes.table.with_format("arrow")[:]
        rows = pa.array(scenes)
        columns: dict[str, Any] = {
            "sample_id": [f"{one}-{row:07d}" for row, one in enumerate(whole["sample_id"].take(rows).to_pylist())],
            "texts": pa.array([[text] for text in (*described, *questions)]),
            "answer": [*self.shapes.captions, *asked["answer"].to_pylist()],
            "source": ["shapes_instructions"] * len(scenes),
            "group": whole["group"].take(rows),
        }
        labels = pa.StructArray.from_arrays(
            [
                pa.array([*["none"] * n, *asked["object"].to_pylist()]),
                pa.array([*["description"] * n, *asked["answer"].to_pylist()]),
            ],
            names=["asked", "kind"],
        )
        return pa.table({**columns, "labels": labels, "objects": whole["objects"].take(rows)})
