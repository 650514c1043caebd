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
from vlsae.errors import MissingFile, UserError, nearest, unknown

#: Endings of files that hold directions.
DIRECTIONS = (".npy", ".json", ".safetensors")

#: Stands between a file of a probe's directions and the one that is meant.
NAMED = "#"


class Directions:
    """Directions ``(h, d)`` as a dictionary of as many concepts: activities are a row's projections onto them.

    ``site`` is where they hold and ``factors`` what they were found for, each None where the file does not say.
    """

    def __init__(self, vectors: Tensor, site: str | None = None, factors: Sequence[str | None] | None = None) -> None:
        self.vectors = vectors / vectors.norm(dim=1, keepdim=True)
        self.n_concepts, self.width = vectors.shape
        self.site, self.factors = site, list(factors or [None] * self.n_concepts)

    def encode(self, x: Tensor, stream: str) -> SparseCode:
        """Return the projections ``(n, h)`` of rows ``(n, d)``."""
        return SparseCode.from_dense(x.to(self.vectors.dtype) @ self.vectors.T)

    def decode(self, code: SparseCode | Tensor, stream: str) -> Tensor:
        """Return the rows ``(n, d)`` that projections stand for."""
        dense = code.to_dense() if isinstance(code, SparseCode) else code
        return dense @ self.vectors


def is_direction(reference: int | str) -> bool:
    """Tell whether a reference names a file of directions, or one within such a file."""
    return isinstance(reference, str) and reference.partition(NAMED)[0].endswith(DIRECTIONS)


def read_directions(references: Sequence[str], site: str, width: int) -> Directions:
    """Return the directions that references name, in one dictionary, for rows of a site.

    A reference is a file: a vector in ``.npy``, a list in ``.json``, the only tensor in ``.safetensors``; or
    ``directions.safetensors#SITE/TARGET`` of a probe's run, with ``/CLASS``, a number, where the target has several.
    Raises :class:`~vlsae.errors.UserError` for one that is no finite vector of the width, or of another site.
    """
    found = [_read(reference, width) for reference in references]
    for reference, (_, own, _) in zip(references, found):
        if own is not None and own != site:
            raise UserError(
                f"{reference} is a direction of {own}; the dictionary reads {site}.",
                "Use a direction of that site, or another dictionary: train.sites, or --run RUN.",
            )
    return Directions(torch.stack([vector for vector, _, _ in found]), site, [factor for _, _, factor in found])


def check_direction(reference: str) -> None:
    """Raise :class:`~vlsae.errors.UserError` for a direction that cannot be read, whatever its width."""
    _read(reference, None)


def _read(reference: str, width: int | None) -> tuple[Tensor, str | None, str | None]:
    """Return a direction, and where its file says so its site and its factor."""
    path, _, name = reference.partition(NAMED)
    file = Path(path).expanduser()
    if not file.is_file():
        raise MissingFile(f"There is no file of a direction {path}.", "A probe's run holds one, or name a concept.")
    if name and file.suffix != ".safetensors":
        raise UserError(f"{path} holds one direction, and {name!r} is asked for.", f"Leave out {NAMED}{name}.")
    site = factor = None
    try:
        if file.suffix == ".npy":
            values = np.load(file, allow_pickle=False)
        elif file.suffix == ".json":
            values = np.asarray(json.loads(file.read_text(encoding="utf-8")), dtype=np.float64)
        else:
            from safetensors.numpy import load_file

            values, site, factor = _of_several(load_file(file), path, name)
    except UserError:
        raise
    except Exception as error:
        # safetensors' own error derives from Exception alone.
        raise UserError(f"{path} holds no direction: {error}.") from error
    vector = np.asarray(values).reshape(-1)
    width = len(vector) if width is None else width
    if vector.dtype.kind not in "fiu" or len(vector) != width or not np.isfinite(vector).all() or not vector.any():
        shape = np.asarray(values).shape
        raise UserError(
            f"{reference} holds values of shape {shape}.", f"A direction here is {width} finite numbers, not all 0."
        )
    return torch.from_numpy(vector.astype(np.float32)), site, factor


def _of_several(tensors: Mapping[str, np.ndarray], path: str, name: str) -> tuple[np.ndarray, str | None, str | None]:
    """Return the tensor of a name among a probe's, or the only one, with its site and what its target is called."""
    if not name:
        if len(tensors) == 1:
            return next(iter(tensors.values())), None, None
        known = _named_weights(tensors)
        example = f", such as {path}{NAMED}{known[0]}" if known else ""
        raise UserError(f"{path} holds {len(tensors)} tensors.", f"Name a direction behind {NAMED}{example}.")
    target, _, row = name.rpartition("/")
    number: int | None = None
    if f"{name}/weight" not in tensors and f"{target}/weight" in tensors and row.isdigit():
        name, number = target, int(row)
    if f"{name}/weight" not in tensors:
        raise unknown(f"direction in {path}", name, _named_weights(tensors))
    weights = tensors[f"{name}/weight"]
    if (number is None and len(weights) > 1) or (number or 0) >= len(weights):
        raise UserError(
            f"{name} has {len(weights)} directions, one a class.",
            f"Name one: {path}{NAMED}{name}/0 … /{len(weights) - 1}",
        )
    site, _, factor = name.partition("/")
    return weights[number or 0], site, factor if number is None else None


def _named_weights(tensors: Mapping[str, np.ndarray]) -> list[str]:
    return [name.removesuffix("/weight") for name in tensors if name.endswith("/weight")]


def numbered(reference: int | str, dictionary: Dictionary, concepts: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the number of a concept given by number or name; None where it is neither.

    Raises :class:`~vlsae.errors.UserError` for a number that the dictionary has not got and a name of several.
    """
    text = str(reference).strip()
    if text.isdigit():
        if int(text) >= dictionary.n_concepts:
            raise UserError(f"There is no concept {text}.", f"The dictionary has 0…{dictionary.n_concepts - 1}.")
        return int(text)
    found = [concept["id"] for concept in concepts if (concept.get("name") or "").casefold() == text.casefold()]
    if len(found) > 1:
        listed = ", ".join(map(str, found[:10])) + (" …" if len(found) > 10 else "")
        raise UserError(
            f"{len(found)} concepts are named {text!r}: {listed}.", f"Give the number of one, such as {found[0]}."
        )
    return found[0] if found else None


def described(reference: int | str, number: int) -> str:
    """Return in words which concept, or direction, a reference was found to mean."""
    if is_direction(reference):
        return f"the direction {reference}"
    if str(reference).strip() == str(number):
        return f"concept {number}"
    return f"concept {number} ({'which finds ' if '=' in str(reference) else ''}{reference})"


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


def check_attribute(data: Any, reference: str) -> None:
    """Raise :class:`~vlsae.errors.UserError` for a factor or label field that a data set does not know."""
    _known(data, data.table.select(range(min(1, len(data)))), reference)


def attribute(data: Any, samples: Any, reference: str) -> np.ndarray:
    """Return which samples have a factor ``name=value`` of the data, or a label field ``name`` of that value, ``(n,)``.

    Raises :class:`~vlsae.errors.UserError` for one that the data does not know, and for one that all or none have.
    """
    present = _known(data, samples, reference)
    if present.all() or not present.any():
        raise UserError(
            f"{'Every' if present.all() else 'No'} sample of the task's data has {reference}.",
            "Take one that some have and others have not.",
        )
    return present


def _known(data: Any, samples: Any, reference: str) -> np.ndarray:
    """Return which samples have a factor or a label field of a value."""
    known: dict[str, np.ndarray] = {}
    if getattr(data, "factors", None) is not None:
        names, _, matrix = data.factors(samples)
        known = dict(zip(names, matrix.T))
    if reference in known:
        return known[reference]
    name, _, value = reference.partition("=")
    labels = samples["labels"] if not hasattr(samples, "schema") else samples.column("labels").to_pylist()
    own = any(one.startswith(f"{name}=") for one in known)
    if own or not labels or not labels[0] or name not in labels[0] or not value:
        raise no_such(reference, (), list(known))
    return np.array([str(label[name]) == value for label in labels])
