"""The whole path on a tiny CLIP: extract, train, reuse, kill and resume.

Through real processes where the process is the point, else in this one, where nothing is imported again.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_clip import write_clip

import vlsae
from vlsae.cli import main

pytestmark = pytest.mark.slow

SMALL = ["dataset.n=600", "extract.shard_samples=64", "extract.batch_size=16"]
BATCH = [*SMALL, "train.batch_size=64"]
SIZES = [*BATCH, "train.epochs=12"]

SUMMARY = {
    *(f"{name}/{stream}" for name in ("explained_variance", "l0", "dead") for stream in ("vision", "language")),
    *("consistency", "intra_sim", "inter_sim", "recovery/auroc", "recovery/f1", "recovery/coverage"),
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    return f"model.checkpoint=path:{write_clip(tmp_path_factory.mktemp('clip'))}"


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    runs = tmp_path_factory.mktemp("runs")
    return {**os.environ, "VLSAE_RUNS": str(runs), "OMP_NUM_THREADS": "1", "COLUMNS": "200", "VLSAE_FIGURES": "data"}


@pytest.fixture(scope="module")
def first(clip, environment) -> Path:
    """A finished training with its own extraction."""
    done = command({**environment, "VLSAE_FIGURES": "drawn"}, "train", clip, *SIZES)
    assert done.returncode == 0, done.stderr
    return Path(environment["VLSAE_RUNS"]) / "train/clip-shapes-vl_sae/v0001"


def command(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "vlsae", *arguments]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=240)


def here(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Do in this process what ``command`` does in one of its own."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        for name in ("VLSAE_RUNS", "COLUMNS"):
            patch.setenv(name, environment[name])
        code = main(list(arguments))
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def manifest(run: Path) -> dict:
    return json.loads((run / "manifest.json").read_text())


def digests(run: Path, *prefixes: str) -> dict[str, str]:
    files = {file["path"]: file["sha256"] for file in manifest(run)["files"]}
    return {path: digest for path, digest in files.items() if path.startswith(prefixes)}


def test_a_training_leaves_all_that_others_rely_on(first, environment):
    facts = manifest(first)
    assert facts["status"] == "done"
    assert facts["parents"] == ["extract/clip-shapes/v0001"]
    for name in ("config.yaml", "overrides.yaml", "metrics.jsonl", "summary.json", "log.txt", "report.html"):
        assert (first / name).stat().st_size > 0, name
    assert {path.suffix for path in (first / "figures").iterdir()} == {".svg", ".png", ".csv"}
    metrics = json.loads((first / "summary.json").read_text())["metrics"]
    assert set(metrics) >= SUMMARY
    assert metrics["l0/vision"]["value"] == 8
    assert metrics["recovery/auroc"]["value"] < metrics["recovery_ceiling/auroc"]["value"]
    concepts = [json.loads(line) for line in (first / "concepts.jsonl").read_text().splitlines()]
    assert len(concepts) == 128
    assert all(bool(concept["images"]) != concept["dead_v"] for concept in concepts)
    assert (first.parent / "latest").resolve() == first
    opened = vlsae.open_run("train/clip-shapes-vl_sae/latest", runs_dir=environment["VLSAE_RUNS"])
    assert opened.dictionary().n_concepts == 128
    upstream = vlsae.open_run("extract/clip-shapes/latest", runs_dir=environment["VLSAE_RUNS"])
    upstream.representations().verify()


def test_the_same_command_reuses_the_extraction_gives_the_same_bytes_and_imports_no_model_library(
    first, clip, environment
):
    script = (
        "import sys; from vlsae.cli import main; code = main(sys.argv[1:]);"
        "print('heavy', [name for name in ('open_clip', 'transformers', 'hydra') if name in sys.modules][:-1], code)"
    )
    arguments = [sys.executable, "-c", script, "train", clip, *SIZES]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=240)
    assert "heavy [] 0" in done.stdout, done.stdout + done.stderr
    second = first.parent / "v0002"
    assert manifest(second)["parents"] == manifest(first)["parents"]
    assert digests(second, "dictionary/", "concepts") == digests(first, "dictionary/", "concepts")
    assert "explained_variance/vision" in done.stdout
    assert str(second) in done.stdout


def test_an_extraction_of_fewer_rows_is_served_by_one_of_more_and_says_partial(first, clip, environment):
    done = here(environment, "train", clip, *BATCH, "--limit", "300", "train.epochs=1", "--name", "few")
    assert done.returncode == 0, done.stderr
    run = first.parents[1] / "few/v0001"
    assert manifest(run)["parents"] == ["extract/clip-shapes/v0001"]
    assert "partial" in done.stdout


def test_layers_of_unequal_width_go_through_the_auxiliary_autoencoder(clip, environment):
    arguments = ["train", clip, *BATCH, "train.sites=2", "train.epochs=2", "train.auxiliary_autoencoder.epochs=2"]
    done = here(environment, *arguments, "--name", "layer")
    assert done.returncode == 0, done.stderr
    run = Path(environment["VLSAE_RUNS"]) / "train/layer/v0001"
    assert json.loads((run / "auxiliary/config.json").read_text())["kind"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any("auxiliary/loss/contrastive" in line for line in lines)
    refused = here(environment, *arguments, "train.auxiliary=never")
    assert refused.returncode == 2
    assert "vision.2 is 32 wide, language.2 is 24 wide" in refused.stderr


def test_a_learner_trains_through_the_same_loop_and_its_model_is_extracted_from(clip, environment):
    arguments = ["train", clip, f"objective.architecture={clip.partition('=')[2]}", "objective=align"]
    small = ["dataset.n=100", "train.epochs=1", "train.batch_size=32"]
    done = here(environment, *arguments, *small, "--name", "learner")
    assert done.returncode == 0, done.stderr
    run = Path(environment["VLSAE_RUNS"]) / "train/learner/v0001"
    assert "retrieval/text_of_image/r1" in json.loads((run / "summary.json").read_text())["metrics"]
    learned = f"model.checkpoint=path:{run / 'model'}"
    done = here(environment, "extract", learned, "dataset.n=50", "--name", "learned")
    assert done.returncode == 0, done.stderr


def killed(environment: dict[str, str], arguments: list[str], ready, seed: int) -> None:
    """Start a command and kill it with SIGKILL a seeded moment after ``ready()`` first holds."""
    process = subprocess.Popen([sys.executable, "-m", "vlsae", *arguments], env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, "the command ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(random.Random(seed).uniform(0, 0.05))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.stress
@pytest.mark.parametrize("seed", [0, 1])
def test_a_killed_extraction_goes_on_and_ends_with_the_same_bytes(first, clip, environment, tmp_path, seed):
    mine = {**environment, "VLSAE_RUNS": str(tmp_path)}
    run = tmp_path / "extract/clip-shapes/v0001"
    shards = 1 + 3 * seed
    killed(
        mine,
        ["extract", clip, *SMALL],
        lambda: len(list((run / "representations/vision.embedding").glob("*.safetensors"))) >= shards,
        seed,
    )
    assert json.loads(command(mine, "runs", "list", "--json").stdout)[0]["status"] == "interrupted"
    done = command(mine, "runs", "resume", "extract/clip-shapes/v0001")
    assert done.returncode == 0, done.stderr
    whole = first.parents[2] / "extract/clip-shapes/v0001"
    assert digests(run, "representations/") == digests(whole, "representations/")


@pytest.mark.stress
@pytest.mark.parametrize("seed", [0, 1])
def test_a_killed_training_goes_on_to_the_same_numbers(first, clip, environment, seed):
    name = f"killed{seed}"
    run = first.parents[1] / name / "v0001"
    metrics = run / "metrics.jsonl"
    steps = 10 + 40 * seed
    arguments = ["train", clip, *SIZES, "--name", name, "train.checkpoint_every=7"]
    killed(
        environment, arguments, lambda: metrics.exists() and len(metrics.read_text().splitlines()) > steps // 8, seed
    )
    done = command(environment, "runs", "resume", f"train/{name}/v0001")
    assert done.returncode == 0, done.stderr
    assert digests(run, "dictionary/", "concepts") == digests(first, "dictionary/", "concepts")
    numbers = [json.loads((one / "summary.json").read_text())["metrics"] for one in (run, first)]
    assert numbers[0] == numbers[1]
    lines = [[json.loads(line) for line in (one / "metrics.jsonl").read_text().splitlines()] for one in (run, first)]
    for one, other in zip(*lines, strict=True):
        assert one | {"time": 0} == other | {"time": 0}


def test_a_flipped_byte_in_a_store_is_named_and_nothing_trains_on_it(clip, environment, tmp_path):
    mine = {**environment, "VLSAE_RUNS": str(tmp_path)}
    assert here(mine, "extract", clip, "dataset.n=100").returncode == 0
    path = tmp_path / "extract/clip-shapes/v0001/representations/vision.embedding/00000.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))
    store = vlsae.open_run("extract/clip-shapes/latest", runs_dir=str(tmp_path)).representations()
    with pytest.raises(ValueError, match=r"vision.embedding/00000.safetensors"):
        store.verify()
    refused = command(mine, "train", clip, "dataset.n=100", "train.epochs=1")
    assert refused.returncode == 2
    assert "vision.embedding/00000.safetensors" in refused.stderr
    assert "--force" in refused.stderr
    done = here(mine, "train", clip, "--run", "extract/clip-shapes/latest", "--verify")
    assert done.returncode == 2, done.stderr
    assert "vision.embedding/00000.safetensors: expected SHA-256" in done.stderr.replace("\n", "")
