"""Reaching a dataset: on the Hub, in the cache that the `datasets` library keeps, or as a copy on this machine."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlsae.errors import MissingFile, UserError, unknown

if TYPE_CHECKING:
    import datasets as hf

#: Seconds in which the Hub must answer that it is there.
TIMEOUT = 5.0

#: Files that are a dataset by themselves, and the library's reader of them.
READERS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".arrow": "arrow"}

#: Files that mark a folder written by the library's ``save_to_disk``.
SAVED = ("state.json", "dataset_dict.json")

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Origin(ABC):
    """A dataset that is found; ``content`` identifies what it holds."""

    content: str

    @abstractmethod
    def load(self, split: str | None, limit: int | None, streaming: bool) -> dict[str, hf.Dataset]:
        """Return the dataset's splits by name: the one asked for, or all; ``UserError`` for one that is not there."""


@dataclass
class _Remote(Origin):
    """A dataset on the Hub at one commit."""

    name: str
    config: str | None
    content: str

    def load(self, split: str | None, limit: int | None, streaming: bool) -> dict[str, hf.Dataset]:
        import datasets as hf

        with _explained(self.name):
            if not streaming:
                return _by_name(hf.load_dataset(self.name, self.config, revision=self.content, split=split), split)
            place = {"path": self.name, "name": self.config, "revision": self.content}
            found = hf.load_dataset(**place, streaming=True, split=split)
            splits = found if split is None else {split: found}
            # The rows stay in the library's cache under these arguments: a later stage does not download them again.
            return {
                name: hf.Dataset.from_generator(
                    _streamed,
                    gen_kwargs={"place": place, "split": name, "limit": limit},
                    features=rows.features or rows._resolve_features().features,
                )
                for name, rows in splits.items()
            }


@dataclass
class _Cached(Origin):
    """A dataset that the library prepared before, read without the Hub."""

    name: str
    config: str
    version: str
    content: str

    def load(self, split: str | None, limit: int | None, streaming: bool) -> dict[str, hf.Dataset]:
        from datasets.packaged_modules.cache.cache import Cache

        with _explained(self.name):
            builder = Cache(
                dataset_name=self.name.split("/")[-1],
                repo_id=self.name,
                config_name=self.config,
                version=self.version,
                hash=self.content,
            )
            builder.download_and_prepare()
            return _by_name(builder.as_dataset(split=split), split)


@dataclass
class _Local(Origin):
    """A copy on this machine: files that the library reads, or a folder that it saved."""

    path: Path
    config: str | None

    @property
    def content(self) -> str:  # type: ignore[override]
        from vlsae.runs import content_digest

        return content_digest(self.path)

    def load(self, split: str | None, limit: int | None, streaming: bool) -> dict[str, hf.Dataset]:
        import datasets as hf

        with _explained(str(self.path)):
            if self.path.is_dir() and any((self.path / name).is_file() for name in SAVED):
                saved = hf.load_from_disk(str(self.path))
                if split is None or not hasattr(saved, "keys"):
                    return _by_name(saved, split)
                if split not in saved:
                    raise unknown(f"split of {self.path}", split, saved)
                return {split: saved[split]}
            if self.path.is_dir():
                return _by_name(hf.load_dataset(str(self.path), self.config, split=split), split)
            options: dict[str, Any] = {"sep": "\t"} if self.path.suffix == ".tsv" else {}
            reader = READERS[self.path.suffix.lower()]
            return _by_name(hf.load_dataset(reader, data_files=str(self.path), split=split, **options), split)


def local_origin(path: Path, config: str | None) -> Origin:
    """Return a copy on this machine; ``MissingFile`` without it, ``UserError`` for a file of no known format."""
    if not path.exists():
        raise MissingFile(f"There is no dataset {path}.", "Name a folder or file that exists: dataset.path=…")
    if path.is_file() and path.suffix.lower() not in READERS:
        raise UserError(f"{path.name} is of no known format.", f"Known: {', '.join(READERS)}, or a folder.")
    return _Local(path, config)


def remote_origin(name: str, config: str | None, revision: str | None) -> Origin:
    """Return a dataset at the commit that a revision means: as the Hub has it, or the cache where it is out of reach.

    Raises:
        UserError: the name is malformed or unknown to the Hub, or the Hub is out of reach and the cache empty.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r} is no name on the Hub.", "Write dataset.name=ORG/NAME; a folder is dataset.path=…")
    # A commit names its content, so the cache is as good as the Hub.
    if revision and _COMMIT.fullmatch(revision) and (found := _in_cache(name, config, revision)):
        return found
    try:
        return _Remote(name, config, _commit(name, revision))
    except UserError:
        raise
    except Exception as error:  # offline, no name service, refused, timed out, a server that fails: out of reach
        cached = _in_cache(name, config, revision)
        if cached is None:
            raise _unreachable(name, error) from error
        return cached


def _commit(name: str, revision: str | None) -> str:
    from datasets import config as library
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if library.HF_HUB_OFFLINE:
        raise ConnectionError("HF_DATASETS_OFFLINE or HF_HUB_OFFLINE is set")
    try:
        return str(HfApi().dataset_info(name, revision=revision, timeout=TIMEOUT).sha)
    except RevisionNotFoundError as error:
        raise UserError(f"{name} has no revision {revision!r} on the Hub.", "Name a branch, tag or commit.") from error
    except GatedRepoError as error:
        raise UserError(
            f"{name} is gated: its owners let in whom they know.",
            "Ask for access there, and log in by `hf auth login`.",
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"The Hub has no dataset {name!r}, or it is private.", "Check the name; log in by `hf auth login`."
        ) from error


def _in_cache(name: str, config: str | None, revision: str | None) -> _Cached | None:
    """Return what the library's cache holds of a dataset: the revision asked for, or without one the newest.

    Raises ``UserError`` where several configurations are cached and none is named.
    """
    from datasets import config as library
    from datasets.naming import camelcase_to_snakecase

    *owner, last = name.split("/")
    root = Path(library.HF_DATASETS_CACHE) / "___".join([*owner, camelcase_to_snakecase(last)])
    commit = _cached_commit(name, revision)
    found = [
        folder
        for folder in root.glob("*/*/*")
        if (folder / "dataset_info.json").is_file()
        and folder.parts[-3] in ((config,) if config else (folder.parts[-3],))
        and folder.name == (commit or folder.name)
    ]
    if not found or (revision is not None and commit is None):
        return None
    configs = sorted({folder.parts[-3] for folder in found})
    if len(configs) > 1:
        raise UserError(f"The cache holds {name} as {', '.join(configs)}.", f"Choose one: dataset.config={configs[0]}")
    newest = max(found, key=lambda folder: folder.stat().st_mtime)
    return _Cached(name, newest.parts[-3], newest.parts[-2], newest.name)


def _cached_commit(name: str, revision: str | None) -> str | None:
    """Return the commit that a branch or tag meant when the Hub was last reached."""
    if revision and _COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import constants

    reference = Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}" / "refs" / (revision or "main")
    return reference.read_text().strip() if reference.is_file() else None


def _streamed(place: dict[str, str | None], split: str, limit: int) -> Iterator[dict[str, Any]]:
    """Yield the first rows of a split, their images as the bytes that they are stored as."""
    import datasets as hf

    rows = hf.load_dataset(**place, streaming=True, split=split)
    features = rows.features or rows._resolve_features().features
    images = [name for name, kind in features.items() if isinstance(kind, hf.Image)]
    for name in images:
        rows = rows.cast_column(name, hf.Image(decode=False))
    for row in rows.take(limit):
        for name in images:
            row[name] = _with_bytes(row[name])
        yield row


def _with_bytes(image: dict[str, Any] | None) -> dict[str, Any] | None:
    if image is None or image["bytes"] is not None:
        return image
    from datasets.download.streaming_download_manager import xopen

    with xopen(image["path"], "rb") as file:
        return {"bytes": file.read(), "path": None}


def _by_name(found: Any, split: str | None) -> dict[str, hf.Dataset]:
    return dict(found) if hasattr(found, "keys") else {split or "train": found}


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn what the library raises for a dataset into an error that a user can mend."""
    try:
        yield
    except UserError:
        raise
    except (ConnectionError, TimeoutError) as error:
        raise _unreachable(name, error) from error
    except Exception as error:  # the library lets through whatever its readers, and the client, raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = " ".join(lines[:3])[:400] or type(error).__name__
        raise UserError(f"{name} cannot be read: {reason}", _mend(reason)) from error


def _mend(reason: str) -> str:
    lowered = reason.lower()
    if "config" in lowered:
        return "Choose a configuration: dataset.config=NAME"
    if "script" in lowered:
        return (
            "Code that comes with a dataset is not run: use a copy in Parquet, CSV or a folder (dataset.path=FOLDER)."
        )
    if "split" in lowered:
        return "Choose a split: dataset.split=NAME, or leave it out for all."
    return "Check the name, or download it and give the copy: dataset.path=FOLDER."


def _unreachable(name: str, reason: object) -> UserError:
    lines = str(reason).strip().splitlines()
    return UserError(
        f"The dataset {name} cannot be reached on the Hub: {lines[0] if lines else type(reason).__name__}",
        "Ways out: a filled Hugging Face cache (HF_HOME of a machine that loaded it, HF_DATASETS_OFFLINE=1), a "
        "downloaded copy (dataset.path=FOLDER dataset.name=null; of a task's data task.data.path, task.data.name), or "
        "local files (dataset=image_folder, captions or text).",
    )
