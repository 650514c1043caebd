"""Weights that live elsewhere: from the cache, else downloaded, else an error that names the ways out."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlsae.errors import UserError
from vlsae.models import open_clip_tables

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_name(name: str) -> bool:
    """Tell whether a word has the form ``ORG/NAME`` or ``ORG/NAME@REV``."""
    return _NAME.fullmatch(name) is not None


def is_cached(name: str) -> bool:
    """Tell whether the cache holds something of a repository."""
    if not is_name(name):
        return False
    from huggingface_hub import constants

    repository = name.partition("@")[0].replace("/", "--")
    return (Path(constants.HF_HUB_CACHE) / f"models--{repository}").is_dir()


def snapshot(name: str, small: Sequence[str], weights: Sequence[str]) -> Path:
    """Return the folder of a repository with its ``small`` files, the first of them needed, and one of its ``weights``.

    A name of weights may be a pattern, such as ``model-*.safetensors``, which means all files that it fits.

    Raises:
        UserError: the name is malformed, the repository has no such weights, or it cannot be reached.
    """
    if not is_name(name):
        raise UserError(f"{name!r} is no name on the Hub.", "Write hub:ORG/NAME or hub:ORG/NAME@REV.")
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    # A commit names its content, so the cache is as good as the Hub and is looked at first.
    if _COMMIT.fullmatch(revision):
        try:
            found = Path(snapshot_download(repository, revision=revision, local_files_only=True))
        except Exception:  # the client's errors for "not in the cache" differ by version; the download below decides
            found = None
        if found is not None and (found / small[0]).is_file() and _has_any(found, weights):
            return found
    try:
        folder = Path(snapshot_download(repository, revision=revision or None, allow_patterns=list(small)))
        if not _has_any(folder, weights):
            _fetch_first(repository, revision or None, weights)
    except UserError:
        raise
    except Exception as error:  # offline, not found, gated, a broken connection: each is out of reach
        raise unreachable(f"hub:{name}", error) from error
    return folder


def _fetch_first(repository: str, revision: str | None, weights: Sequence[str]) -> None:
    from huggingface_hub import HfApi, hf_hub_download

    there = HfApi().list_repo_files(repository, revision=revision)
    for weight in weights:
        fitting = fnmatch.filter(there, weight)
        for name in fitting:
            hf_hub_download(repository, name, revision=revision)
        if fitting:
            return
    raise UserError(f"hub:{repository} holds no weights of this family.", f"Looked for {', '.join(weights)}.")


def _has_any(folder: Path, weights: Sequence[str]) -> bool:
    return any(next(folder.glob(weight), None) is not None for weight in weights)


def listed_weights(name: str, source: Mapping[str, Any]) -> Path:
    """Return the weight file of a pair that open_clip lists, from the cache or downloaded by open_clip's own client.

    Raises:
        UserError: the weights cannot be reached.
    """
    try:
        with _cache_alone_where_silent():
            found = open_clip_tables.pretrained_module().download_pretrained(dict(source))
    except Exception as error:  # see above
        raise unreachable(name, error) from error
    if not found:
        raise unreachable(name, "open_clip lists no place for them")
    return Path(found)


@contextmanager
def _cache_alone_where_silent() -> Iterator[None]:
    """Within the context, look in the cache alone where the Hub does not answer: its client tries for a minute."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    offline = constants.HF_HUB_OFFLINE
    if not offline:
        try:
            get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        except Exception:  # the client's errors differ by version, and each means that there was no answer
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline


def unreachable(name: str, reason: object) -> UserError:
    """Return the error for weights that cannot be reached, with the ways out."""
    lines = str(reason).strip().splitlines()
    return UserError(
        f"The weights of {name} cannot be reached: {lines[0] if lines else type(reason).__name__}",
        "Ways out: a local copy (model.checkpoint=path:FOLDER, or path:FILE with model.architecture), a filled Hugging "
        "Face cache (HF_HOME, HF_HUB_OFFLINE=1), or the small bundled model (model.checkpoint=bundled).",
    )
