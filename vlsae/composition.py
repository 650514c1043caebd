"""Hydra composes; what it refuses is said again in a user's words, with the nearest valid names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vlsae import groups, plugins
from vlsae.errors import UserError, nearest, unknown

VERSION_BASE = "1.3"

#: Signs of an override that a message repeats.
LONGEST_SHOWN = 200


class OwnFolderFirst(SearchPathPlugin):
    """Puts a user's own configuration folder before the shipped one, whose files it may so replace."""

    folder: ClassVar[Path | None] = None

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Prepend the folder, if there is one now."""
        if self.folder is not None:
            search_path.prepend(provider="own", path=f"file://{self.folder}", anchor="main")


def compose_raw(stage: str, overrides: Sequence[str], folder: Path | None = None) -> DictConfig:
    """Return the configuration of a stage as Hydra composes it, its own ``hydra`` node included.

    Raises :class:`~vlsae.errors.UserError` for whatever Hydra refuses.
    """
    check_stage(stage, folder)
    parsed = parse(overrides, sweeps=False)
    with sources(folder), _hydra():
        try:
            return _compose(stage, overrides)
        except Exception as error:
            raise _explained(error, stage, overrides, parsed, folder) from error


def parse(overrides: Sequence[str], sweeps: bool) -> list[Override]:
    """Return the parsed overrides; ``UserError`` for a malformed one, a repeated one, and a sweep where none may be."""
    parser = OverridesParser.create()
    parsed: list[Override] = []
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except (HydraException, ValueError, RecursionError) as error:
            # Hydra's grammar itself fails on numbers of thousands of digits and on brackets hundreds deep.
            raise _malformed(text) from error
        if override.is_sweep_override() and not sweeps:
            key, value = override.get_key_element(), override.get_value_string()
            raise UserError(
                f"{text} names several values, and one run takes one.",
                f"Add -m to run each of them, or write a list: {key}=[{value}]",
            )
        parsed.append(override)
    seen: dict[str, str] = {}
    for override in parsed:
        key = override.get_key_element().lstrip("+")
        if key in seen and not override.is_delete():
            raise UserError(f"{key} is given twice: {seen[key]} and {override.input_line}.", "Give it once.")
        seen[key] = str(override.input_line)
    return parsed


def check_stage(stage: str, folder: Path | None) -> None:
    """Raise ``UserError`` with the nearest names unless a folder of configurations holds the stage."""
    roots = [root for root in (folder, groups.config_dir()) if root is not None]
    if not any((root / f"{stage}.yaml").is_file() for root in roots):
        # Parts that several stages share lie beside the stages and name none.
        files = [path for root in roots for path in root.glob("*.yaml")]
        known = {path.stem for path in files if f"\nstage: {path.stem}\n" in path.read_text(encoding="utf-8")}
        raise unknown("stage", stage, known)


@contextlib.contextmanager
def sources(folder: Path | None) -> Iterator[None]:
    """Within the context Hydra also finds the configurations of a user's own folder and of registered plug-ins."""
    for group, name in plugins.registered:
        ConfigStore.instance().store(group=group, name=name, node=plugins.describe(group, name), provider="plug-in")
    Plugins.instance().register(OwnFolderFirst)
    OwnFolderFirst.folder = folder
    try:
        yield
    finally:
        OwnFolderFirst.folder = None


def split_choices(hydra: DictConfig) -> dict[str, str]:
    """Return group → choice as Hydra noted them, without its own groups and those left empty."""
    return {group: choice for group, choice in _choices(hydra).items() if choice is not None}


def flat_keys(node: Any, path: str = "") -> list[str]:
    """Return every dotted path of a plain config, inner nodes included."""
    if not isinstance(node, Mapping):
        return []
    here = [(f"{path}.{key}" if path else str(key), value) for key, value in node.items()]
    return [one for key, value in here for one in (key, *flat_keys(value, key))]


@contextlib.contextmanager
def _hydra() -> Iterator[None]:
    """Initialise Hydra, and give back whatever a caller had initialised before."""
    before, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
    try:
        with initialize_config_dir(config_dir=str(groups.config_dir()), version_base=VERSION_BASE):
            yield
    finally:
        # Hydra puts a copy of its state in place, so the instance is another one now.
        GlobalHydra.instance().hydra = before


def _compose(stage: str, overrides: Sequence[str]) -> DictConfig:
    return compose(stage, list(overrides), return_hydra_config=True)


def _malformed(text: str) -> UserError:
    text = text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"
    key, equals, value = text.partition("=")
    if not equals:
        known = {*groups.groups()}
        close = nearest(text, known)
        mend = f"Write it as {close[0]}=CHOICE." if close else "An override is key=value, such as seed=1 or model=clip."
        return UserError(f"{text!r} is no override.", mend)
    return UserError(f"{text!r} cannot be read as an override.", f"Quote the value: \"{key}='{value}'\"")


def _explained(
    error: Exception,
    stage: str,
    overrides: Sequence[str],
    parsed: Sequence[Override],
    folder: Path | None,
) -> UserError:
    """Return the reason why Hydra refused: a choice, a group, a key, or its own first line."""
    known = groups.groups(folder)
    for override in parsed:
        wrong = _wrong_choice(override, known)
        if wrong is not None:
            return wrong
    is_choice = [override.key_or_group in known for override in parsed]
    group_overrides = [text for text, choice in zip(overrides, is_choice) if choice]
    try:
        taken = _choices(_compose(stage, [])["hydra"])
        for override in parsed:
            group = override.key_or_group
            if group in known and override.is_add() == (group in taken):
                return _misplaced(stage, override, taken)
        base = OmegaConf.to_container(_compose(stage, group_overrides), resolve=False)
    except Exception as reason:
        chosen = f" with {', '.join(group_overrides)}" if group_overrides else ""
        return UserError(f"The configuration cannot be composed{chosen}: {_first_line(reason)}")
    keys = [key for key in flat_keys(base) if not key.startswith("hydra")]
    for override, choice in zip(parsed, is_choice):
        key = override.key_or_group
        if choice or override.is_add() or key.startswith("hydra") or key in keys:
            continue
        return _unknown_key(key, keys, known, stage)
    return UserError(f"The configuration cannot be composed: {_first_line(error)}")


def _wrong_choice(override: Override, known: Mapping[str, Sequence[str]]) -> UserError | None:
    group, value = override.key_or_group, override.value()
    if group not in known or override.is_delete():
        return None
    names = value if isinstance(value, list) else [value]
    for name in names:
        if str(name) not in known[group]:
            return unknown(f"choice for {group}", str(name), known[group])
    return None


def _choices(hydra: DictConfig) -> dict[str, str | None]:
    chosen = OmegaConf.to_container(hydra.runtime.choices)
    assert isinstance(chosen, dict), "choices are a mapping"
    return {str(group): choice for group, choice in chosen.items() if not str(group).startswith("hydra/")}


def _misplaced(stage: str, override: Override, taken: Mapping[str, str | None]) -> UserError:
    group = override.key_or_group
    if override.is_add():
        return UserError(f"`vlsae {stage}` has {group} already.", f"Write {group}={override.value()}, without the +.")
    return UserError(f"`vlsae {stage}` takes no {group}.", f"It takes {', '.join(sorted(taken))}.")


def _unknown_key(key: str, keys: Sequence[str], known: Mapping[str, Sequence[str]], stage: str) -> UserError:
    leaf = key.rsplit(".", 1)[-1]
    same_leaf = [one for one in keys if one.rsplit(".", 1)[-1] == leaf]
    # Within the same node first: `objective.kk` is far more likely `objective.k` than another group's.
    inside = key.rpartition(".")[0]
    siblings = [one for one in keys if one.rpartition(".")[0] == inside] if inside in keys else []
    near_leaf = [f"{inside}.{name}" for name in nearest(leaf, [one.rsplit(".", 1)[-1] for one in siblings])]
    close = [*same_leaf, *near_leaf, *nearest(key, [*keys, *known])]
    short = list(dict.fromkeys(close))[:3]
    if short:
        return UserError(f"`vlsae {stage}` has no setting {key!r}.", f"Did you mean {' or '.join(short)}?")
    listed = ", ".join(siblings or [one for one in keys if "." not in one])
    return UserError(f"`vlsae {stage}` has no setting {key!r}.", f"Known: {listed}. A new key is added by +{key}=…")


def _first_line(error: BaseException) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is not None:  # YAML's own errors say the place in their last lines
        return f"{mark.name}, line {mark.line + 1}: {getattr(error, 'problem', None) or 'no YAML'}."
    if isinstance(error, OmegaConfBaseException) or str(error):
        return str(error).strip().splitlines()[0]
    return type(error).__name__
