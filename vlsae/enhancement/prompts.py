"""The texts that stand for classes: names in templates, or descriptions from a file.

A file of prompts is JSON: ``{"label": field, "classes": [names] or {label: name}, "names": {label: name},
"templates": [texts], "descriptions": {label: [texts]}}``, every part optional; ``names`` only says what some labels are
called, ``classes`` which there are. In a template ``{}`` is the name, ``{a}`` the name behind its
indefinite article. The package holds such files for known datasets, named by the dataset.
"""

from __future__ import annotations

import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from vlsae.errors import MissingFile, UserError, nearest, unknown

PARTS = ("label", "classes", "names", "templates", "descriptions", "source")
DEFAULT_TEMPLATES = ("a photo of {a}.",)


@dataclass(frozen=True)
class PromptFile:
    """What a file of prompts says; ``classes`` maps labels of the data to names, None where it leaves them open."""

    label: str | None = None
    classes: Mapping[str, str] | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    templates: Sequence[str] = DEFAULT_TEMPLATES
    descriptions: Mapping[str, Sequence[str]] = field(default_factory=dict)


def bundled_names() -> list[str]:
    """Return the names of the files of prompts that the package holds."""
    folder = resources.files("vlsae.bundled") / "prompts"
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".json"))


def read_prompts(reference: str | None) -> PromptFile:
    """Return the prompts of a bundled name or a file; without one, names in a plain template.

    Raises :class:`~vlsae.errors.UserError` that names the file and what is wrong with it.
    """
    if reference is None:
        return PromptFile()
    content = _json(_text(reference), reference)
    if not isinstance(content, dict) or not set(content) <= set(PARTS):
        raise UserError(f"{reference} is no file of prompts.", f"It is a JSON object with some of {', '.join(PARTS)}.")
    return PromptFile(
        content.get("label"),
        None if content.get("classes") is None else _classes(content["classes"], reference),
        _classes(content["names"], reference) if content.get("names") else {},
        content.get("templates") or DEFAULT_TEMPLATES,
        _descriptions(content.get("descriptions") or {}, reference),
    )


def read_classes(given: str | Sequence[str] | None) -> dict[str, str] | None:
    """Return label → name of a list of classes, a text file with one a line, or a JSON file; None for none."""
    if given is None:
        return None
    if not isinstance(given, str):
        return _classes(list(given), "task.classes")
    text = _text(given)
    return _classes(_json(text, given) if given.endswith(".json") else _lines(text), given)


def read_templates(given: str | Sequence[str] | None) -> list[str] | None:
    """Return a list of templates, or those of a text file, one a line; None for none."""
    if given is None:
        return None
    return _lines(_text(given)) if isinstance(given, str) else list(given)


def read_descriptions(path: str | None) -> dict[str, list[str]]:
    """Return label → texts of a JSON file of descriptions; none for none."""
    return {} if path is None else _descriptions(_json(_text(path), path), path)


def classes_in(labels: Sequence[str], names: Mapping[str, str]) -> dict[str, str]:
    """Return label → name of the labels in the data: the name given, else the label with spaces for underscores."""
    return {label: names.get(label, label.replace("_", " ")) for label in sorted(set(labels))}


def class_texts(
    classes: Mapping[str, str], templates: Sequence[str], descriptions: Mapping[str, Sequence[str]]
) -> list[list[str]]:
    """Return the texts of each class in order: its descriptions where there are any, else its name in each template.

    Raises :class:`~vlsae.errors.UserError` for a template without a place for the name, an empty text, and descriptions
    that some classes lack.
    """
    if descriptions:
        lacking = [label for label in classes if not descriptions.get(label)]
        if lacking:
            raise UserError(f"{len(lacking)} classes have no description, the first {lacking[0]!r}.", "Describe them.")
        texts = [list(descriptions[label]) for label in classes]
    else:
        if not templates:
            raise UserError(
                "There is no template for the classes' names.", 'Give one: task.templates=["a photo of {a}."]'
            )
        for template in templates:
            _check_template(template)
        texts = [[template.format(name, a=_with_article(name)) for template in templates] for name in classes.values()]
    for label, several in zip(classes, texts, strict=True):
        if any(not text.strip() for text in several):
            raise UserError(f"A text of the class {label!r} is empty.", "Every class needs words.")
    return texts


def check_known(classes: Mapping[str, str], found: Sequence[str]) -> None:
    """Raise :class:`~vlsae.errors.UserError` unless all classes are among the labels ``found`` in the data."""
    known = sorted(set(found))
    strange = [label for label in classes if label not in known]
    if strange:
        close = nearest(strange[0], known)
        mend = f"Did you mean {' or '.join(close)}?" if close else f"The data has: {', '.join(known[:20])}."
        raise UserError(f"{len(strange)} of the classes are not in the data, the first {strange[0]!r}.", mend)


def check_classes(classes: Mapping[str, str], found: Sequence[str]) -> None:
    """Raise :class:`~vlsae.errors.UserError` unless the classes and the labels ``found`` in the data are the same."""
    check_known(classes, found)
    unnamed = [label for label in sorted(set(found)) if label not in classes]
    if unnamed:
        raise UserError(
            f"{len(unnamed)} labels of the data are no class, the first {unnamed[0]!r}.",
            "Name them in task.classes too, or leave out their rows.",
        )
    if len(classes) < 2:
        raise UserError(f"There is one class, {next(iter(classes), 'none')!r}.", "Classification needs at least two.")


def _check_template(template: str) -> None:
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise UserError(f"The template {template!r} cannot be read: {error}.", "Write {} for the name.") from error
    if not template.strip():
        raise UserError("A template is empty.", "Write {} where the class's name goes: 'a photo of {}.'")
    if not fields or not fields <= {"", "a"}:
        raise UserError(f"The template {template!r} has no place for the class's name.", "Write {} or {a} there.")


def _with_article(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _classes(content: Any, where: str) -> dict[str, str]:
    classes = dict(zip(content, content)) if isinstance(content, list) else content
    if not isinstance(classes, dict) or not classes:
        raise UserError(f"{where} holds no classes.", "Give a list of names, or an object of label → name.")
    if isinstance(content, list) and len(classes) < len(content):
        twice = next(name for name in content if content.count(name) > 1)
        raise UserError(f"{where} names the class {twice!r} twice.", "Name each class once.")
    bad = [name for pair in classes.items() for name in pair if not isinstance(name, str) or not name.strip()]
    if bad:
        raise UserError(f"{where} has the class {bad[0]!r}.", "A class is a text that is not empty.")
    return classes


def _descriptions(content: Any, where: str) -> dict[str, list[str]]:
    good = isinstance(content, dict) and all(
        isinstance(texts, list) and all(isinstance(one, str) for one in texts) for texts in content.values()
    )
    if not good:
        raise UserError(f"{where} holds no descriptions.", "They are an object of label → list of texts.")
    return {label: list(texts) for label, texts in content.items()}


def _text(reference: str) -> str:
    path = Path(reference).expanduser()
    if path.suffix or "/" in reference:
        if not path.is_file():
            raise MissingFile(f"There is no file {reference}.", "Name one that exists.")
        return path.read_text(encoding="utf-8")
    names = bundled_names()
    if reference not in names:
        raise unknown("file of prompts", reference, names)
    return (resources.files("vlsae.bundled") / "prompts" / f"{reference}.json").read_text(encoding="utf-8")


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{where} is no JSON: {error}.") from error
