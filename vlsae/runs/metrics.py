"""The numbers of a run: ``metrics.jsonl`` while it works, ``summary.json`` at its end."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlsae.errors import UserError
from vlsae.runs.files import dump_json, load_json, write_atomic, write_json

METRICS = "metrics.jsonl"
SUMMARY = "summary.json"


@dataclass(frozen=True)
class Measure:
    """A final number with its unit and its 95 % interval; what is undefined is None."""

    value: float | None
    unit: str = ""
    low: float | None = None
    high: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the measure as ``summary.json`` holds it: numbers that are not finite become null."""
        numbers = {"value": finite(self.value), "low": finite(self.low), "high": finite(self.high)}
        return {"value": numbers["value"], "unit": self.unit, "low": numbers["low"], "high": numbers["high"]}


def finite(value: Any) -> float | None:
    """Return a number as a float, None where it is undefined."""
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def as_measure(value: Any) -> Measure:
    """Return a plain number, or anything with ``value``, ``unit``, ``low`` and ``high``, as a measure."""
    if isinstance(value, Measure):
        return value
    if hasattr(value, "value"):
        unit = str(getattr(value, "unit", "") or "")
        return Measure(value.value, unit, getattr(value, "low", None), getattr(value, "high", None))
    return Measure(value)


def write_summary(path: Path, run_id: str, metrics: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
    """Write a run directory's ``summary.json`` atomically."""
    numbers = {name: as_measure(value).to_json() for name, value in metrics.items()}
    write_json(path / SUMMARY, {"run_id": run_id, "metrics": numbers, **extra})


def read_summary(path: Path) -> dict[str, Any] | None:
    """Return a run directory's ``summary.json``, None without one; ``UserError`` for one that is not whole."""
    file = path / SUMMARY
    try:
        summary = load_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise UserError(f"{file} is damaged ({error}).", "Make the run anew.") from error
    if not isinstance(summary, dict) or not isinstance(summary.get("metrics"), dict):
        raise UserError(f"{file} is damaged: it holds no 'metrics'.", "Make the run anew.")
    for name, measure in summary["metrics"].items():
        if not _is_measure(measure):
            raise UserError(f"{file} is damaged: its metric {name!r} is {measure!r}.", "Make the run anew.")
    return summary


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of ``metrics.jsonl``, a half-written last one left out; ``UserError`` names a damaged line."""
    file = path / METRICS
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    lines = []
    for number, line in enumerate(_whole_lines(text), start=1):
        try:
            lines.append(_parse(line))
        except ValueError as error:
            raise UserError(f"{file}, line {number}, is damaged ({error}).", "Make the run anew.") from error
    return lines


class MetricsLog:
    """Appends to ``metrics.jsonl`` line by line; ``time`` goes on where the last kept line of a resumed run ended."""

    def __init__(self, path: Path) -> None:
        self._file = path / METRICS
        self._folder = path
        self._offset = 0.0
        self._started = time.monotonic()
        self._cleaned = False

    def append(self, step: int, epoch: float, split: str, values: Mapping[str, Any]) -> None:
        """Append one line; numbers that are not finite become null."""
        if not self._cleaned:
            self._keep(None)
        elapsed = self._offset + time.monotonic() - self._started
        line: dict[str, Any] = {"step": int(step), "epoch": float(epoch), "time": round(elapsed, 3), "split": split}
        line.update({name: finite(value) for name, value in values.items()})
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(dump_json(line, indent=None) + "\n")

    def truncate(self, step: int, name: str | None = None) -> None:
        """Drop the lines after a step, which a resumed run writes again, and a half-written last line.

        ``name``: only lines that hold such a number, where several trainings of a run each count their own steps.
        """
        self._keep(step, name)

    def _keep(self, step: int | None, name: str | None = None) -> None:
        self._cleaned = True
        if not self._file.exists():
            return
        text = self._file.read_text(encoding="utf-8", errors="replace")
        lines = read_metrics(self._folder)
        others = [step is None or (name is not None and name not in line) for line in lines]
        kept = [line for line, other in zip(lines, others) if other or line["step"] <= step]
        if len(kept) < len(lines) or not text.endswith("\n"):
            write_atomic(self._file, "".join(dump_json(line, indent=None) + "\n" for line in kept))
        if kept:
            self._offset = float(kept[-1].get("time") or 0.0)
            self._started = time.monotonic()


def _is_measure(value: Any) -> bool:
    numbers = ("value", "low", "high")
    if not isinstance(value, dict) or not isinstance(value.get("unit"), str):
        return False
    return all(name in value and (value[name] is None or type(value[name]) in (int, float)) for name in numbers)


def _whole_lines(text: str) -> list[str]:
    # A kill in the middle of a write leaves a last line without its end.
    return text.split("\n")[:-1]


def _parse(line: str) -> dict[str, Any]:
    value = load_json(line)
    if not isinstance(value, dict) or not isinstance(value.get("step"), int):
        raise ValueError("no object with a 'step'")
    return value
