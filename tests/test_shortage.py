"""A model, a task or a reader that memory or time is too short for, through the stages themselves."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from stores import files
from test_workers import Means, folder  # noqa: F401  (a fixture)

from vlsae.cli import main
from vlsae.datasets import Captions
from vlsae.dictionaries import SAES
from vlsae.dictionaries.codes import code_matrix
from vlsae.enhancement.items import Items
from vlsae.errors import UserError
from vlsae.memory import shortage_told
from vlsae.models.base import TokenSelection
from vlsae.representations.extraction import extract_rows
from vlsae.representations.reading_threads import ReadingThreads, in_time
from vlsae.representations.workers import in_threads
from vlsae.training.gradients import Accumulation

#: A model and an objective that run out of memory on many rows, as a device would.
PLUGIN = """
import torch
from tiny_parts import MySAE, TinyModel
from vlsae.plugins import register

@register("model", "short")
class Short(TinyModel):
    def represent(self, batch, sites, tokens=None):
        if any(len(x) > 10 for x in (batch.vision, batch.language) if x is not None):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return super().represent(batch, sites, tokens)

@register("objective", "short_sae")
class ShortSAE(MySAE):
    kind = "short_sae"

    def loss(self, batch, step=0):
        if len(batch["vision"]) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return super().loss(batch, step)

    def loss_weight(self, batch):
        return super().loss_weight(batch)
"""

PARTS = Path(__file__).parent / "plugin_files"
QUICK = ["dataset.n=60", "train.epochs=2", "train.batch_size=32", "train.evaluate.bootstrap=2"]
QUICK += ["train.evaluate.names=false", "upstream=auto"]


@pytest.fixture
def short(tmp_path, monkeypatch) -> list[str]:
    """The words that load the plug-in."""
    monkeypatch.syspath_prepend(str(PARTS))
    (tmp_path / "short_parts.py").write_text(PLUGIN)
    from vlsae import plugins

    with plugins.loaded():
        yield ["--plugin", str(PARTS / "tiny_parts.py"), "--plugin", str(tmp_path / "short_parts.py")]


def manifest(runs: Path, run: str) -> dict:
    return json.loads((runs / run / "manifest.json").read_text())


def test_an_extraction_halves_its_batch_says_so_and_notes_it(short, runs_dir, capsys):
    assert main(["extract", *short, "model=tiny", "dataset.n=60", "extract.batch_size=32", "name=whole"]) == 0
    assert main(["extract", *short, "model=short", "dataset.n=60", "extract.batch_size=32", "name=cut"]) == 0
    assert "extract.batch_size=1" in "".join(capsys.readouterr().err.split())
    assert manifest(runs_dir, "extract/whole/v0001")["reproducible"] is True
    assert manifest(runs_dir, "extract/cut/v0001")["reproducible"] is False
    whole, cut = (files(runs_dir / f"extract/{name}/v0001/representations") for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert {n: d for n, d in whole.items() if n != "index.json"} == {n: d for n, d in cut.items() if n != "index.json"}


def test_a_training_takes_its_batch_in_parts_and_comes_to_the_same_numbers(short, runs_dir, capsys):
    for objective in ("my_sae", "short_sae"):
        words = ["train", *short, "model=tiny", f"objective={objective}", *QUICK, f"name={objective}"]
        assert main(words) == 0, capsys.readouterr().err
    assert "in 4 parts" in " ".join(capsys.readouterr().err.split())
    summaries = [
        json.loads((runs_dir / f"train/{name}/v0001/summary.json").read_text())["metrics"]
        for name in ("my_sae", "short_sae")
    ]
    assert manifest(runs_dir, "train/short_sae/v0001")["reproducible"] is False
    assert manifest(runs_dir, "train/my_sae/v0001")["reproducible"] is True
    losses = [one["loss/validation"]["value"] for one in summaries]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_validation_batch_is_taken_in_parts():
    class Short(SAES):
        def loss(self, batch, step=0):
            if len(batch["vision"]) > 4:
                raise MemoryError
            return super().loss(batch, step)

        def loss_weight(self, batch):
            return super().loss_weight(batch)

    torch.manual_seed(0)
    short, whole = Short(4, 8, 2), SAES(4, 8, 2)
    whole.load_state_dict(short.state_dict())
    batch = {"vision": torch.randn(11, 4), "language": torch.randn(11, 4)}
    accumulation = Accumulation()
    with torch.no_grad():
        found = accumulation.loss(short, batch, 0)
        torch.testing.assert_close(found.total, whole.loss(batch).total)
    assert accumulation.parts == 4


def test_codes_of_many_rows_are_made_in_smaller_pieces():
    class Short(SAES):
        def encode(self, x, stream):
            if len(x) > 7:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return super().encode(x, stream)

    torch.manual_seed(0)
    short, x, told = Short(4, 8, 2), torch.randn(50, 4), []
    with shortage_told(lambda: told.append(True)):
        found = code_matrix(short, x, "vision")
    assert told
    assert np.array_equal(found.toarray(), SAES.encode(short, x, "vision").to_dense().detach().numpy())


def test_items_of_a_task_are_answered_in_smaller_batches(tmp_path, caplog):
    def answer(numbers):
        if len(numbers) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return [{"input": n, "answer": n, "label": None} for n in numbers]

    items = Items(tmp_path / "samples.jsonl")
    with caplog.at_level(logging.WARNING):
        found = items.complete([str(n) for n in range(9)], "m", 0, answer, batch=8)
    assert [item["answer"] for item in found] == list(range(9))
    assert len((tmp_path / "samples.jsonl").read_text().splitlines()) == 9
    assert "going on with 2" in caplog.text


def test_memory_of_this_process_that_runs_out_for_real():
    """The address space is limited, and a model that needs it twice over for a whole batch goes on with half."""
    code = """
import resource, sys
import numpy as np
from vlsae.memory import Pieces
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (600 << 20), used + (600 << 20)))
pieces = Pieces("extract.batch_size")
found = pieces.run(range(16), lambda some: np.ones(len(some) * (8 << 20)).sum() / (8 << 20))
print(sum(found), pieces.size)
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert shown.stdout.split() == ["16.0", "8"] or shown.stdout.split() == ["16.0", "4"], shown.stderr
    assert "memory ran out at 16 at once" in shown.stderr


class Hangs(Captions):
    """Captions whose third batch never comes, read in a thread."""

    in_files = False

    def images(self, indices):
        if 9 in list(indices):
            time.sleep(600)
        return super().images(indices)


def test_a_reading_thread_that_hangs_is_an_error_with_its_reason(folder, tmp_path):  # noqa: F811
    start = time.monotonic()
    with pytest.raises(UserError, match=r"did not answer in time: no batch after 1 seconds"):
        extract_rows(
            Means(),
            Hangs(path=str(folder)),
            tmp_path,
            sites=["vision.embedding", "language.embedding"],
            tokens=TokenSelection(),
            samples=20,
            split={"seed": 0},
            batch_size=4,
            worker_timeout=1,
        )
    assert time.monotonic() - start < 60


def test_a_process_ends_though_a_reading_thread_hangs():
    code = """
import time
from vlsae.representations.reading_threads import ReadingThreads, in_time
threads = ReadingThreads(1, "reader")
waiting = threads.submit(time.sleep, 600)
try:
    in_time(waiting, 0.2)
except ValueError as error:
    print(error)
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "did not answer in time" in shown.stdout
    assert shown.returncode == 0


def test_threads_end_with_what_gave_them_work():
    import gc
    import threading

    threads = ReadingThreads(2, "short-lived")
    assert in_time(threads.submit(os.getpid)) == os.getpid()
    assert sum(one.name.startswith("short-lived") for one in threading.enumerate()) == 2
    del threads
    gc.collect()
    for _ in range(100):
        if not any(one.name.startswith("short-lived") for one in threading.enumerate()):
            return
        time.sleep(0.02)
    raise AssertionError("a thread lives on")


def test_what_a_thread_raises_is_raised_and_the_order_kept():
    assert list(in_threads(lambda n: n * n, list(range(20)), 3)) == [n * n for n in range(20)]
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda n: 1 // (n - 5), list(range(20)), 2))
    with pytest.raises(TimeoutError, match="its own"):
        list(in_threads(_own_timeout, [1], 1))


def _own_timeout(n):
    raise TimeoutError("its own")
