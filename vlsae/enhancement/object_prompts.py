"""What a model is asked about pictures whose objects are known: questions after objects, and descriptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlsae.enhancement.answer_files import read_synonyms
from vlsae.enhancement.answering import Prompt
from vlsae.enhancement.chair import chair_mentions
from vlsae.errors import UserError

Item = dict[str, Any]


def check_objects(data: Any, captions: bool, synonyms: str | None) -> None:
    """Raise :class:`~vlsae.errors.UserError` for data without questions, and for captions without objects or words."""
    if not all(hasattr(data, name) for name in ("questions", "present_objects")):
        raise UserError(
            "The task's data name no objects to ask after.", "Use dataset@task.data=shapes or dataset@task.data=coco."
        )
    if captions:
        data.present_objects([0])
        object_words(data, synonyms)


def object_words(data: Any, synonyms: str | None) -> dict[str, str]:
    """Return word → object: of a file of synonyms, else the objects' own names as the data have them."""
    words = read_synonyms(synonyms) if synonyms is not None else dict(getattr(data, "object_words", {}))
    if not words:
        raise UserError("Nothing says by which words objects are mentioned.", "Name CHAIR's: task.synonyms=FILE")
    return words


def questions(data: Any, rows: int, settings: Sequence[str], per_image: int, form: str) -> list[tuple[Prompt, Item]]:
    """Return the questions about the first rows of the data in each setting, with what an item says of each."""
    ids = data.table["sample_id"][:rows]
    found = []
    for setting in settings:
        for one in data.questions(setting, per_image).to_pylist():
            if one["row"] >= rows:
                continue
            image, text = ids[one["row"]], form.replace("{question}", one["question"])
            item = {"input": text, "label": one["answer"], "image": image, "setting": setting, "object": one["object"]}
            found.append((Prompt(f"pope/{setting}/{image}/{one['object']}", one["row"], text), item))
    return found


def requests(data: Any, rows: int, request: str, words: Mapping[str, str]) -> list[tuple[Prompt, Item]]:
    """Return what asks for a description of each of the first rows; its label are the objects that are there.

    Those are the data's, and those that the data's own captions mention.
    """
    table = data.table.select(range(rows))
    found = []
    for row, (image, texts, objects) in enumerate(
        zip(table["sample_id"], table["texts"], data.present_objects(range(rows)))
    ):
        said = {one for text in texts or () for one in chair_mentions(text, words)}
        item = {"input": request, "label": sorted(objects | said), "image": image}
        found.append((Prompt(f"chair/{image}", row, request), item))
    return found
