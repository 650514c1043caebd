"""Which columns of a Hugging Face dataset hold what: as the user maps them, else by type and usual name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vlsae.datasets.tables import COLUMNS, USUAL
from vlsae.errors import UserError, nearest, unknown

if TYPE_CHECKING:
    import datasets as hf

#: The keys that may map several columns.
SEVERAL = ("text", "label")


@dataclass(frozen=True)
class Mapped:
    """A dataset's own names of our columns; ``names`` holds the class names of columns of classes, by number."""

    image: str | None = None
    text: list[str] = field(default_factory=list)
    label: list[str] = field(default_factory=list)
    id: str | None = None
    group: str | None = None
    split: str | None = None
    names: Mapping[str, Mapping[int, str]] = field(default_factory=dict)


def map_columns(features: hf.Features, asked: Mapping[str, str | list[str]], origin: str) -> Mapped:
    """Return the mapping of a dataset's columns; an empty name maps none, and a column is not guessed for two keys.

    Raises:
        UserError: a key or a column that is not there, a column of a wrong type, or neither an image nor a text.
    """
    for key, value in asked.items():
        if key not in COLUMNS:
            raise unknown("key in dataset.columns", key, COLUMNS)
        if isinstance(value, list) and key not in SEVERAL:
            raise UserError(f"dataset.columns.{key} lists {len(value)} columns.", "Name one.")
    given = {key: [value] if isinstance(value, str) else list(value) for key, value in asked.items()}
    for key, names in given.items():
        for name in names:
            if name and name not in features:
                close = nearest(name, features)
                hint = f" Did you mean {' or '.join(close)}?" if close else ""
                raise UserError(
                    f"{origin} has no column {name!r} (dataset.columns.{key}).", f"It has {', '.join(features)}.{hint}"
                )
    taken = {name for names in given.values() for name in names}
    guessed = {key: _guess(key, features, taken) for key in COLUMNS}
    chosen = {key: [name for name in given.get(key, guessed[key]) if name] for key in COLUMNS}
    _check_types(features, chosen, origin)
    if not chosen["image"] and not chosen["text"]:
        raise UserError(
            f"{origin} has neither an image nor a text column that is known by its name: it has {', '.join(features)}.",
            "Say which: dataset.columns.image=NAME or dataset.columns.text=NAME",
        )
    single = {key: next(iter(chosen[key]), None) for key in COLUMNS if key not in SEVERAL}
    classes = {name: dict(enumerate(kind.names)) for name, kind in features.items() if hasattr(kind, "names")}
    return Mapped(text=chosen["text"], label=chosen["label"], names=classes, **single)


def _guess(key: str, features: hf.Features, taken: set[str]) -> Sequence[str]:
    import datasets as hf

    free = {name: kind for name, kind in features.items() if name not in taken}
    if key == "image":
        return [name for name, kind in free.items() if isinstance(kind, hf.Image)][:1]
    if key == "label":
        return [name for name, kind in free.items() if isinstance(kind, hf.ClassLabel)] or _named(free, USUAL[key])
    if key == "text":
        return _named({name: kind for name, kind in free.items() if _is_text(kind)}, USUAL[key])
    return _named(free, USUAL[key])


def _named(features: Mapping[str, Any], usual: Sequence[str]) -> list[str]:
    return [name for name in usual if name in features][:1]


def _check_types(features: hf.Features, chosen: Mapping[str, Sequence[str]], origin: str) -> None:
    import datasets as hf

    for name in chosen["image"]:
        if not isinstance(features[name], hf.Image):
            raise UserError(
                f"{origin}: column {name!r} is {_words(features[name])}, not images.",
                "Addresses and file names are not followed: download the images, and use dataset=captions.",
            )
    for name in chosen["text"]:
        if not _is_text(features[name]):
            raise UserError(f"{origin}: column {name!r} is {_words(features[name])}, not text.", "Map another column.")


def _is_text(kind: Any) -> bool:
    inner = getattr(kind, "feature", None) or (kind[0] if isinstance(kind, list) and kind else kind)
    return getattr(inner, "dtype", None) in ("string", "large_string")


def _words(kind: Any) -> str:
    return str(getattr(kind, "dtype", None) or type(kind).__name__)
