"""WebDataset shards by name: a folder of tar files, one tar file, or a pattern with wildcards and braces."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from pathlib import Path

from vlsae.datasets.tables import SUFFIXES
from vlsae.errors import MissingFile, UserError

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")

#: Shards that one pattern may mean: more are a slip of the keyboard.
MOST = 1_000_000


def are_shards(path: Path) -> bool:
    """Tell whether a path means shards: a tar file, a pattern, or a folder of tar files without a caption file."""
    if path.is_dir():
        files = [file for file in path.iterdir() if file.is_file()]
        return any(_is_tar(file) for file in files) and not any(file.suffix.lower() in SUFFIXES for file in files)
    return _is_tar(path) or (not path.exists() and bool(re.search(r"[*?\[{]", str(path))))


def shard_paths(path: Path) -> list[Path]:
    """Return the shards that a path means, in the order of their names.

    Raises:
        MissingFile: no shard is there, or one that braces name is missing.
        UserError: the braces are malformed.
    """
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.is_file() and _is_tar(file))
    found: list[Path] = []
    for name in _expanded(str(path)):
        if re.search(r"[*?\[]", name):
            found += [Path(one) for one in glob.glob(name, recursive=True)]
        elif Path(name).is_file():
            found.append(Path(name))
        else:
            raise MissingFile(f"There is no shard {name}.", "Name shards that exist: dataset.path=FOLDER or a pattern")
    shards = sorted({one for one in found if one.is_file()})
    if not shards:
        raise MissingFile(f"No file fits {path}.", "Name shards that exist: dataset.path=FOLDER or a pattern")
    return shards


def _is_tar(path: Path) -> bool:
    return path.name.lower().endswith(".tar")


def _expanded(pattern: str) -> Iterator[str]:
    """Yield the names that a pattern's braces mean: ``{a,b}`` and ``{000..012}``."""
    braces = _BRACES.search(pattern)
    if braces is None:
        if "{" in pattern or "}" in pattern:
            raise UserError(f"{pattern} has a brace without its pair.", "Write {000..012} or {a,b}.")
        yield pattern
        return
    span = _RANGE.fullmatch(braces[1])
    if span is not None:
        first, last = int(span[1]), int(span[2])
        if not first <= last < first + MOST:
            raise UserError(f"{braces[0]} in {pattern} counts from {first} to {last}.", f"Count up, at most {MOST:,}.")
        choices: Iterator[str] = (str(number).zfill(len(span[1])) for number in range(first, last + 1))
    else:
        choices = iter(braces[1].split(","))
    for choice in choices:
        yield from _expanded(pattern[: braces.start()] + choice + pattern[braces.end() :])
