"""dataset=coco: pictures with their objects in COCO's layout, and the questions after them that POPE asks."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlsae.datasets.archives import ImageFiles
from vlsae.datasets.base import Skipped
from vlsae.datasets.faults import OnError
from vlsae.datasets.gather import Sample
from vlsae.datasets.gathered import Gathered
from vlsae.datasets.object_questions import SETTINGS, ask, questions_table
from vlsae.datasets.pictured import Check, Pictured
from vlsae.datasets.tables import read_text
from vlsae.errors import MissingFile, UserError, unknown

if TYPE_CHECKING:
    import pyarrow as pa

_ASKED = re.compile(
    r"\b(?:is|are) there (?:(?:an?|any|the|some) )?(?P<object>.+?) in the (?:image|picture|photo)\b", re.I
)
_NUMBER = re.compile(r"\d+(?=\D*$)")


class Coco(Pictured):
    """Pictures of a folder or archive, ``path``, with what COCO's files say of them.

    ``instances``: COCO's instances (JSON), whose categories are the objects of each picture; or ``objects``: a JSON of
    image ids and their lists of objects. ``captions``: COCO's captions. ``questions``: a folder of POPE's files
    (``…_random.json``, ``…_popular.json``, ``…_adversarial.json``), or one such file; without it questions are made
    from the objects as POPE makes them. ``images``: a JSON list of the ids that are taken, in that order; else all that
    the files name. An image's id is the last number of its file's name where no file says otherwise. A picture that is
    named and not there is an error, or is left out and counted (``on_error="skip"``).
    """

    def __init__(
        self,
        *,
        path: str,
        instances: str | None = None,
        captions: str | None = None,
        objects: str | None = None,
        questions: str | None = None,
        images: str | None = None,
        on_error: OnError = "raise",
        check: Check = "none",
    ) -> None:
        super().__init__(on_error, check)
        if not (instances or captions or objects or questions):
            raise UserError(
                "Nothing says which pictures these are.",
                "Name dataset.instances=FILE, dataset.objects=FILE, dataset.captions=FILE or dataset.questions=FOLDER.",
            )
        if instances and objects:
            raise UserError("dataset.instances and dataset.objects both name the objects.", "Leave one of them out.")
        self.path = Path(path).expanduser()
        self.files = {
            name: None if value is None else Path(value).expanduser()
            for name, value in (
                ("instances", instances), ("captions", captions), ("objects", objects),
                ("questions", questions), ("images", images),
            )
        }  # fmt: skip

    @cached_property
    def source(self) -> CocoFiles:
        """The files."""
        return CocoFiles(self)

    def questions(self, setting: str, per_image: int = 6, seed: int = 0) -> pa.Table:
        """Return yes/no questions after objects: POPE's own where their files are there, else made from the objects.

        Raises :class:`~vlsae.errors.UserError` for a setting without a file, and where no file names the objects.
        """
        if setting not in SETTINGS:
            raise unknown("setting of questions", setting, SETTINGS)
        if self.files["questions"] is not None:
            return self._published(setting)
        present = self.present_objects(range(len(self)))
        names = sorted(set().union(*present))
        matrix = np.array([[name in here for name in names] for here in present], bool).reshape(len(present), -1)
        return ask(matrix, names, setting, question_after, per_image, seed)

    def present_objects(self, rows: Sequence[int]) -> list[set[str]]:
        """Return the objects that some pictures hold; ``UserError`` where no file says them."""
        known = self.source.objects
        if known is None:
            raise UserError(
                "No file says which objects the pictures hold.", "Name dataset.instances=FILE or dataset.objects=FILE."
            )
        ids = [self._content[0][int(row)].id for row in rows]
        return [set(known.get(one, ())) for one in ids]

    @property
    def object_words(self) -> dict[str, str]:
        """The names of the objects themselves; other words for them only a file of synonyms knows."""
        known = self.source.objects or {}
        return {name: name for name in sorted(set().union(*known.values()))} if known else {}

    def _published(self, setting: str) -> pa.Table:
        file = self.source.question_files.get(setting)
        if file is None:
            found = ", ".join(self.source.question_files) or "none"
            raise UserError(
                f"There is no file of the setting {setting} in {self.files['questions']}; there is {found}.",
                f"Choose others, or add one whose name ends in {setting}.json.",
            )
        row_of = {sample.id: number for number, sample in enumerate(self._content[0])}
        asked = [one for one in read_questions(file) if image_id(one["image"]) in row_of]
        return questions_table(
            [row_of[image_id(one["image"])] for one in asked],
            [one["text"] for one in asked],
            [one["label"] for one in asked],
            [asked_object(one["text"]) for one in asked],
            setting,
        )


class CocoFiles(Gathered):
    """The pictures that COCO's files name, with their captions."""

    wanted = "no picture"

    def __init__(self, dataset: Coco) -> None:
        self.dataset = dataset

    @property
    def origin(self) -> str:
        """The folder of the pictures."""
        return str(self.dataset.path)

    @cached_property
    def files(self) -> ImageFiles:  # type: ignore[override]
        """The pictures, by name."""
        return ImageFiles(self.dataset.path)

    @cached_property
    def objects(self) -> dict[str, list[str]] | None:
        """The objects of each image id; None where no file names any."""
        if self.dataset.files["objects"] is not None:
            return read_objects(self.dataset.files["objects"])
        file = self.dataset.files["instances"]
        if file is None:
            return None
        content = _coco(file, ("images", "annotations", "categories"))
        try:
            names = {one["id"]: one["name"] for one in content["categories"]}
            found: dict[str, list[str]] = {str(one["id"]): [] for one in content["images"]}
            for one in content["annotations"]:
                found.setdefault(str(one["image_id"]), []).append(names[one["category_id"]])
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{file.name} lacks {error} for instances in COCO's form.", "Name an instances file."
            ) from error
        return found

    @cached_property
    def question_files(self) -> dict[str, Path]:
        """POPE's files by setting."""
        place = self.dataset.files["questions"]
        if place is None:
            return {}
        if not place.exists():
            raise MissingFile(f"There is no file or folder of questions {place}.", "Name one: dataset.questions=…")
        files = sorted(place.iterdir()) if place.is_dir() else [place]
        found: dict[str, Path] = {}
        for file in files:
            setting = next((one for one in SETTINGS if file.stem.endswith(one)), None)
            if setting is None:
                continue
            if setting in found:
                raise UserError(
                    f"{found[setting].name} and {file.name} are both of the setting {setting}.",
                    "Name a folder with one file a setting.",
                )
            found[setting] = file
        if not found:
            raise UserError(f"{place} holds no file of questions.", f"Their names end in {', '.join(SETTINGS)}.")
        return found

    def found(self) -> tuple[Sequence[Sample], list[Skipped]]:
        """Return a sample for each image that is named, and those whose picture is missing."""
        captions, problems, samples = self._captions(), [], []
        for one, name in self._named().items():
            try:
                location = self.files.find(name)
            except UserError as error:
                problems.append(Skipped(f"image {one}", error.message))
                continue
            samples.append(Sample(one, f"image {one}", location, texts=captions.get(one, []), group=one))
        return samples, problems

    def labels(self, samples: Sequence[Sample]) -> dict[str, list[Any]]:
        """Return the image ids as labels."""
        return {"image": [sample.id for sample in samples]}

    def digest(self, samples: Sequence[Sample]) -> str:
        """Return the SHA-256 over the pictures and all files that say something of them."""
        total = hashlib.sha256(json.dumps([self.dataset.on_error, [s.id for s in samples]]).encode())
        total.update(self.files.digest([sample.location for sample in samples]).encode())
        single = [file for name, file in self.dataset.files.items() if file is not None and name != "questions"]
        for file in [*single, *self.question_files.values()]:
            total.update(hashlib.sha256(file.read_bytes()).digest())
        return total.hexdigest()

    def _named(self) -> dict[str, str]:
        """Return the file name of each image id."""
        files = dict(self._files_by_id())
        wanted = self.dataset.files["images"]
        if wanted is None:
            return files
        ids = [str(one) for one in _json(wanted)]
        missing = [one for one in ids if one not in files]
        if missing:
            raise UserError(f"{wanted.name} names image {missing[0]}, of which no other file knows.", "Leave it out.")
        return {one: files[one] for one in ids}

    def _files_by_id(self) -> Iterator[tuple[str, str]]:
        for name in ("instances", "captions"):
            file = self.dataset.files[name]
            if file is not None:
                images = _coco(file, ("images",))["images"]
                yield from ((str(one["id"]), str(one["file_name"])) for one in images)
                return
        if self.question_files:
            for file in self.question_files.values():
                yield from ((image_id(one["image"]), one["image"]) for one in read_questions(file))
            return
        known = self.objects or {}
        by_id = {image_id(place.member): place.member for place in self.files.all()}
        yield from ((one, by_id.get(one, one)) for one in known)

    def _captions(self) -> dict[str, list[str]]:
        file = self.dataset.files["captions"]
        found: dict[str, list[str]] = {}
        for one in [] if file is None else _coco(file, ("annotations",))["annotations"]:
            found.setdefault(str(one["image_id"]), []).append(str(one["caption"]).strip())
        return found


def image_id(name: str) -> str:
    """Return the id in a file's name, its last number without leading zeros; without one the name's stem."""
    stem = Path(name).stem
    found = _NUMBER.search(stem)
    return str(int(found.group())) if found else stem


def asked_object(question: str) -> str:
    """Return the object that a question is after; the question itself where it has another form."""
    found = _ASKED.search(question)
    return found["object"].lower() if found else question


def question_after(name: str) -> str:
    """Return POPE's question after an object."""
    return f"Is there {'an' if name[0] in 'aeiou' else 'a'} {name} in the image?"


def read_questions(file: Path) -> list[dict[str, str]]:
    """Return the questions of a POPE file, JSON lines or a list: ``image``, ``text``, ``label`` (yes or no) of each.

    Raises :class:`~vlsae.errors.UserError` naming the line that lacks one of them or has another label.
    """
    content = read_text(file)
    try:
        found = (
            json.loads(content)
            if content.lstrip().startswith("[")
            else [json.loads(line) for line in content.splitlines() if line.strip()]
        )
    except ValueError as error:
        raise UserError(
            f"{file.name} is not JSON: {error}.", "Expected POPE's questions, one JSON object a line."
        ) from error
    for number, one in enumerate(found, start=1):
        if not isinstance(one, dict) or not {"image", "text", "label"} <= set(one):
            raise UserError(f"{file.name}, question {number} lacks image, text or label.", "Expected POPE's questions.")
        if one["label"] not in ("yes", "no"):
            raise UserError(f"{file.name}, question {number} has the label {one['label']!r}.", "It must be yes or no.")
    return found


def read_objects(file: Path) -> dict[str, list[str]]:
    """Return the objects of each image id from a JSON ``{id: [object, …]}``; ``UserError`` for another form."""
    content = _json(file)
    lists = isinstance(content, Mapping) and all(
        isinstance(one, list) and all(isinstance(name, str) for name in one) for one in content.values()
    )
    if not lists:
        raise UserError(f"{file.name} is JSON of another form.", "Expected {image id: [object, …]}.")
    return {str(int(one)) if one.isdigit() else one: list(names) for one, names in content.items()}


def _coco(file: Path, needed: Sequence[str]) -> dict[str, Any]:
    content = _json(file)
    missing = [name for name in needed if not isinstance(content, dict) or not isinstance(content.get(name), list)]
    if missing:
        raise UserError(f"{file.name} has no list of {missing[0]}.", "Expected a file in COCO's form.")
    return content


def _json(file: Path) -> Any:
    if not file.is_file():
        raise MissingFile(f"There is no file {file}.", "Name one that exists.")
    try:
        return json.loads(read_text(file))
    except ValueError as error:
        raise UserError(f"{file.name} is not JSON: {error}.", "Mend the file.") from error
