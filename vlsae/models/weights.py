"""Weights alone: a file of tensors, put into a module whole or not at all."""

from __future__ import annotations

import pickle
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlsae.errors import MissingFile, UserError

if TYPE_CHECKING:
    from torch import Tensor

#: Counters that a norm layer keeps beside its statistics, which no output depends on.
COUNTERS = "num_batches_tracked"

#: Keys under which training scripts keep the weights among other things.
NESTED = ("state_dict", "model")

#: What wrappers for several devices put in front of every name.
WRAPPER = "module."


@contextmanager
def damage_explained(path: Path) -> Iterator[None]:
    """Within the context, a file of weights that is damaged or holds more than tensors is a ``UserError``."""
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, EOFError) as error:
        raise UserError(f"{path} is damaged ({error}).", "Copy or download it again.") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is damaged or holds more than tensors, and what else it holds is not run.",
            "Save the weights as safetensors where you trust them, and give those.",
        ) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name: safetensors, or a pickled state dict, read as tensors only.

    Raises ``MissingFile`` without the file, ``UserError`` where it is damaged or holds more than tensors.
    """
    import torch
    from safetensors.torch import load_file

    if not path.is_file():
        raise MissingFile(f"There is no weight file {path}.", "Name one that exists: model.checkpoint=path:FILE")
    with damage_explained(path):
        try:
            found: Any = (
                load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
            )
        except OSError as error:
            raise EOFError(str(error)) from error
        except (RuntimeError, ValueError, KeyError) as error:
            raise pickle.UnpicklingError(str(error)) from error
    for key in NESTED:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise UserError(f"{path} holds no state dict.", "Save module.state_dict() as safetensors.")
    wrapped = bool(found) and all(str(name).startswith(WRAPPER) for name in found)
    return {str(name).removeprefix(WRAPPER) if wrapped else str(name): value for name, value in found.items()}


def load_exactly(module: Any, tensors: Mapping[str, Tensor], path: Path, ignored: Collection[str] = ()) -> None:
    """Put tensors into a module; ``UserError`` names those that are missing, left over, or of another shape."""
    wanted = module.state_dict()
    missing = [name for name in wanted if name not in tensors and not name.endswith(COUNTERS)]
    left = [name for name in tensors if name not in wanted and name not in ignored]
    shapes = [
        f"{name} is {tuple(tensors[name].shape)}, not {tuple(wanted[name].shape)}"
        for name in wanted
        if name in tensors and tensors[name].shape != wanted[name].shape
    ]
    found = (("lacks", missing), ("holds besides", left), ("does not fit:", shapes))
    faults = [f"{words} {', '.join(names[:3])}{'…' if len(names) > 3 else ''}" for words, names in found if names]
    if faults:
        raise UserError(
            f"{path} does not fit {type(module).__name__}: it {' and '.join(faults)}.",
            "Give the architecture that the weights were trained with.",
        )
    module.load_state_dict({name: value for name, value in tensors.items() if name in wanted}, strict=False)
