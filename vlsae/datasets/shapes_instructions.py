"""dataset=shapes_instructions: what is asked about scenes of shapes, with the answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np

from vlsae.bounds import OneOf, Range
from vlsae.datasets.base import Dataset
from vlsae.datasets.shapes import Shapes
from vlsae.datasets.shapes_world import COLORS, PLACES, SHAPES, SLOTS

if TYPE_CHECKING:
    import datasets as hf
    import pyarrow as pa

#: How a description and an answer of one word are asked for; each form is as frequent as the others.
DESCRIBE = ("please describe this image in detail .", "describe the image .")
SUFFIXES = ("", " please answer this question with one word .")

#: What asks of every shape whether it is there.
CHECKLIST = "what is there and what is not ?"

#: What is asked about a shape that is there once, and the words that answer.
ATTRIBUTES = {"color": ("what color is the {} ?", COLORS), "place": ("what place is the {} at ?", PLACES)}


class Sample(NamedTuple):
    """A question and its answer; ``kind`` is ``description``, ``yes``, ``no``, ``checklist`` or an attribute's name."""

    scene: int
    asked: str
    kind: str
    text: str
    answer: str


class ShapesInstructions(Dataset):
    """Scenes of :class:`vlsae.datasets.Shapes`, each in several samples: its description, and questions about it.

    A sample's text is what is asked and its ``answer`` what is to be said. The shapes that are asked for and not there
    are drawn at random, as many as those that are there (:func:`vlsae.datasets.shapes_questions.questions`);
    ``questions`` is the most of a scene. ``attributes`` is the most questions after the colour or the place of a shape
    that stands there once; with ``checklist`` one sample a scene says of every shape, in an order drawn anew, whether
    it is there. ``cooccurrence``, ``imbalance`` and the rest are those of ``Shapes``.
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
        attributes: Annotated[int, Range(0, SLOTS)] = 0,
        checklist: bool = False,
    ) -> None:
        self.shapes = Shapes(
            n=n,
            seed=seed,
            size=size,
            hard=hard,
            simple=simple,
            max_objects=max_objects,
            imbalance=imbalance,
            cooccurrence=cooccurrence,
        )
        self.detail, self.questions, self.attributes, self.checklist = detail, questions, attributes, checklist

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
        own = ("detail", "questions", "attributes", "checklist")
        facts = {"shapes": self.shapes.digest(), "forms": [ATTRIBUTES, CHECKLIST, DESCRIBE, SUFFIXES]}
        facts |= {name: getattr(self, name) for name in own}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @cached_property
    def _scenes(self) -> np.ndarray:
        """The scene of each row."""
        return np.array([one.scene for one in self._samples], dtype=np.int64)

    @cached_property
    def _samples(self) -> list[Sample]:
        """Descriptions of all scenes, then the yes/no questions, then those after attributes, then checklists."""
        from vlsae.datasets.shapes_captions import captions

        # The hard world tells two objects by how they stand to each other; a description names them.
        told = captions(self.shapes.scenes, self.detail)
        asked = self.shapes.questions("random", self.questions, seed=self.shapes.seed).to_pylist()
        return [
            *(Sample(scene, "none", "description", self._form(DESCRIBE), text) for scene, text in enumerate(told)),
            *(
                Sample(one["row"], one["object"], one["answer"], one["question"] + self._form(SUFFIXES), one["answer"])
                for one in asked
            ),
            *self._attribute_samples(),
            *self._checklist_samples(),
        ]

    @cached_property
    def _rng(self) -> np.random.Generator:
        return np.random.default_rng([self.shapes.seed, 1])

    def _form(self, forms: Sequence[str]) -> str:
        return forms[int(self._rng.integers(len(forms)))]

    def _attribute_samples(self) -> list[Sample]:
        scenes, found = self.shapes.scenes, []
        for scene in range(len(scenes)):
            shapes = scenes.shape[scene, : scenes.count[scene]]
            alone = [number for number, shape in enumerate(shapes) if (shapes == shape).sum() == 1]
            for number in self._rng.permutation(alone)[: self.attributes].astype(int):
                name = self._form(list(ATTRIBUTES))
                text, values = ATTRIBUTES[name]
                shape, answer = SHAPES[shapes[number]], values[getattr(scenes, name)[scene, number]]
                found.append(Sample(scene, shape, name, text.format(shape) + self._form(SUFFIXES), answer))
        return found

    def _checklist_samples(self) -> list[Sample]:
        scenes, found = self.shapes.scenes, []
        for scene in range(len(scenes) if self.checklist else 0):
            there = set(scenes.shape[scene, : scenes.count[scene]].tolist())
            words = [f"{SHAPES[one]} {'yes' if one in there else 'no'}" for one in self._rng.permutation(len(SHAPES))]
            found.append(Sample(scene, "every", "checklist", CHECKLIST, " , ".join(words)))
        return found

    def _arrow(self) -> pa.Table:
        import pyarrow as pa

        samples, rows = self._samples, pa.array(self._scenes)
        whole = self.shapes.table.with_format("arrow")[:]
        ids = whole["sample_id"].take(rows).to_pylist()
        labels = pa.StructArray.from_arrays(
            [pa.array([one.asked for one in samples]), pa.array([one.kind for one in samples])], names=["asked", "kind"]
        )
        columns: dict[str, Any] = {
            "sample_id": [f"{one}-{row:07d}" for row, one in enumerate(ids)],
            "texts": pa.array([[one.text] for one in samples]),
            "answer": [one.answer for one in samples],
            "labels": labels,
            "objects": whole["objects"].take(rows),
            "source": ["shapes_instructions"] * len(samples),
            "group": whole["group"].take(rows),
        }
        return pa.table(columns)
