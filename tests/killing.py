"""Stages that are killed at random moments, and what must be left of them: the numbers of a run that never was."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import parquet

from vlsae import plugins
from vlsae.cli import main
from vlsae.runs import entries_of
from vlsae.runs.inventory import files_of

FILES = Path(__file__).parent / "plugin_files"
PARTS = ("--plugin", str(FILES / "tiny_parts.py"), "--plugin", str(FILES / "slow_parts.py"), "model=slow")
DATA = ("dataset.n=160", "extract.shard_samples=16", "extract.batch_size=8", "extract.dtype=float32")
TRAINING = (
    *("objective=slow_sae", "objective.k=4", "train.epochs=3", "train.batch_size=16", "train.checkpoint_every=3"),
    *("train.log_every=2", "train.evaluate.bootstrap=5", "train.evaluate.names=false"),
)

#: The command of each stage, small enough for a second and long enough to be killed in.
COMMANDS: dict[str, tuple[str, ...]] = {
    "extract": ("extract", *PARTS, *DATA),
    "train": ("train", *PARTS, *DATA, *TRAINING),
    "probe": (
        *("probe", *PARTS, *DATA, "extract.sites=[language.0,language.1]", "probe.targets=['color=red','color=blue']"),
        *("probe.resamples=100", "probe.folds=3", "probe.penalties=[1.0]", "probe.code_length=0"),
    ),
    "aqi": (
        *("aqi", *PARTS, "extract.batch_size=16", "aqi.permutations=9", "aqi.stream=language"),
        *("extract.sites=[language.0,language.1]", "aqi.blocks=10"),
    ),
    "enhance": (
        *("enhance", *PARTS, *DATA, *TRAINING, "task=retrieval", "enhance.resamples=20", "task.alphas=[0.0,1.0]"),
        "task.controls=[random_encoder]",
    ),
}

#: What differs between two runs of one command: who ran, where and when, and how long it took.
OF_THE_MOMENT = {"manifest.json", "log.txt", "run.lock"}
TIME = re.compile(r"(^|_)time$")
OF_THE_PAGE = re.compile(rb"<dt>(Started</dt><dd|Git commit</dt><dd class=\"code\")>[^<]*</dd>|Written by vlsae [^<]*<")
TIME_ROW = re.compile(rb"<tr>(?:(?!</tr>).)*_time(?:(?!</tr>).)*</tr>", re.DOTALL)

#: Artefacts that hold the name of the run or of one that it reads from.
NAMED = re.compile(r"report\.html|summary\.json|figures/lineage\.|dictionary/input\.json")


def content(run: Path) -> dict[str, Any]:
    """Return every artefact of a run by name, without what belongs to the moment it was made in.

    That is the manifest, the log, the ``time`` of each line of metrics, measures and rows of tables whose name ends
    with ``time``, and on the page the start, the commit and when
    it was written.
    """
    return {name: _lasting(run / name) for name in files_of(run) if name not in OF_THE_MOMENT}


def _lasting(file: Path) -> Any:
    data = file.read_bytes()
    if file.name == "metrics.jsonl":
        return [{**json.loads(line), "time": None} for line in data.splitlines()]
    if file.name == "summary.json":
        summary = json.loads(data)
        return {**summary, "metrics": {key: one for key, one in summary["metrics"].items() if not TIME.search(key)}}
    if file.name == "report.html":
        return TIME_ROW.sub(b"", OF_THE_PAGE.sub(b"", data))
    if file.suffix == ".csv":
        return [line for line in data.splitlines() if not TIME.search(line.split(b",")[0].decode())]
    if file.suffix == ".parquet" and b"_time" in data:
        table = parquet.read_table(file).to_pylist()
        return [row for row in table if not TIME.search(str(next(iter(row.values()))))]
    return data


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return the names of artefacts that are not equal."""
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


@contextlib.contextmanager
def parts_at_hand() -> Iterator[None]:
    """Within the context the small parts can be named, and import each other."""
    sys.path.insert(0, str(FILES))
    try:
        with plugins.loaded():
            yield
    finally:
        sys.path.remove(str(FILES))


def in_child(words: tuple[str, ...], runs: Path, log: Path, limit: Callable[[], None] | None = None) -> int:
    """Start a command in a process of its own, forked so that nothing is imported again, and return its id.

    ``limit`` is called in the process before it begins; what it says goes to ``log``.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        # Whoever started the tests may have put other objects in the places of the streams.
        sys.stdout = sys.stderr = log.open("w", encoding="utf-8", buffering=1)
        os.environ["VLSAE_RUNS"] = str(runs)
        if limit is not None:
            limit()
        code = main(list(words))
        sys.stdout.flush()
    finally:
        os._exit(code)


def end(pid: int) -> int:
    """Wait for a child's end and return its exit code, negative for the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run_of(runs: Path, stage: str) -> Path | None:
    """Return the newest run of a stage that can be gone on with or is done."""
    found = [entry for entry in entries_of(runs, stage) if entry.status != "damaged"]
    return max(found, key=lambda entry: entry.id.version).path if found else None


@dataclass(frozen=True)
class Killed:
    """What came of one kill: when it fell (seconds, or files written), how the run stood, and artefacts that differ."""

    moment: float
    status: str
    wrong: list[str]


def warm(runs: Path) -> None:
    """Run every stage here once: what is imported now need not be in the children, and kills fall into their work."""
    os.environ["VLSAE_RUNS"] = str(runs)
    for stage in ("enhance", "probe", "aqi"):
        assert main(list(COMMANDS[stage])) == 0


def whole_run(stage: str, runs: Path) -> tuple[float, dict[str, Any]]:
    """Return how long a stage takes that nobody kills, upstream runs and all, and its artefacts."""
    log, start = runs.parent / f"{runs.name}.txt", time.monotonic()
    runs.mkdir(parents=True)
    assert end(in_child(COMMANDS[stage], runs, log)) == 0, log.read_text()
    path = run_of(runs, stage)
    assert path is not None
    return time.monotonic() - start, content(path)


def kill_and_resume(stage: str, seed: int, seconds: float, whole: dict[str, Any], folder: Path) -> Killed:
    """Kill a stage at a seeded moment of its ``seconds``, go on with it, and compare with a run that was not killed."""
    folder.mkdir(parents=True)
    moment = random.Random(f"{stage} {seed}").uniform(0, seconds)
    pid = in_child(COMMANDS[stage], folder / "runs", folder / "output.txt")
    time.sleep(moment)
    os.kill(pid, signal.SIGKILL)
    end(pid)
    return _gone_on_with(stage, moment, whole, folder)


def kill_at_rename_and_resume(
    stage: str, number: int, whole: dict[str, Any], folder: Path, name: str = ""
) -> Killed | None:
    """Kill a stage when its n-th file is written and has not got its name yet; None where fewer files are written.

    ``name`` is how the names of the files that count begin.
    """
    folder.mkdir(parents=True)

    def arrange() -> None:
        seen, rename = itertools.count(1), os.replace

        def replace(written: Any, place: Any) -> None:
            if Path(place).name.startswith(name) and next(seen) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            rename(written, place)

        os.replace = replace  # type: ignore[assignment]

    code = end(in_child(COMMANDS[stage], folder / "runs", folder / "output.txt", arrange))
    if code == 0:
        return None
    assert code == -signal.SIGKILL, (folder / "output.txt").read_text()
    return _gone_on_with(stage, float(number), whole, folder)


def _gone_on_with(stage: str, moment: float, whole: dict[str, Any], folder: Path) -> Killed:
    """Go on with what is left of a killed stage, or begin anew, and compare with a run that was not killed."""
    runs, log = folder / "runs", folder / "output.txt"
    path = run_of(runs, stage)
    status = "none" if path is None else json.loads((path / "manifest.json").read_text())["status"]
    unnamed = any(not (version / "manifest.json").exists() for version in runs.glob("*/*/v*"))
    if status != "done":
        words = COMMANDS[stage] if path is None else ("runs", "resume", str(path), *PARTS[:4])
        code = end(in_child(words, runs, log))
        if code != 0:
            return Killed(moment, status, [f"exit code {code}: {log.read_text()[-2000:]}"])
        path = run_of(runs, stage)
    assert path is not None
    manifest = json.loads((path / "manifest.json").read_text())
    wrong = differing(content(path), whole)
    if status == "none" or unnamed:
        # A run that was killed before it had a manifest keeps its version: the next one, here or upstream, has another.
        wrong = [name for name in wrong if not NAMED.match(name)]
    return Killed(moment, status, wrong if manifest["status"] == "done" else [manifest["status"], *wrong])
