"""What the environment says: in configurations under few keys and stored unresolved, and whether figures are drawn."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from vlsae.errors import UserError

#: Top-level keys whose values may come from environment variables.
ALLOWED = ("logger", "hardware", "runs_dir")
_RESOLVER = "oc.env"

#: The variable that leaves figures undrawn.
FIGURES = "VLSAE_FIGURES"


def refuse_environment(config: DictConfig) -> None:
    """Raise :class:`~vlsae.errors.UserError` where a value outside of ``ALLOWED`` would come from the environment.

    Values are resolved for that, so an interpolation that leads there by a detour is found too.
    """
    copy = config.copy()
    OmegaConf.set_struct(copy, False)
    # What lies in these is no secret, and others may refer to it.
    for key in ("runs_dir", "hardware"):
        if key in copy:
            value = copy[key]
            copy[key] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    read: list[str] = []

    def note(name: str, *default: Any) -> str:
        read.append(name)
        return ""

    with _env_resolver(note):
        for path, parent, key in _interpolations(copy, ""):
            if path.split(".")[0] in ALLOWED:
                continue
            # Where an interpolation leads nowhere is said when the configuration is resolved.
            with contextlib.suppress(OmegaConfBaseException):
                value = parent[key]
                if OmegaConf.is_config(value):
                    OmegaConf.to_container(value, resolve=True)
            if read:
                raise UserError(
                    f"{path} reads the environment variable {read[0]}.",
                    f"oc.env is allowed under {', '.join(ALLOWED)} only; write the value itself.",
                )


@contextlib.contextmanager
def environment_shown(key: str) -> Iterator[None]:
    """Within the context, ``oc.env`` gives its own text where the key is ``logger``."""

    def quote(name: str, *default: Any) -> str:
        return "${oc.env:" + ",".join([name, *("null" if one is None else str(one) for one in default)]) + "}"

    with _env_resolver(quote) if key == "logger" else contextlib.nullcontext():
        yield


def with_environment(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plain node with the environment variables that it names in place, for the one who builds a logger."""
    tree = OmegaConf.create(dict(node))
    try:
        content: Any = OmegaConf.to_container(tree, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"logger: {str(error).splitlines()[0]}") from error
    return dict(content)


@contextlib.contextmanager
def _env_resolver(function: Callable[..., Any]) -> Iterator[None]:
    OmegaConf.register_new_resolver(_RESOLVER, function, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver(_RESOLVER, oc.env, replace=True)


def _interpolations(node: Any, path: str) -> Iterator[tuple[str, Container, Any]]:
    keys: Iterable[Any] = list(node.keys()) if isinstance(node, DictConfig) else range(len(node))
    for key in keys:
        here = f"{path}.{key}" if path else str(key)
        if OmegaConf.is_missing(node, key):
            continue
        if OmegaConf.is_interpolation(node, key):
            yield here, node, key
        elif OmegaConf.is_config(node[key]):
            yield from _interpolations(node[key], here)


def figures_are_drawn() -> bool:
    """Tell whether runs draw their figures: ``VLSAE_FIGURES=data`` leaves each figure's rows alone, as CSV.

    Raises :class:`~vlsae.errors.UserError` for another value than ``drawn`` and ``data``.
    """
    found = os.environ.get(FIGURES) or "drawn"
    if found not in ("drawn", "data"):
        raise UserError(
            f"{FIGURES} is {found!r}, expected drawn or data.", f"Set it to one of them, or unset {FIGURES}."
        )
    return found == "drawn"
