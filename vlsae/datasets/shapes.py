"""dataset=shapes: drawn scenes of coloured shapes with captions, whose concepts are given."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np

from vlsae.bounds import OneOf, Range
from vlsae.datasets.base import Dataset
from vlsae.datasets.shapes_world import (
    BACKGROUNDS,
    COLOR_FAMILIES,
    GRADIENTS,
    LONE,
    OBJECT_VALUES,
    SHAPE_FAMILIES,
    SHAPES,
    SLOTS,
    STYLES,
    TWIN_FACTORS,
    WORLD_VERSION,
    Recipe,
    Scenes,
    draw,
)
from vlsae.errors import UserError

if TYPE_CHECKING:
    import datasets as hf
    import pyarrow as pa

#: Factors of an object and of a scene, with their values.
SCENE_VALUES = {"background": BACKGROUNDS, "gradient": GRADIENTS, "style": STYLES}


class Shapes(Dataset):
    """Scenes of one to four coloured shapes; factors are stored, pixels are drawn on access.

    ``part`` holds out combinations of colour and shape (``seen``, ``unseen``, ``all``). ``hard`` draws small, faint,
    noisy, hidden objects. With ``twins`` rows 2i and 2i + 1 differ in exactly one factor (``labels.twin``). ``detail``
    chooses the captions (:func:`vlsae.datasets.shapes_captions.captions`), ``each`` gives every scene all of
    :func:`vlsae.datasets.shapes_captions.every_caption`; ``single``, ``imbalance``, ``cooccurrence``, ``simple`` and
    ``crossed`` bend the distribution (:class:`vlsae.datasets.shapes_world.Recipe`).
    ``labels.gradient`` shows in the image alone, ``labels.style`` in the caption alone.
    """

    #: Factors that one stream alone shows.
    one_stream: ClassVar[dict[str, str]] = {"gradient": "vision", "style": "language"}

    def __init__(
        self,
        *,
        n: Annotated[int, Range(1, None)] = 10_000,
        seed: Annotated[int, Range(0, None)] = 0,
        size: Annotated[int, Range(32, 512)] = 64,
        part: Annotated[str, OneOf("seen", "unseen", "all")] = "seen",
        hard: bool = False,
        twins: bool = False,
        max_objects: Annotated[int, Range(1, SLOTS)] = SLOTS,
        detail: Annotated[str, OneOf("full", "short", "lone", "mixed", "each", *LONE)] = "full",
        single: Annotated[float, Range(0, 1)] = 0.0,
        imbalance: Annotated[float, Range(0, 5)] = 0.0,
        cooccurrence: Annotated[float, Range(0, 1)] = 0.0,
        simple: bool = False,
        crossed: Annotated[int, Range(0, None)] = 0,
    ) -> None:
        if twins and simple:
            raise UserError("dataset.twins and dataset.simple exclude each other.", "Simple scenes vary in too little.")
        if twins and n % 2:
            raise UserError(f"dataset.twins draws pairs, and dataset.n is {n}.", "Take an even n.")
        if crossed and (part != "seen" or twins or cooccurrence or n % crossed):
            raise UserError(
                f"dataset.crossed={crossed} draws blocks of seen combinations, neither twins nor with cooccurrence.",
                f"Leave out the others and take a multiple of {crossed} for dataset.n={n}.",
            )
        self.n, self.seed, self.size, self.hard, self.detail = n, seed, size, hard, detail
        self.recipe = Recipe(max_objects, part, hard, twins, single, imbalance, cooccurrence, simple, crossed)
        self.block = crossed or (2 if twins else 1)

    def __len__(self) -> int:
        return self.n

    @staticmethod
    def factors(table: Any) -> tuple[list[str], list[str], np.ndarray]:
        """Return what :func:`factors` does: the world's own concepts, for scoring what was found."""
        return factors(table)

    @cached_property
    def scenes(self) -> Scenes:
        """Every scene's factors as arrays."""
        return draw(self.n, self.seed, self.recipe)

    @cached_property
    def captions(self) -> list[str]:
        """One caption a scene; with ``detail=each`` the full one."""
        from vlsae.datasets.shapes_captions import captions

        return captions(self.scenes, "full" if self.detail == "each" else self.detail, self.hard)

    @cached_property
    def table(self) -> hf.Dataset:
        import datasets as hf

        return hf.Dataset(self._arrow())

    @property
    def has_images(self) -> bool:
        return True

    def images(self, indices: Sequence[int]) -> np.ndarray:
        from vlsae.datasets.shapes_render import render

        return render(self._take(indices), self.size, self.hard)

    def masks(self, indices: Sequence[int]) -> np.ndarray:
        """Return which pixels each object shows, ``(b, 4, size, size)`` bool, in the order of ``objects``."""
        from vlsae.datasets.shapes_render import masks

        return masks(self._take(indices), self.size, self.hard)

    def questions(self, setting: str, per_image: int = 6, seed: int = 0) -> pa.Table:
        """Return yes/no questions after shapes: :func:`vlsae.datasets.shapes_questions.questions`."""
        from vlsae.datasets.shapes_questions import questions

        return questions(self.scenes, setting, per_image, seed)

    def present_objects(self, rows: Sequence[int]) -> list[set[str]]:
        """Return the shapes that some scenes hold."""
        from vlsae.datasets.shapes_questions import present

        return [{SHAPES[shape] for shape in np.flatnonzero(here)} for here in present(self._take(rows))]

    @property
    def object_words(self) -> dict[str, str]:
        """The words for objects, each with its object."""
        return {shape: shape for shape in SHAPES}

    def digest(self) -> str:
        facts = {"world": WORLD_VERSION, "n": self.n, "seed": self.seed, "size": self.size, "detail": self.detail}
        return hashlib.sha256(json.dumps(facts | vars(self.recipe), sort_keys=True).encode()).hexdigest()

    def _take(self, indices: Sequence[int]) -> Scenes:
        rows = np.asarray(indices, dtype=np.int64).reshape(-1)
        if rows.size and (rows.min() < 0 or rows.max() >= self.n):
            raise UserError(f"A row of {rows.min()}…{rows.max()} is asked for; shapes has rows 0…{self.n - 1}.")
        return self.scenes.take(rows)

    def _arrow(self) -> pa.Table:
        import pyarrow as pa

        scenes = self.scenes
        ids = [f"shapes-{self.seed}-{row:07d}" for row in range(self.n)]
        return pa.table(
            {
                "sample_id": ids,
                "texts": self._texts(),
                "labels": _labels(scenes),
                "objects": _objects(scenes),
                "source": ["shapes"] * self.n,
                "group": ids if self.block == 1 else [ids[row - row % self.block] for row in range(self.n)],
            }
        )

    def _texts(self) -> pa.ListArray:
        import pyarrow as pa

        from vlsae.datasets.shapes_captions import every_caption

        if self.detail != "each":
            return _lists(pa.array(self.captions), np.ones(self.n, np.int32))
        several = every_caption(self.scenes)
        return _lists(pa.array([text for texts in several for text in texts]), np.array([len(t) for t in several]))


def factors(table: Any) -> tuple[list[str], list[str], np.ndarray]:
    """Return the names of all factor values, the factor each belongs to, and which scenes show them ``(n, F)`` bool.

    Works from a table with the columns ``labels`` and ``objects`` of this dataset, an Arrow table or a Hugging Face
    dataset. An object's value counts as shown where any object has it; families (``color_family=warm``) are values too.
    """
    labels, objects = _column(table, "labels"), _column(table, "objects")
    n = len(labels)
    offsets = objects.offsets.to_numpy()
    owner = np.repeat(np.arange(n), np.diff(offsets))
    flat = objects.values.slice(offsets[0], offsets[-1] - offsets[0])
    names, groups, columns = [], [], []

    def add(group: str, value: str, shown: np.ndarray) -> None:
        names.append(f"{group}={value}")
        groups.append(group)
        columns.append(shown)

    for factor, values in OBJECT_VALUES.items():
        words = np.asarray(flat.field(factor).to_pylist(), dtype=object)
        for value in values:
            shown = np.zeros(n, bool)
            shown[owner[words == value]] = True
            add(factor, value, shown)
    for factor, families in (("color", COLOR_FAMILIES), ("shape", SHAPE_FAMILIES)):
        for family, members in families.items():
            own = [column for name, column in zip(names, columns) if name in {f"{factor}={m}" for m in members}]
            add(f"{factor}_family", family, np.any(own, axis=0))
    for factor, values in SCENE_VALUES.items():
        words = np.asarray(labels.field(factor).to_pylist(), dtype=object)
        for value in values:
            add(factor, value, words == value)
    count = np.asarray(labels.field("count").to_pylist())
    for number in range(1, SLOTS + 1):
        add("count", str(number), count == number)
    return names, groups, np.stack(columns, axis=1)


def _column(table: Any, name: str) -> Any:
    import pyarrow as pa

    if hasattr(table, "with_format"):  # a Hugging Face dataset
        table = table.with_format("arrow")[:]
    if name not in table.column_names:
        raise UserError(
            f"Factors need the column {name!r} of dataset=shapes; there are {', '.join(table.column_names)}."
        )
    column = table.column(name)
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return column.chunk(0) if isinstance(column, pa.ChunkedArray) else column


def _labels(scenes: Scenes) -> pa.StructArray:
    """Return the scalar factors: the scene's own, those of its first object, and in which factor twins differ."""
    import pyarrow as pa

    from vlsae.datasets.shapes_captions import relations

    columns: dict[str, Any] = {"count": pa.array(scenes.count.astype(np.int64))}
    columns |= {name: _words(values, getattr(scenes, name)) for name, values in SCENE_VALUES.items()}
    columns |= {name: _words(values, getattr(scenes, name)[:, 0]) for name, values in OBJECT_VALUES.items()}
    columns["relation"] = pa.array(relations(scenes))
    columns["twin"] = _words((*TWIN_FACTORS, "none"), scenes.twin)
    return pa.StructArray.from_arrays(list(columns.values()), names=list(columns))


def _objects(scenes: Scenes) -> pa.ListArray:
    import pyarrow as pa

    present = np.arange(SLOTS) < scenes.count[:, None]
    columns = [_words(values, getattr(scenes, name)[present]) for name, values in OBJECT_VALUES.items()]
    return _lists(pa.StructArray.from_arrays(columns, names=list(OBJECT_VALUES)), scenes.count)


def _words(values: Sequence[str], numbers: np.ndarray) -> pa.Array:
    import pyarrow as pa

    return pa.array(np.asarray(values, dtype=object)[numbers], pa.string())


def _lists(values: pa.Array, lengths: np.ndarray) -> pa.ListArray:
    import pyarrow as pa

    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)), values)


__all__ = ["SHAPES", "Shapes", "factors"]
