"""Texts made of labels: ``a photo of a {class}``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vlsae.errors import UserError, unknown

_FIELD = re.compile(r"\{(\w+)\}")


def fields_of(template: str, known: Sequence[str]) -> list[str]:
    """Return the labels that a template names; ``UserError`` where it names none, or one that is not known."""
    fields = _FIELD.findall(template)
    if not fields:
        raise UserError(
            f"dataset.template={template!r} names no label.",
            f"Write one in braces: {{{(list(known) or ['class'])[0]}}}",
        )
    for name in fields:
        if name not in known:
            raise unknown("label for dataset.template", name, known)
    return fields


def filled(template: str, labels: Mapping[str, Any]) -> str:
    """Return a template with labels in the place of their names, underscores as spaces."""
    return _FIELD.sub(lambda field: str(labels[field[1]]).replace("_", " "), template)
