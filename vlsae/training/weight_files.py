"""Safetensors files that are whole or absent, with a header that tells what they hold and a digest of it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vlsae.runs.files import sync_folder, system_errors, temporary_beside


class DamagedFile(ValueError):
    """A weight file that cannot be read or whose content is not what its digest says."""


def write(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    """Write tensors and a JSON header atomically (temporary file, fsync, rename) and return the digest of both."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    own = digest(whole, header)
    text = json.dumps({**header, "digest": own}, sort_keys=True, allow_nan=False)
    handle, name = temporary_beside(path)
    os.close(handle)
    temporary = Path(name)
    try:
        with system_errors(path):
            save_file(whole, temporary, metadata={"vlsae": text})
        sync_folder(temporary)
        # mkstemp makes files private; weights are read by whoever may read their folder.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    return own


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """Return tensors, header and digest; :class:`DamagedFile` where the file is cut, changed or not of this form."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["vlsae"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        stated = header.pop("digest")
    except (SafetensorError, KeyError, TypeError, AttributeError, ValueError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise DamagedFile(f"{path} is damaged or no file of vlsae: {error}") from error
    if digest(tensors, header) != stated:
        raise DamagedFile(f"{path} is damaged: its content is not what its digest says.")
    return tensors, header, stated


def digest(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    """Return the SHA-256 of names, dtypes, shapes, values and header."""
    sha = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().to("cpu").contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
