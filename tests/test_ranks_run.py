"""A run in several processes: what it leaves behind, and every way a rank ends."""

from __future__ import annotations

import filecmp
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from run_factory import new_run, python, wait_for

from vlsae import plugins
from vlsae.cli import main as vlsae
from vlsae.errors import UserError
from vlsae.runs import open_run, read_manifest
from vlsae.runs.metrics import read_metrics
from vlsae.stages import STAGES
from vlsae.stages.torchrun import RankFailed
from vlsae.worker import run_stage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

EXTRACT = ["--limit=300", "extract.shard_samples=64", "extract.batch_size=32"]
TRAIN = [
    *EXTRACT,
    "objective.n_concepts=96",
    "objective.k=6",
    "train.epochs=1",
    "train.batch_size=100",
    "train.log_every=1",
    "train.evaluate.bootstrap=2",
    "train.evaluate.names=false",
    "train.evaluate.rows=50",
]

STAGE = """
import os, time
from vlsae import ranks
from vlsae.errors import UserError
from vlsae.stages import STAGES

STAGES["ranked"] = "ranked_stage"
SCHEMA = 1

def shared_by_ranks(config):
    return True

def parents(config):
    return []

def run(config, run):
    mode, second = config["mode"], ranks.rank() == 1
    (run.path / f"rank-{ranks.rank()}").write_text(str(os.getpid()))
    if mode == "mistake" and second:
        raise UserError("Row 7 of 'cats' is no image.", "Leave it out.")
    if mode == "bug" and second:
        raise KeyError("boom")
    if mode == "wait" and second:
        time.sleep(600)
    counts = ranks.add_up({"rows": 1 + ranks.rank()})
    ranks.barrier()
    run.log_metrics(1, 1.0, "train", rank=ranks.rank())
    run.write_summary(counts)
"""


@pytest.fixture
def ranked(tmp_path):
    """Register a tiny stage that ranks share, as a plug-in, which the ranks load too."""
    path = tmp_path / "ranked_stage.py"
    path.write_text(STAGE)
    with plugins.loaded():
        plugins.load([str(path)])
        yield path
    STAGES.pop("ranked", None)


def claimed(runs_dir: Path, mode: str):
    config = f"mode: {mode}\nhardware: {{device: cpu, ranks: 2, threads: 1}}\n"
    return new_run(runs_dir, stage="ranked", config=config)


def gone(pid: int, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def ranks_of(run) -> list[int]:
    return [int((run.path / f"rank-{number}").read_text()) for number in (0, 1)]


def test_rank_0_alone_writes(ranked, runs_dir):
    run = run_stage(claimed(runs_dir, "plain"))
    opened = open_run(run.id)
    assert opened.status == "done"
    assert opened.changed_files() == []
    assert [line["rank"] for line in opened.metrics()] == [0]
    assert opened.summary["metrics"]["rows"]["value"] == 3


@pytest.mark.parametrize(
    ("mode", "kind", "words"),
    [pytest.param("mistake", UserError, "no image", marks=pytest.mark.stress), ("bug", RankFailed, "boom")],
)
def test_what_a_rank_raises_ends_the_run_with_its_reason(ranked, runs_dir, mode, kind, words):
    run = claimed(runs_dir, mode)
    with pytest.raises(kind, match=words):
        run_stage(run)
    manifest = read_manifest(run.path)
    assert manifest["status"] == "failed"
    assert words in manifest["error"]
    assert words in (run.path / "log.txt").read_text()
    assert all(gone(pid) for pid in ranks_of(run))


def test_a_killed_rank_ends_the_run_with_its_reason(ranked, runs_dir):
    run = claimed(runs_dir, "wait")

    def kill() -> None:
        while not ((run.path / "rank-0").exists() and (run.path / "rank-1").exists()):
            time.sleep(0.05)
        time.sleep(0.5)
        os.kill(ranks_of(run)[1], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(UserError, match="Rank 1 was killed by SIGKILL"):
        run_stage(run)
    thread.join()
    assert read_manifest(run.path)["status"] == "failed"
    assert all(gone(pid) for pid in ranks_of(run))


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGKILL, -9, marks=pytest.mark.stress)]
)
def test_the_end_of_the_parent_ends_the_ranks(ranked, runs_dir, tmp_path, number, code):
    run = claimed(runs_dir, "wait")
    run.release()
    start = "from vlsae.worker import main; sys.exit(main(sys.argv[1:]))"
    process = python(tmp_path, start, str(run.path), f"--plugin={ranked}")
    for rank in (0, 1):
        wait_for(run.path / f"rank-{rank}", process, 120)
    time.sleep(0.5)
    process.send_signal(number)
    process.communicate(timeout=120)
    assert process.returncode == code
    assert all(gone(pid) for pid in ranks_of(run))
    if number == signal.SIGINT:
        assert read_manifest(run.path)["status"] == "interrupted"


def test_a_rank_without_a_parent_that_holds_the_run_is_refused(ranked, runs_dir):
    from vlsae.runs import Run

    run = claimed(runs_dir, "plain")
    run.release()
    with pytest.raises(UserError, match="runs resume"):
        Run.lent(run.path, writes=True)


@pytest.mark.parametrize("model", ["tiny", pytest.param("clip", marks=pytest.mark.stress)])
def test_store_and_loss_curve_are_those_of_one_process(model, runs_dir, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    parts = ["--plugin", str(Path(__file__).parent / "plugin_files" / "tiny_parts.py")] if model == "tiny" else []
    for name, hardware in (("one", "cpu"), ("two", "multi_cpu")):
        common = [f"hardware={hardware}", "hardware.threads=1", f"runs_dir={runs_dir / name}", f"--name={name}"]
        with plugins.loaded():
            assert vlsae(["train", *parts, f"model={model}", *TRAIN, *common]) == 0
    stores = [next((runs_dir / name / "extract").glob("*/v0001/representations")) for name in ("one", "two")]
    files = sorted(str(path.relative_to(stores[0])) for path in stores[0].rglob("*") if path.is_file())
    assert files == sorted(str(path.relative_to(stores[1])) for path in stores[1].rglob("*") if path.is_file())
    assert filecmp.cmpfiles(*stores, files, shallow=False)[1:] == ([], [])
    one, two = (runs_dir / name / "train" / name / "v0001" for name in ("one", "two"))
    lines = read_metrics(one)
    assert len({line["step"] for line in lines}) > 2
    for line, other in zip(lines, read_metrics(two), strict=True):
        assert line.pop("split") == other.pop("split")
        del line["time"], other["time"]
        assert other == pytest.approx(line, rel=1e-5)
    summaries = [json.loads((path / "summary.json").read_text())["metrics"] for path in (one, two)]
    for name in ("loss/validation", "explained_variance/vision", "rows_seen", "l0/vision"):
        assert summaries[1][name]["value"] == pytest.approx(summaries[0][name]["value"], rel=1e-4), name
    assert read_manifest(two)["device"] == "cpu × 2"


#: A model and an objective that run out of memory on the second rank alone; no parts add up to the objective's loss.
SHORT = """
import torch
from tiny_parts import TinyModel
from vlsae import ranks
from vlsae.dictionaries.top_k import TopK
from vlsae.plugins import register

SAYS = "CUDA out of memory. Tried to allocate 20.00 GiB."

@register("model", "short")
class ShortModel(TinyModel):
    def represent(self, batch, sites, tokens=None):
        if ranks.rank() == 1 and any(len(x) > 10 for x in (batch.vision, batch.language) if x is not None):
            raise torch.OutOfMemoryError(SAYS)
        return super().represent(batch, sites, tokens)

@register("objective", "short")
class ShortTopK(TopK):
    kind = "short"

    def loss(self, batch, step=0):
        if ranks.rank() == 1 and step == 1:
            raise torch.OutOfMemoryError(SAYS)
        return super().loss(batch, step)
"""


@pytest.mark.stress
def test_memory_that_runs_out_on_one_rank_alone(runs_dir, tmp_path, monkeypatch, capfd):
    """The rank's batches are halved, which it says, and rows stay the same; a loss of whole batches ends the run."""
    parts = str(Path(__file__).parent / "plugin_files")
    monkeypatch.setenv("PYTHONPATH", parts)
    monkeypatch.syspath_prepend(parts)
    (tmp_path / "short_parts.py").write_text(SHORT)
    common = ["--plugin", str(tmp_path / "short_parts.py"), "model=short", "dataset.n=60", "hardware.threads=1"]
    common += ["extract.batch_size=16", "extract.shard_samples=20"]
    train = ["objective=short", "objective.n_concepts=16", "objective.k=2", "train.batch_size=16"]
    with plugins.loaded():
        assert vlsae(["extract", *common, f"runs_dir={runs_dir / 'one'}"]) == 0
        assert vlsae(["train", *common, *train, "hardware=multi_cpu", f"runs_dir={runs_dir / 'two'}"]) == 2
    said = " ".join(capfd.readouterr().err.split())
    assert "Memory ran out at step 1, and the loss of ShortTopK is no mean over rows" in said
    assert "Use a smaller train.batch_size" in said
    assert "Traceback" not in said
    (failed,) = (runs_dir / "two").glob("train/*/v0001")
    assert read_manifest(failed)["status"] == "failed"
    one, two = (next((runs_dir / name).glob("extract/*/v0001")) for name in ("one", "two"))
    for text in (said, " ".join((two / "log.txt").read_text().split())):
        assert "memory ran out on rank 1 at 16 at once" in text
    files = sorted(str(path.relative_to(one)) for path in (one / "representations").rglob("*") if path.is_file())
    assert filecmp.cmpfiles(one, two, files, shallow=False)[1:] == ([], [])
    assert read_manifest(two)["reproducible"] is False


@pytest.mark.stress
def test_moments_of_a_live_index_are_those_of_one_process(runs_dir):
    for name, hardware in (("one", "cpu"), ("two", "multi_cpu")):
        words = ["aqi.source=live", "aqi.live_rows=0", "aqi.blocks=5", "--limit=60", "--layer=[2,4]"]
        common = [f"hardware={hardware}", "hardware.threads=1", "extract.batch_size=7", f"--name={name}"]
        assert vlsae(["aqi", *words, *common]) == 0
    one, two = (runs_dir / "aqi" / name / "v0001" / "state" / "moments.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "hardware=multi_gpu"], "no CUDA device is visible"),
        (["train", "hardware=multi_cpu", "objective=prototype"], "learns from whole batches"),
        (["train", "hardware=multi_cpu", "train.unpaired=true"], "different lengths"),
    ],
)
def test_what_ranks_would_do_wrong_is_refused_before_a_run_is_claimed(runs_dir, capsys, words, expected):
    assert vlsae([*words, *EXTRACT]) == 2
    assert expected in capsys.readouterr().err
    assert not list(runs_dir.glob("*/*/v*"))
