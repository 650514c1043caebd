"""How a user names a concept: by its number, by its name, by a factor of the data, or by a probe's direction.

n rows, d width, h concepts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlsae.dictionaries.base import Dictionary, SparseCode
from vlsae.errors import MissingFile, UserError, nearest

#: Endings of files that hold a direction.
DIRECTIONS = (".npy", ".json", ".safetensors")


class Direction:
    """One direction ``(d,)`` as a dictionary of one concept: its activity is a row's projection onto it."""

    n_concepts = 1

    def __init__(self, vector: Tensor) -> None:
        self.vector = vector / vector.norm()
        self.width = len(vector)

    def encode(self, x: Tensor, stream: str) -> SparseCode:
        """Return the projections ``(n, 1)`` of rows ``(n, d)``."""
        return SparseCode.from_dense((x.to(self.vector.dtype) @ self.vector)[:, None])

    def decode(self, code: SparseCode | Tensor, stream: str) -> Tensor:
        """Return the rows ``(n, d)`` that projections stand for."""
        dense = code.to_dense() if isinstance(code, SparseCode) else code
        return dense @ self.vector[None]


def is_direction(reference: int | str) -> bool:
    """Tell whether a reference names a file of a direction."""
    return isinstance(reference, str) and reference.endswith(DIRECTIONS)


def read_direction(path: str, width: int) -> Direction:
    """Return the direction of a file: a vector in ``.npy``, a list in ``.json``, the only tensor in ``.safetensors``.

    Raises :class:`~vlsae.errors.UserError` for a file that holds no finite vector of the width.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise MissingFile(f"There is no file of a direction {path}.", "A probe's run holds one, or name a concept.")
    try:
        if file.suffix == ".npy":
            values = np.load(file, allow_pickle=False)
        elif file.suffix == ".json":
            values = np.asarray(json.loads(file.read_text(encoding="utf-8")), dtype=np.float64)
        else:
            from safetensors.numpy import load_file

            (values,) = load_file(file).values()
    except (ValueError, TypeError, OSError) as error:
        raise UserError(f"{path} holds no direction: {error}.") from error
    vector = np.asarray(values).reshape(-1)
    if vector.dtype.kind not in "fiu" or len(vector) != width or not np.isfinite(vector).all() or not vector.any():
        shape = np.asarray(values).shape
        raise UserError(
            f"{path} holds values of shape {shape}.", f"A direction here is {width} finite numbers, not all 0."
        )
    return Direction(torch.from_numpy(vector.astype(np.float32)))


def numbered(reference: int | str, dictionary: Dictionary, concepts: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the number of a concept given by number or name; None where it is neither.

    Raises :class:`~vlsae.errors.UserError` for a number that the dictionary has not got.
    """
    text = str(reference).strip()
    if text.isdigit():
        if int(text) >= dictionary.n_concepts:
            raise UserError(f"There is no concept {text}.", f"The dictionary has 0…{dictionary.n_concepts - 1}.")
        return int(text)
    found = [concept["id"] for concept in concepts if (concept.get("name") or "").casefold() == text.casefold()]
    return found[0] if found else None


def no_such(reference: int | str, concepts: Sequence[Mapping[str, Any]], factors: Sequence[str] = ()) -> UserError:
    """Return the error for a reference that names nothing, with the nearest names."""
    names = [concept["name"] for concept in concepts if concept.get("name")]
    close = nearest(str(reference), [*names, *factors])
    known = f"Factors of the data: {', '.join(factors[:12])} …" if factors else "Names come from enhance.names=FILE."
    mend = f"Did you mean {' or '.join(close)}?" if close else f"Give a concept's number or name. {known}"
    return UserError(f"There is no concept {str(reference)!r}.", mend)


def factor_names(data: Any, samples: Any) -> list[str]:
    """Return the factors that a data set knows of itself, such as ``color=red``; none where it knows none."""
    return [] if getattr(data, "factors", None) is None else list(data.factors(samples)[0])


def attribute(data: Any, samples: Any, reference: str) -> np.ndarray:
    """Return which samples have a factor ``name=value`` of the data, or a label field ``name`` of that value, ``(n,)``.

    Raises :class:`~vlsae.errors.UserError` for one that the data does not know, and for one that all or none have.
    """
    known: dict[str, np.ndarray] = {}
    if getattr(data, "factors", None) is not None:
        names, _, matrix = data.factors(samples)
        known = dict(zip(names, matrix.T))
    name, _, value = reference.partition("=")
    if reference in known:
        present = known[reference]
    else:
        labels = samples.column("labels").to_pylist() if "labels" in samples.column_names else []
        own = any(one.startswith(f"{name}=") for one in known)
        if own or not labels or name not in labels[0] or not value:
            raise no_such(reference, (), list(known))
        present = np.array([str(label[name]) == value for label in labels])
    if present.all() or not present.any():
        raise UserError(
            f"{'Every' if present.all() else 'No'} sample of the task's data has {reference}.",
            "Take one that some have and others have not.",
        )
    return present
