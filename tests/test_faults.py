"""Real faults under a run: full and read-only disks, inputs that vanish, errors half-way, clocks that jump.

Each ends with its reason and an exit code, and a run that is gone on with comes to the bytes of one that had no fault.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from killing import content, differing, end, in_child, parts_at_hand, run_of
from PIL import Image

from vlsae.cli import main
from vlsae.runs import entries_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parent.parent
TINY = ("--plugin", str(ROOT / "tests/plugin_files/tiny_parts.py"), "model=tiny")
EXTRACT = ("extract", *TINY, "dataset.n=64", "extract.shard_samples=16", "extract.batch_size=8")
RUN = "extract/tiny-shapes/v0001"

#: A data set whose row 9 is trouble as long as a file is there, and a model whose third batch is.
TROUBLE = """
import pathlib
import torch
from vlsae.datasets import Captions
from vlsae.errors import UserError
from vlsae.plugins import register
from tiny_parts import TinyModel

WHERE = pathlib.Path(__file__).parent

@register("dataset", "troubled")
class Troubled(Captions):
    in_files = False

    def images(self, indices):
        if 9 in list(indices):
            if (WHERE / "mistake").exists():
                raise UserError("row nine is bad", "Mend row nine.")
            if (WHERE / "bug").exists():
                raise KeyError("row nine")
            if (WHERE / "vanish").exists():
                (WHERE / "data" / "09.png").unlink(missing_ok=True)
        return super().images(indices)

@register("model", "not_finite")
class NotFinite(TinyModel):
    def represent(self, batch, sites, tokens=None):
        found = super().represent(batch, sites, tokens)
        for rows in found.values():
            if (WHERE / "nan").exists():
                rows.values[1, 3] = float("nan")
        return found
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Path]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("faults")
    data = folder / "data"
    data.mkdir()
    for number in range(16):
        Image.new("RGB", (9, 7), (15 * number, 9, 30)).save(data / f"{number:02d}.png")
    (data / "captions.json").write_text(json.dumps({f"{n:02d}.png": [f"word {n}"] for n in range(16)}))
    (folder / "troubled_parts.py").write_text(TROUBLE)
    before = os.environ.get("VLSAE_RUNS")
    with parts_at_hand():
        os.environ["VLSAE_RUNS"] = str(folder / "whole")
        assert main(list(EXTRACT)) == 0
        yield folder
    os.environ.pop("VLSAE_RUNS", None) if before is None else os.environ.update(VLSAE_RUNS=before)


@pytest.fixture(scope="module")
def whole(place) -> dict:
    return content(place / "whole" / RUN)


def limited(words: tuple[str, ...], runs: Path, log: Path, limit: Callable[[], None] | None = None) -> tuple[int, str]:
    """Run a command in a process under a limit of the system; return its exit code and what it said."""
    code = end(in_child(words, runs, log, limit))
    return code, log.read_text(errors="replace")


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A disk of so many bytes; skip where this process may not mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def resumed(runs: Path, tmp_path: Path, *plugins: str) -> dict:
    """Go on with the only extraction under a folder and return its artefacts."""
    path = run_of(runs, "extract")
    code, text = limited(("runs", "resume", str(path), *plugins), runs, tmp_path / "resumed.txt")
    assert code == 0, text
    return content(path)


def test_a_full_disk_ends_the_run_and_a_larger_one_goes_on_with_it(place, whole, tmp_path):
    with small_disk(tmp_path / "disk", "100k") as disk:
        code, text = limited(EXTRACT, disk, tmp_path / "full.txt")
        assert code == 2, text
        assert "No space left on device" in text
        assert "Free some space" in text
        assert "Traceback" not in text
        remount(disk, "size=20m")
        again = resumed(disk, tmp_path, *TINY[:2])
        assert differing(again, whole) == []


def test_a_file_that_may_not_grow_ends_the_run_and_it_goes_on_without_the_limit(place, whole, tmp_path):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    code, text = limited(EXTRACT, tmp_path / "runs", tmp_path / "limited.txt", limit)
    assert code == 2, text
    assert "ulimit -f" in text
    assert differing(resumed(tmp_path / "runs", tmp_path, *TINY[:2]), whole) == []


def test_too_few_open_files_are_said(tmp_path, place):
    def limit() -> None:
        opened = {int(number) for number in os.listdir("/proc/self/fd")}
        # What is limited is a file's number, and numbers that earlier tests have given back are free.
        most = [number for number in range(len(opened) + 3) if number not in opened][2]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    code, text = limited(EXTRACT, tmp_path / "runs", tmp_path / "limited.txt", limit)
    assert code == 2, text
    assert "Traceback" not in text


def test_a_read_only_disk_is_said_before_any_work(place, tmp_path):
    with small_disk(tmp_path / "disk", "10m") as disk:
        remount(disk, "ro")
        code, text = limited(EXTRACT, disk / "runs", tmp_path / "read.txt")
        assert code == 2, text
        assert "Read-only file system" in text
        remount(disk, "rw")
        assert limited(EXTRACT, disk / "runs", tmp_path / "read.txt")[0] == 0
        remount(disk, "ro")  # a store on a disk that may only be read is an input as good as any
        named = str(disk / "runs" / RUN)
        words = ("runs", "show", named)
        assert limited(words, disk / "runs", tmp_path / "read.txt")[0] == 0


def troubled(place: Path, *words: str) -> tuple[str, ...]:
    plugin = ("--plugin", str(place / "troubled_parts.py"))
    data = ("dataset=troubled", f"dataset.path='{place / 'data'}'", "extract.shard_samples=4", "extract.batch_size=2")
    return ("extract", *TINY, *plugin, *data, *words)


@pytest.mark.parametrize(("kind", "code", "says"), [("mistake", 2, "row nine is bad"), ("bug", 1, "KeyError")])
def test_a_data_set_that_raises_at_a_row_ends_the_run_which_goes_on_when_mended(kind, code, says, place, tmp_path):
    plugin = ("--plugin", TINY[1], "--plugin", str(place / "troubled_parts.py"))
    (place / kind).touch()
    found, text = limited(troubled(place), tmp_path / "runs", tmp_path / "out.txt")
    (place / kind).unlink()
    assert found == code, text
    assert says in text
    run = run_of(tmp_path / "runs", "extract")
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "failed"
    assert "row nine" in manifest["error"]
    assert len(list((run / "representations/vision.embedding").glob("*.safetensors"))) == 2  # the shards before it
    again = resumed(tmp_path / "runs", tmp_path, *plugin)
    assert limited(troubled(place), tmp_path / "whole", tmp_path / "whole.txt")[0] == 0
    assert differing(again, content(run_of(tmp_path / "whole", "extract"))) == []


def test_a_picture_that_vanishes_half_way_is_named(place, tmp_path):
    kept = (place / "data/09.png").read_bytes()
    (place / "vanish").touch()
    code, text = limited(troubled(place), tmp_path / "runs", tmp_path / "out.txt")
    (place / "vanish").unlink()
    (place / "data/09.png").write_bytes(kept)
    assert code == 2, text
    assert "09.png" in text
    assert "Traceback" not in text


def test_a_model_that_gives_values_that_are_not_finite_is_said_with_the_sample(place, tmp_path):
    (place / "nan").touch()
    words = [word if word != "model=tiny" else "model=not_finite" for word in troubled(place)]
    code, text = limited(tuple(words), tmp_path / "runs", tmp_path / "out.txt")
    (place / "nan").unlink()
    assert code == 2, text
    assert "02.png" in text or "01.png" in text
    assert "Traceback" not in text


def test_an_upstream_run_that_vanished_is_named(place, tmp_path):
    runs = tmp_path / "runs"
    words = ("probe", *EXTRACT[1:], "probe.targets=['color=red']", "probe.resamples=100", "probe.code_length=0")
    assert limited(EXTRACT, runs, tmp_path / "out.txt")[0] == 0
    shutil.rmtree(runs / RUN / "representations")
    code, text = limited((*words, "--run", RUN), runs, tmp_path / "out.txt")
    assert code == 2, text
    assert "representations" in text
    shutil.rmtree(runs / RUN)
    code, text = limited((*words, "--run", RUN), runs, tmp_path / "out.txt")
    assert code == 2, text
    assert "tiny-shapes" in text


def test_two_processes_do_not_go_on_with_one_run(place, tmp_path):
    from vlsae.runs import Run

    runs = tmp_path / "runs"
    shutil.copytree(place / "whole" / RUN, runs / RUN)
    file = runs / RUN / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "status": "interrupted", "files": []}))
    held = Run.open(runs / RUN)
    code, text = limited(("runs", "resume", RUN, *TINY[:2]), runs, tmp_path / "out.txt")
    held.interrupt()
    assert code == 2, text
    assert "another process holds" in " ".join(text.split())


@pytest.mark.parametrize("year", ["1970", "2199"])
def test_a_clock_that_jumps_changes_nothing(year, place, whole, tmp_path):
    """A run whose times lie in another century is found, reused, listed and gone on with as any other."""
    runs = tmp_path / "runs"
    shutil.copytree(place / "whole" / RUN, runs / RUN)
    for file in (runs / RUN).rglob("*"):
        os.utime(file, (4e9 if year == "2199" else 1, 4e9 if year == "2199" else 1))
    file = runs / RUN / "manifest.json"
    manifest = {**json.loads(file.read_text()), "start": f"{year}-01-01T00:00:00+00:00"}
    file.write_text(json.dumps(manifest))
    assert limited((*EXTRACT, "name=tiny-shapes"), runs, tmp_path / "out.txt")[0] == 0
    assert (runs / "extract/tiny-shapes/latest").resolve().name == "v0002", "latest goes by version, not by time"
    shutil.rmtree(runs / "extract/tiny-shapes/v0002")
    words = (
        "probe",
        *EXTRACT[1:],
        "extract.sites=embedding",
        "probe.targets=['color=red']",
        "probe.resamples=100",
        "probe.code_length=0",
    )
    code, text = limited(words, runs, tmp_path / "out.txt")
    assert code == 0, text
    assert f"reusing {RUN}" in text
    assert limited(("runs", "list"), runs, tmp_path / "out.txt")[0] == 0
    assert [str(entry.id) for entry in entries_of(runs, "extract")] == [RUN]
    file.write_text(json.dumps({**manifest, "status": "interrupted", "files": []}))
    assert differing(resumed(runs, tmp_path, *TINY[:2]), whole) == []


def test_a_run_that_was_killed_while_it_was_claimed_hinders_nobody(place, tmp_path):
    runs = tmp_path / "runs"
    (runs / RUN).mkdir(parents=True)
    assert [entry.status for entry in entries_of(runs, "extract")] == ["damaged"]
    assert limited(EXTRACT, runs, tmp_path / "out.txt")[0] == 0
    assert run_of(runs, "extract").name == "v0002"


def test_a_training_whose_disk_is_full_keeps_its_last_whole_checkpoint(place, tmp_path):
    words = ("train", *EXTRACT[1:], "objective=my_sae", "train.epochs=40", "train.batch_size=8")
    words += ("train.checkpoint_every=5", "train.evaluate.bootstrap=2", "train.evaluate.names=false", "objective.k=2")
    with small_disk(tmp_path / "disk", "20m") as disk:
        assert limited(EXTRACT, disk, tmp_path / "out.txt")[0] == 0
        used = sum(file.stat().st_blocks * 512 for file in disk.rglob("*") if file.is_file())
        remount(disk, f"size={used + 56_000}")
        code, text = limited(words, disk, tmp_path / "out.txt")
        assert code == 2, text
        assert "No space left on device" in text
        run = run_of(disk, "train")
        from vlsae.training import weight_files

        kept = sorted((run / "checkpoints").glob("step-*.safetensors"))
        assert kept
        for file in kept:
            weight_files.read(file)


ROWS = re.compile(r"^\| (?!kind)(?!-)(.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)


def test_every_fault_of_the_table_is_proved_by_a_test_that_is_there():
    rows = ROWS.findall((ROOT / "docs/faults.md").read_text(encoding="utf-8"))
    assert len(rows) >= 25
    for kind, _, proofs in rows:
        named = re.findall(r"`(test_\w+)\.py::(\w+)`", proofs)
        assert named, kind
        for file, test in named:
            assert f"def {test}(" in (ROOT / "tests" / f"{file}.py").read_text(encoding="utf-8"), (kind, file, test)
