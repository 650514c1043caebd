"""Worker processes that decode images: the same store as without them, and an error instead of an endless wait."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vlsae.datasets import Captions
from vlsae.errors import UserError
from vlsae.models.base import Batch, Model, Rows, Site, TokenSelection
from vlsae.representations import Store
from vlsae.representations.extraction import extract_rows
from vlsae.representations.workers import explained, in_processes, in_threads

ROWS = 23


class Means(Model):
    """Mean colours of images, letter counts of texts."""

    def sites(self):
        return {"vision.embedding": Site(3, "mean"), "language.embedding": Site(3, "count")}

    def digest(self):
        return "0" * 64

    def load(self, device="cpu", dtype="float32"):
        pass

    def prepare(self, images=None, texts=None):
        pixels = torch.stack([torch.from_numpy(np.array(image)).double().mean((0, 1)) for image in images])
        counts = torch.tensor([[float(text.count(letter)) for letter in "abc"] for text in texts])
        return Batch(pixels, counts)

    def represent(self, batch, sites, tokens=None):
        found = {}
        for site in sites:
            values = getattr(batch, site.split(".")[0]).float()
            number = torch.arange(len(values))
            found[site] = Rows(values, number, torch.full_like(number, -1))
        return found

    def edit(self, site, function):
        raise NotImplementedError


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("pictures")
    captions = {}
    for number in range(ROWS):
        size = (8 + number, 9) if number % 3 else (90, 70)
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number:02d}.png")
        captions[f"{number:02d}.png"] = ["a" * number + "b", "cab"]
    (place / "captions.json").write_text(json.dumps(captions))
    return place


def extract(dataset, path: Path, **settings) -> None:
    extract_rows(
        Means(),
        dataset,
        path,
        sites=["vision.embedding", "language.embedding"],
        tokens=TokenSelection(),
        samples=len(dataset),
        split={"seed": 0},
        batch_size=4,
        shard_samples=10,
        **settings,
    )


def content(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("workers", [1, 2])
def test_the_store_is_the_same_bytes_with_and_without_workers(folder, tmp_path, workers):
    torch.manual_seed(3)
    extract(Captions(path=str(folder)), tmp_path / "none", workers=0)
    extract(Captions(path=str(folder)), tmp_path / "some", workers=workers)
    assert content(tmp_path / "none") == content(tmp_path / "some")
    assert Store.open(tmp_path / "some").samples.num_rows == ROWS
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1))  # nothing was drawn from the common generator


def test_images_are_decoded_in_other_processes(folder, tmp_path):
    class Noted(Captions):
        def images(self, indices):
            (tmp_path / f"{os.getpid()}").touch()
            return super().images(indices)

    (tmp_path / "store").mkdir()
    extract(Noted(path=str(folder)), tmp_path / "store", workers=2)
    seen = {int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()}
    assert len(seen) == 2
    assert os.getpid() not in seen


class Broken(Captions):
    """Captions of which the third batch is trouble, in another process than this one."""

    def __init__(self, path: Path, trouble: str) -> None:
        super().__init__(path=str(path))
        self.trouble, self.home = trouble, os.getpid()

    def images(self, indices):
        if 9 in list(indices) and os.getpid() != self.home:
            if self.trouble == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.trouble == "hung":
                time.sleep(600)
            if self.trouble == "mistake":
                raise UserError("row nine is bad", "Mend row nine.")
            raise KeyError("a bug")
        return super().images(indices)


@pytest.mark.parametrize(
    ("trouble", "words"),
    [("killed", "A worker process ended"), ("hung", "did not answer in time"), ("mistake", "row nine is bad")],
)
def test_a_worker_that_dies_hangs_or_finds_a_fault_is_an_error_with_its_reason(folder, tmp_path, trouble, words):
    start = time.monotonic()
    with pytest.raises(UserError, match=words) as caught:
        extract(Broken(folder, trouble), tmp_path, workers=1, worker_timeout=3)
    assert time.monotonic() - start < 60
    if trouble == "mistake":
        assert (caught.value.message, caught.value.mend) == ("row nine is bad", "Mend row nine.")
    else:
        assert "hardware.workers" in str(caught.value)
    extract(Captions(path=str(folder)), tmp_path, workers=1)  # and the interrupted store goes on
    assert Store.open(tmp_path).samples.num_rows == ROWS


def test_a_bug_in_a_worker_stays_one_with_its_place(folder, tmp_path):
    with pytest.raises(KeyError, match="a bug") as caught:
        extract(Broken(folder, "bug"), tmp_path, workers=1)
    assert "in images" in str(caught.value)


def test_order_is_kept_and_an_early_end_leaves_no_process():
    assert list(in_threads(lambda number: number * 2, range(7), 3)) == [0, 2, 4, 6, 8, 10, 12]
    with explained():
        values = in_processes(_with_process, range(50), 2)
        first = [next(values) for _ in range(3)]
        values.close()
    assert [value for value, _ in first] == [0, 1, 4]
    started = {process for _, process in first}
    deadline = time.monotonic() + 30
    while any(_is_there(process) for process in started) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_is_there(process) for process in started)


def test_no_worker_outlives_a_killed_parent(tmp_path):
    context = multiprocessing.get_context("fork")
    parent = context.Process(target=_read_one, args=(tmp_path / "started",))
    parent.start()
    deadline = time.monotonic() + 60
    while not (tmp_path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    started = [int(word) for word in (tmp_path / "started").read_text().split()]
    assert all(map(_is_there, started))
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    while any(map(_is_there, started)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_is_there, started))


def _read_one(path: Path) -> None:
    values = in_processes(_large, range(50), 2)
    started = {next(values)[0] for _ in range(2)}
    time.sleep(1.0)  # the pipe is full by now
    path.with_suffix(".new").write_text(" ".join(map(str, started)))
    path.with_suffix(".new").rename(path)
    time.sleep(600)


def _large(number: int) -> tuple[int, bytes]:
    return os.getpid(), bytes(1 << 20)


def _is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _with_process(number: int) -> tuple[int, int]:
    return number**2, os.getpid()
