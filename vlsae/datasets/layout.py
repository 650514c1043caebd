"""What the folders of pictures say: split and class, as the image folders of torchvision and Hugging Face read them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from vlsae.datasets.values import SPLIT_NAMES
from vlsae.errors import UserError


@dataclass(frozen=True)
class Layout:
    """What its folders say of each picture; None where they say nothing."""

    splits: list[str | None]
    classes: list[str | None]


def read_layout(folders: Sequence[tuple[str, ...]], splits: str = "auto") -> Layout:
    """Return the split and the class of pictures from the folders that each lies in.

    Where every picture lies below a folder named like a split, those are the splits (none with ``splits="ignore"``);
    one split alone is none, for it divides nothing. The class is the name of the folder right above a picture; where
    all have one name, they have no class.

    Raises:
        UserError: two or more folders are named like splits, and pictures lie beside them.
    """
    shared = _shared(folders)
    level = next((depth for depth, name in enumerate(shared) if _split(name)), len(shared))
    found = [_split(own[level]) if len(own) > level and splits != "ignore" else None for own in folders]
    names = {name for name in found if name}
    if not all(found):
        if len(names) > 1:
            _refuse_half(folders, found, names)
        found = [None] * len(folders)
    above = level + 1 if any(found) else len(shared)
    classes = [own[-1] if len(own) > above else None for own in folders]
    if len({name for name in classes if name}) < 2:
        classes = [None] * len(folders)
    return Layout(found if len(names) > 1 else [None] * len(folders), classes)


def _refuse_half(folders: Sequence[tuple[str, ...]], found: Sequence[str | None], names: set[str]) -> None:
    beside = next(own for own, name in zip(folders, found) if not name)
    raise UserError(
        f"Some folders are named like splits ({', '.join(sorted(names))}), and pictures lie beside them, in "
        f"{'/'.join(beside) or 'the folder itself'}.",
        "Move those into a split, or take all folders for classes: dataset.splits=ignore",
    )


def _split(name: str) -> str | None:
    return SPLIT_NAMES.get(name.lower())


def _shared(folders: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the folders that all pictures lie in."""
    if not folders:
        return ()
    first, last = min(folders), max(folders)
    length = next((depth for depth, (a, b) in enumerate(zip(first, last)) if a != b), min(len(first), len(last)))
    return first[:length]


def in_turn(keys: Sequence[Hashable]) -> list[int]:
    """Return the numbers of rows, the first of each key in front, then the second of each, and so on."""
    seen: dict[Hashable, int] = {}
    ranks = []
    for key in keys:
        ranks.append(seen.get(key, 0))
        seen[key] = ranks[-1] + 1
    return sorted(range(len(keys)), key=ranks.__getitem__)
