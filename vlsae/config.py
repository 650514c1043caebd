"""From overrides to a checked configuration, and from a node of it to an object."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vlsae import settings
from vlsae.environment import environment_shown, figures_are_drawn, refuse_environment
from vlsae.errors import MissingFile, UserError
from vlsae.groups import config_dir, own_dir
from vlsae.plugins import registered
from vlsae.signatures import check_settings, parameters_of
from vlsae.targets import import_class, walk

__all__ = [
    "Composed",
    "build",
    "check",
    "check_values",
    "compose",
    "compose_with_choices",
    "config_dir",
    "load",
    "part_name",
    "resolved",
    "stored_yaml",
    "target_class",
]


class Composed(NamedTuple):
    """A composed configuration, the choice of each config group in it, and Hydra's own node."""

    config: DictConfig
    choices: dict[str, str]
    hydra: DictConfig


def compose(stage: str, overrides: Sequence[str], config_dir: str | Path | None = None) -> DictConfig:
    """Return the checked configuration of a stage; ``config_dir`` is a user's own folder, which comes first.

    Raises :class:`~vlsae.errors.UserError` that names what is wrong in the overrides and the nearest valid names.
    """
    return compose_with_choices(stage, overrides, config_dir).config


def compose_with_choices(stage: str, overrides: Sequence[str], folder: str | Path | None = None) -> Composed:
    """Return the checked configuration of a stage with the choices that led to it."""
    from vlsae.composition import compose_raw, split_choices

    raw = compose_raw(stage, overrides, own_dir(folder))
    config, hydra = without_hydra(raw)
    check_composed(config)
    return Composed(config, split_choices(hydra), hydra)


def without_hydra(raw: DictConfig) -> tuple[DictConfig, DictConfig]:
    """Return a configuration in struct mode without Hydra's own node, and that node."""
    content = OmegaConf.masked_copy(raw, [str(key) for key in raw if key != "hydra"])
    OmegaConf.set_struct(content, True)
    return content, raw.get("hydra", OmegaConf.create())


def check_composed(config: DictConfig) -> None:
    """Check targets, missing values, the environment's use and the stages' settings of a configuration."""
    check(config)
    missing = _missing(OmegaConf.to_container(config, resolve=False), "")
    if missing:
        raise UserError(f"{missing[0]} is not set.", f"Add {missing[0]}=VALUE to the command.")
    refuse_environment(config)
    figures_are_drawn()
    content = resolved(config)
    walk(content)
    settings.check(content)


def check(node: Any) -> None:
    """Check every ``_target_`` of a node, of whatever depth, without importing anything.

    Raises :class:`~vlsae.errors.UserError` for a target outside of vlsae and the loaded plug-ins, and for Hydra's
    ``_args_``, ``_partial_``, ``_recursive_`` and their like.
    """
    walk(OmegaConf.to_container(node, resolve=False) if isinstance(node, (DictConfig, ListConfig)) else node)


def check_values(config: Mapping[str, Any], path: str = "") -> None:
    """Check keys and values of every node with a ``_target_`` against its class's signature; nothing is constructed."""
    walk(config)
    for name, value in config.items():
        here = f"{path}.{name}" if path else str(name)
        if isinstance(value, Mapping):
            if "_target_" in value:
                check_settings(here, _arguments(value), import_class(value["_target_"]))
            check_values(value, here)


def build(node: Mapping[str, Any] | DictConfig, **runtime: Any) -> Any:
    """Return the object that a node describes, nodes within it built first; the only way from a node to an object.

    ``runtime`` arguments are passed where the class's signature takes them. Raises
    :class:`~vlsae.errors.UserError` for a target that is not allowed, an unknown key and a value out of its bounds.
    """
    plain: Any = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else node
    walk(plain)
    if not isinstance(plain, Mapping) or "_target_" not in plain:
        raise UserError("This part of the configuration names no class.", "Give it a _target_.")
    cls = import_class(plain["_target_"])
    arguments = _arguments(plain)
    check_settings(cls.__name__, {key: value for key, value in arguments.items() if key not in runtime}, cls)
    taken = {name: value for name, value in runtime.items() if name in parameters_of(cls)}
    return cls(**{**{name: _built(value) for name, value in arguments.items()}, **taken})


def target_class(node: Mapping[str, Any] | DictConfig | str) -> type:
    """Return the class that a node, or a target's name, means; checked like :func:`build`, nothing is constructed."""
    return import_class(node if isinstance(node, str) else node["_target_"])


def part_name(node: Mapping[str, Any] | DictConfig) -> str:
    """Return the short name of a node for run names: ``clip``, ``shapes``, ``vl_sae``."""
    module, _, cls = str(node["_target_"]).rpartition(".")
    for (_, name), plugin in registered.items():
        if (plugin.__module__, plugin.__qualname__) == (module, cls):
            return name
    parts = module.split(".")
    if parts[0] == "vlsae" and len(parts) > 2:
        return parts[-1]
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls).lower()


def load(run_path: str | Path) -> DictConfig:
    """Return the configuration that a run was made from, with the same checks as a new one.

    Raises :class:`~vlsae.errors.MissingFile` where there is none, :class:`~vlsae.errors.UserError` where it is damaged.
    """
    from yaml import YAMLError

    path = Path(run_path) / "config.yaml"
    if not path.is_file():
        raise MissingFile(f"There is no {path}.", "A run's directory holds the config.yaml that it was made from.")
    try:
        config = OmegaConf.load(path)
    except (YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise UserError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    if not isinstance(config, DictConfig) or not config:
        raise UserError(f"{path} is damaged: it holds no settings.", "Restore the file, or make the run anew.")
    OmegaConf.set_struct(config, True)
    check_composed(config)
    return config


def resolved(config: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration as plain dicts and lists; under ``logger``, ``oc.env`` stays a text, so that no secret
    travels on (``vlsae.environment.with_environment`` gives its value).

    Raises :class:`~vlsae.errors.UserError` for an interpolation that leads nowhere.
    """
    tree = config if isinstance(config, DictConfig) else OmegaConf.create(dict(config))
    content: dict[str, Any] = {}
    for key in map(str, tree):
        try:
            with environment_shown(key):
                content[key] = _plain(tree, key)
        except OmegaConfBaseException as error:
            raise UserError(f"{getattr(error, 'full_key', None) or key}: {str(error).splitlines()[0]}") from error
    return content


def stored_yaml(config: DictConfig | Mapping[str, Any]) -> str:
    """Return a configuration as the YAML that a run keeps: interpolations unresolved, values of secrets masked."""
    from vlsae.runs.environment import mask_config

    tree = config if isinstance(config, DictConfig) else OmegaConf.create(dict(config))
    return mask_config(OmegaConf.to_yaml(tree, resolve=False))


def _plain(tree: DictConfig, key: str) -> Any:
    value = tree[key]
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _missing(node: Any, path: str) -> list[str]:
    """Return the paths of mandatory values that nobody gave."""
    if isinstance(node, Mapping):
        return [one for key, value in node.items() for one in _missing(value, f"{path}.{key}" if path else str(key))]
    return [path] if node == "???" else []


def _arguments(node: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in node.items() if key != "_target_"}


def _built(value: Any) -> Any:
    if isinstance(value, Mapping):
        if "_target_" in value:
            return build(value)
        return {key: _built(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_built(item) for item in value]
    return value
