"""vlsae aqi --compare: two earlier runs over the same rows, what differs between their models said first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vlsae.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from vlsae.aqi.state import State
    from vlsae.runs import Run

#: Settings that must agree, or the numbers are of two kinds.
SAME = ("extract.tokens.pooling", "extract.tokens.include", "aqi.stream", "model.input")

#: Settings whose difference may itself move the numbers, told first.
TOLD = ("hardware.dtype", "hardware.quantisation", "extract.dtype", "aqi.source")

#: Packages whose version may move the numbers.
PACKAGES = ("torch", "transformers", "open_clip_torch", "tokenizers", "peft")


def compare_runs(config: Mapping[str, Any], run: Run) -> None:
    """Write the paired differences of the two runs that ``aqi.compare`` names."""
    from vlsae.aqi.comparison import compare_states
    from vlsae.stages.outcome import write_result

    (first, second), states, settings = inputs(config, run.root)
    for one in (first, second):
        run.add_parent(one.id)
    notes = [f"a is {first.id}, b is {second.id}.", *differences(first, second, *settings)]
    write_result(run, compare_states(states[0], states[1], notes), a=first.id, b=second.id)


def inputs(config: Mapping[str, Any], root: Path) -> tuple[list[Run], list[State], list[dict[str, Any]]]:
    """Return the two runs, their states and settings; ``UserError`` (AQI-X01) where they cannot be compared."""
    from vlsae.aqi.comparison import check_comparable
    from vlsae.aqi.state import load
    from vlsae.runs import input_run
    from vlsae.stages.aqi import STATE

    runs = [input_run(reference, root, "aqi") for reference in config["aqi"]["compare"]]
    settings = [_settings(one) for one in runs]
    for one, own in zip(runs, settings):
        if own["aqi.compare"] is not None:
            raise UserError(f"{one.id} is a comparison itself.", "Name two runs that scored a model.")
    states = [load(one.path / STATE) for one in runs]
    differing = [name for name in SAME if settings[0].get(name) != settings[1].get(name)]
    check_comparable(states[0], states[1], differing)
    return runs, states, settings


def differences(first: Run, second: Run, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """Yield in what two runs differ that may move the numbers by itself: model, adapter, template, precision."""
    names = [name for name in dict.fromkeys([*before, *after]) if name.startswith("model.") or name in TOLD]
    told = [
        f"{name} {before.get(name)!r} and {after.get(name)!r}" for name in names if before.get(name) != after.get(name)
    ]
    versions = [one.manifest["packages"] for one in (first, second)]
    told += [
        f"{name} {versions[0].get(name)} and {versions[1].get(name)}"
        for name in PACKAGES
        if versions[0].get(name) != versions[1].get(name)
    ]
    yield f"They differ in {'; '.join(told)}." if told else "They differ in no setting of model, template or precision."


def _settings(run: Run) -> dict[str, Any]:
    from vlsae.config import load, resolved

    return dict(_flat(resolved(load(run.path)), ""))


def _flat(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        here = f"{path}.{name}" if path else str(name)
        if isinstance(value, Mapping):
            yield from _flat(value, here)
        else:
            yield here, value
