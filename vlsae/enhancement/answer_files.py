"""Answers that others made, read from a file: to POPE's questions, or captions; and the words for objects."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlsae.datasets.coco import asked_object, image_id, read_objects, read_questions
from vlsae.datasets.tables import read_records, read_text
from vlsae.errors import MissingFile, UserError

#: Columns that tell whose answers these are, where a file has them.
GROUPS = ("model", "method", "instruction", "seed")

ANSWERS = ("answer", "response", "output", "prediction")
CAPTIONS = ("caption",)
IDS = ("image_id", "image", "id")

#: POPE's settings, as the names of its files end.
_SETTINGS = ("random", "popular", "adversarial")


@dataclass(frozen=True)
class Answers:
    """Answers of one measure, ``pope`` or ``chair``: items by group, each with ``answer``, ``label``, ``image``…"""

    measure: str
    groups: Mapping[str, list[dict[str, Any]]]


def read_answers(path: str | Path, truth: str | Path | None) -> list[Answers]:
    """Return the answers of a file (JSON, JSON lines, CSV), with their labels; two where it holds both measures'.

    Answers to questions have the column ``answer`` (or ``response``, ``output``, ``prediction``) and a ``label``, or
    else ``truth`` names POPE's file of questions, whose ``question_id`` they share, or whose order. Captions have
    ``caption`` and ``image_id``, and ``truth`` names a JSON of image ids and the objects in them; in ``samples.jsonl``
    of a run of this task, whose labels are lists of objects, both stand beside each other.

    Raises :class:`~vlsae.errors.UserError` naming the file, the row and what is missing.
    """
    file = Path(path).expanduser()
    rows = _rows(file)
    names = set(rows[0])
    caption = next((one for one in CAPTIONS if one in names), None)
    if caption is not None:
        return [Answers("chair", _grouped(file, _captions(file, rows, caption, truth)))]
    logged = [_logged(file, number, row) for number, row in enumerate(rows, 1) if isinstance(row.get("label"), list)]
    rows = [row for row in rows if not isinstance(row.get("label"), list)]
    found = [Answers("chair", _grouped(file, logged))] if logged else []
    if not rows:
        return found
    answer = next((one for one in ANSWERS if one in names), None)
    if answer is None:
        raise UserError(
            f"{file.name} has neither an answer nor a caption: it has {', '.join(sorted(names))}.",
            f"Give each row {' or '.join((*ANSWERS[:2], *CAPTIONS))}.",
        )
    return [Answers("pope", _grouped(file, _labelled(file, rows, answer, truth))), *found]


def read_synonyms(path: str | Path) -> dict[str, str]:
    """Return word or phrase → object of a file: CHAIR's list (a line an object, its name first), or JSON.

    JSON is ``{word: object}``, or holds such maps, as CHAIR's ``inverse_synonyms`` and ``double_words``: a phrase of
    the second counts as what it maps to, and that through the first. Raises ``UserError`` for another form.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise MissingFile(f"There is no file of synonyms {file}.", "Name one that exists: task.synonyms=FILE")
    if file.suffix.lower() != ".json":
        found: dict[str, str] = {}
        for line in read_text(file).splitlines():
            words = [" ".join(word.split()) for word in line.split(",") if word.strip()]
            found |= {word: words[0] for word in words if word not in found}
        if not found:
            raise UserError(f"{file.name} holds no words.", "Expected a line an object: its name, then its synonyms.")
        return found
    try:
        content = json.loads(read_text(file))
    except ValueError as error:
        raise UserError(f"{file.name} is not JSON: {error}.", "Mend the file.") from error
    if isinstance(content, dict) and isinstance(content.get("inverse_synonyms"), dict):
        words = content["inverse_synonyms"]
        doubles = content.get("double_words", {})
        return {**words, **{phrase: words[word] for phrase, word in doubles.items() if word in words}}
    if not isinstance(content, dict) or not all(isinstance(one, str) for one in content.values()) or not content:
        raise UserError(f"{file.name} is JSON of another form.", "Expected {word: object}.")
    return content


def _rows(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        raise MissingFile(f"There is no file of answers {file}.", "Name one that exists: answers=FILE")
    lines = file.suffix.lower() == ".json" and not read_text(file).lstrip().startswith("[")
    if lines:
        # POPE's own files are JSON lines whose names end in .json.
        found = _json_lines(file)
    else:
        records = read_records(file)
        if records.faults:
            fault = records.faults[0]
            raise UserError(f"{fault.row}: {fault.reason} ({len(records.faults)} rows are bad).", "Mend them.")
        found = [record for _, record in records.records]
    if not found:
        raise UserError(f"{file.name} holds no answers.", "Give it a row an answer.")
    return found


def _json_lines(file: Path) -> list[dict[str, Any]]:
    found = []
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{file.name} line {number} is not JSON: {error}.", "Mend it.") from error
        if not isinstance(row, dict):
            raise UserError(f"{file.name} line {number} is no object.", "Expected one object a line.")
        found.append(row)
    return found


def _grouped(file: Path, items: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    seen: set[tuple[str, str]] = set()
    for item in items:
        name = " ".join(str(item[column]) for column in GROUPS if item.get(column) not in (None, "")) or file.stem
        if (name, item["id"]) in seen:
            raise UserError(
                f"{file.name} answers {item['id']} twice for {name}.",
                f"Tell answers of several models apart by one of the columns {', '.join(GROUPS)}.",
            )
        seen.add((name, item["id"]))
        groups.setdefault(name, []).append(item)
    return groups


def _captions(
    file: Path, rows: Sequence[Mapping[str, Any]], column: str, truth: str | Path | None
) -> list[dict[str, Any]]:
    if truth is None:
        raise UserError(
            f"{file.name} holds captions, and nothing says which objects are in their pictures.",
            "Name a JSON of image ids and their objects: task.truth=FILE",
        )
    objects = read_objects(_truth(truth))
    found = []
    for number, row in enumerate(rows, 1):
        given = next((row[name] for name in IDS if row.get(name) not in (None, "")), None)
        text = row.get(column)
        if given is None or not isinstance(text, str):
            raise UserError(f"{file.name}, row {number} lacks its image_id or its caption.", "Give it both.")
        one = image_id(str(given))
        if one not in objects:
            raise UserError(
                f"{file.name}, row {number}: {Path(truth).name} does not know image {given}.", "Leave the row out."
            )
        found.append({**row, "id": one, "image": one, "answer": text, "label": sorted(objects[one])})
    return found


def _labelled(
    file: Path, rows: Sequence[Mapping[str, Any]], column: str, truth: str | Path | None
) -> list[dict[str, Any]]:
    asked = None if truth is None else read_questions(_truth(truth))
    labels = _by_question(file, rows, asked, truth) if asked is not None else list(rows)
    found = []
    for number, (row, question) in enumerate(zip(rows, labels), 1):
        if not isinstance(row.get(column), str):
            raise UserError(f"{file.name}, row {number} has the answer {row.get(column)!r}.", "Answers must be texts.")
        if question.get("label") in (None, ""):
            raise UserError(
                f"{file.name}, row {number} has no label.",
                "Give rows a label, or name POPE's questions: task.truth=FILE",
            )
        image = str(question.get("image") or row.get("image") or row.get("id") or number)
        setting = str(row.get("setting") or _setting(truth) or _setting(file) or "all")
        own = question.get("question_id", row.get("question_id", row.get("id", number)))
        text = str(question.get("text") or row.get("question") or row.get("input") or "")
        found.append(
            {**row, "id": f"{setting}/{own}", "image": image, "setting": setting, "answer": row[column],
             "label": question["label"], "input": text, "object": asked_object(text)}
        )  # fmt: skip
    return found


def _by_question(
    file: Path, rows: Sequence[Mapping[str, Any]], asked: Sequence[Mapping[str, Any]], truth: Any
) -> list[Mapping[str, Any]]:
    if all(row.get("question_id") not in (None, "") for row in rows):
        known = {str(one.get("question_id")): one for one in asked}
        missing = [row["question_id"] for row in rows if str(row["question_id"]) not in known]
        if missing:
            raise UserError(f"{Path(truth).name} has no question {missing[0]}, which {file.name} answers.")
        return [known[str(row["question_id"])] for row in rows]
    if len(rows) != len(asked):
        raise UserError(
            f"{file.name} has {len(rows)} answers without question_id, {Path(truth).name} {len(asked)} questions.",
            "Give each answer its question_id, or as many answers as questions, in their order.",
        )
    for number, (row, one) in enumerate(zip(rows, asked), 1):
        said = row.get("question")
        if said is not None and one["text"].rstrip("?") not in str(said):
            raise UserError(
                f"{file.name}, row {number} answers {said!r}; {Path(truth).name} asks {one['text']!r} there.",
                "Give each answer its question_id.",
            )
    return list(asked)


def _logged(file: Path, number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(row.get("answer"), str):
        raise UserError(f"{file.name}, row {number} has the answer {row.get('answer')!r}.", "Answers must be texts.")
    return {**row, "id": str(row.get("id", number)), "image": str(row.get("image") or row.get("id") or number)}


def _setting(path: str | Path | None) -> str | None:
    stem = "" if path is None else Path(path).stem
    return next((one for one in _SETTINGS if stem.endswith(one)), None)


def _truth(path: str | Path) -> Path:
    file = Path(path).expanduser()
    if not file.is_file():
        raise MissingFile(f"There is no file {file} of the truth.", "Name one that exists: task.truth=FILE")
    return file
