"""What takes too long for `make test`: memory over long work, and work that is killed again and again.

.venv/bin/python scripts/stress.py memory --minutes 30 --out docs/figures
.venv/bin/python scripts/stress.py kills --count 50 --seed 0
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from vlsae.reporting.plots import draw
from vlsae.result import Plot, Series

#: Seconds between two looks at a process's memory.
EVERY = 2.0

#: Growth, as a share, from the second quarter of the work to the last, above which memory counts as growing.
MOST_GROWTH = 0.05

#: What runs long: more samples and epochs than fit into the time.
WORK = {
    "extraction": ["extract", "dataset.n=200000", "extract.thumbnails=0"],
    "training": ["train", "--limit=1000", "train.epochs=1000000", "train.patience=null", "train.checkpoint_every=200"],
}


@dataclass
class Trace:
    """Memory of a piece of work over time: minutes and megabytes, by process where it was started again."""

    minutes: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)

    def growth(self) -> float:
        """Return the share by which the median of the last quarter lies above that of the second."""
        n = len(self.megabytes)
        early, late = self.megabytes[n // 4 : n // 2], self.megabytes[-(n // 4) :]
        return median(late) / median(early) - 1


def memory(minutes: float, out: Path) -> int:
    """Watch the memory of an extraction and of a training, half the time each; return 1 where it grows."""
    traces = {}
    with tempfile.TemporaryDirectory(prefix="vlsae-stress-") as runs:
        _finish(["extract", "--limit=1000"], runs)
        for name, words in WORK.items():
            traces[name] = _watch(words, runs, minutes * 30)
    _draw(traces, minutes, out)
    grown = {name: trace.growth() for name, trace in traces.items()}
    for name, share in grown.items():
        print(f"{name}: {median(traces[name].megabytes):.0f} MB, {share:+.1%} from the second quarter to the last")
    return int(max(grown.values()) > MOST_GROWTH)


def kills(count: int, seed: int) -> int:
    """Kill stages in turn at random moments, go on with each, and return 1 where anything differs from a whole run."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    import killing

    wrong = 0
    with tempfile.TemporaryDirectory(prefix="vlsae-kills-") as scratch, killing.parts_at_hand():
        folder = Path(scratch)
        killing.warm(folder / "warm")
        whole = {stage: killing.whole_run(stage, folder / "whole" / stage) for stage in killing.COMMANDS}
        for number in range(count):
            stage = list(killing.COMMANDS)[number % len(killing.COMMANDS)]
            found = killing.kill_and_resume(stage, seed + number, *whole[stage], folder / str(number))
            wrong += bool(found.wrong)
            outcome = ", ".join(found.wrong) or "the same bytes"
            print(f"{number + 1:3d} {stage} killed after {found.moment:.1f} s, {found.status}: {outcome}", flush=True)
    print(f"{count} kills, {wrong} of them with another end than a whole run")
    return int(wrong > 0)


def _finish(words: list[str], runs: str) -> None:
    subprocess.run(_command(words), env=_environment(runs), check=True, stdout=subprocess.DEVNULL)


def _watch(words: list[str], runs: str, seconds: float) -> Trace:
    """Return the memory of a command, started anew where it ends early and interrupted at the end of the time."""
    trace, start = Trace(), time.monotonic()
    while time.monotonic() - start < seconds:
        process = subprocess.Popen(_command(words), env=_environment(runs), stdout=subprocess.DEVNULL)
        while process.poll() is None and time.monotonic() - start < seconds:
            time.sleep(EVERY)
            trace.minutes.append((time.monotonic() - start) / 60)
            trace.megabytes.append(_resident(process.pid) / 1e6)
        if _ended(process) not in (0, 130):
            raise SystemExit(f"vlsae {' '.join(words)} ended with exit code {process.returncode}")
    return trace


def _ended(process: subprocess.Popen[bytes]) -> int:
    """Tell a process to end, say so where it takes more than one signal, and return its exit code."""
    for signals in range(1, 6):
        process.terminate()
        try:
            return process.wait(60)
        except subprocess.TimeoutExpired:
            print(f"process {process.pid} works on after {signals} signals")
    process.kill()
    return process.wait()


def _command(words: list[str]) -> list[str]:
    return [sys.executable, "-m", "vlsae", *words, "hardware=cpu"]


def _environment(runs: str) -> dict[str, str]:
    return {**os.environ, "VLSAE_RUNS": runs}


def _resident(pid: int) -> int:
    """Return the bytes of memory of a process and its children that no other process shares with them."""
    total = 0
    for one in (pid, *_children(pid)):
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
    return total


def _children(pid: int) -> list[int]:
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        found = [int(one) for thread in threads for one in (thread / "children").read_text().split()]
    except OSError:
        return []
    return found + [below for one in found for below in _children(one)]


def _draw(traces: dict[str, Trace], minutes: float, out: Path) -> None:
    series = [Series(name, trace.minutes, trace.megabytes) for name, trace in traces.items()]
    plot = Plot(
        "memory",
        f"Memory over {minutes:.0f} minutes, half of them each",
        "minutes",
        "MB that a process holds itself",
        series,
        kind="points",
        description="Anonymous memory of the process and its workers, without the pages of files that are mapped.",
    )
    draw({"kind": plot.kind, **asdict(plot)}).write(out)


def main() -> int:
    """Run one kind of stress and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    own = kinds.add_parser("memory", help="memory over minutes of extraction and training, drawn")
    own.add_argument("--minutes", type=float, default=30.0)
    own.add_argument("--out", type=Path, default=Path("docs/figures"))
    own = kinds.add_parser("kills", help="every stage killed at random moments, gone on with and compared")
    own.add_argument("--count", type=int, default=50)
    own.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    return memory(given.minutes, given.out) if given.kind == "memory" else kills(given.count, given.seed)


if __name__ == "__main__":
    sys.exit(main())
