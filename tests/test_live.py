"""train.source=live: the rows of a store without a store, a bounded window, and the same numbers after a kill."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from killing import content, differing
from tiny_lm import write_lm

from vlsae.cli import main
from vlsae.datasets import Text
from vlsae.datasets.chosen import Chosen
from vlsae.dictionaries.loss_recovered import token_recovery
from vlsae.errors import UserError
from vlsae.models import LM, TokenSelection
from vlsae.representations import Store
from vlsae.representations.extraction import extract_rows
from vlsae.representations.live import LiveReader, ModelRows
from vlsae.representations.order import Order

TOKENS = TokenSelection("tokens")
SITE = "language.2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_lm(tmp_path_factory.mktemp("live") / "lm")


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    draw = random.Random(0)
    words = ["a", "cat", "sat", "on", "the", "red", "mat", "and", "saw", "two", "birds"]
    lines = [" ".join(draw.choices(words, k=draw.randint(2, 9))) for _ in range(120)]
    path = tmp_path_factory.mktemp("texts") / "lines.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def source(folder, texts) -> ModelRows:
    return ModelRows(LM(checkpoint=str(folder)), Text(path=str(texts)), SITE, TOKENS, batch_size=7)


@pytest.fixture(scope="module")
def counted(source) -> tuple[np.ndarray, np.ndarray]:
    samples = np.arange(0, len(source.dataset), 2)
    return samples, source.counts(samples)


def reader(source, counted, **settings) -> LiveReader:
    return LiveReader(source, *counted, **{"batch_size": 32, "window": 200, "seed": 3, **settings})


def test_windows_are_bounded_in_rows_and_hold_every_shard_once():
    sizes = np.random.default_rng(0).integers(0, 40, 100)
    order = Order(sizes, 5, window_rows=64)
    for epoch in (0, 1):
        windows = order.windows(epoch, 0, len(order))
        held = [order.window_shards(epoch, number) for number, _, _ in windows]
        assert sorted(np.concatenate(held).tolist()) == list(range(100))
        assert max(int(sizes[one].sum()) for one in held) <= 64
        assert min(int(sizes[a].sum() + sizes[b[0]]) for a, b in pairwise(held)) > 64
        assert sorted(order.rows(epoch, 0, len(order)).tolist()) == list(range(len(order)))


def test_an_epoch_has_the_rows_of_a_store_each_once(source, counted, tmp_path):
    samples, counts = counted
    live = reader(source, counted)
    assert live.n_rows == counts.sum()
    parts = [part for step in range(live.steps_per_epoch) for part in live._parts(step)]
    values, owners, positions = (
        torch.cat([p[0] for p in parts]),
        *(np.concatenate([p[n] for p in parts]) for n in (1, 2)),
    )
    assert torch.equal(values, torch.cat([live.batch(step)["language"] for step in range(live.steps_per_epoch)]))
    chosen = Chosen(source.dataset, samples)
    extract_rows(
        source.model,
        chosen,
        tmp_path,
        sites=[SITE],
        tokens=TOKENS,
        samples=len(chosen),
        split={"seed": 0, "validation": 0.2, "test": 0.0},
        dtype="float32",
    )
    store = Store.open(tmp_path)
    table = store.row_table("language")
    order = np.lexsort((positions, owners))
    assert owners[order].tolist() == samples[table["sample"].to_numpy()].tolist()
    assert positions[order].tolist() == table["position"].to_pylist()
    assert torch.allclose(values[torch.from_numpy(order)], store.read(SITE), atol=1e-4)


def test_the_order_is_a_function_of_seed_and_step_and_a_late_start_reads_the_same(source, counted):
    whole, late = reader(source, counted), reader(source, counted)
    steps = whole.steps_per_epoch
    batches = [whole.batch(step)["language"] for step in range(2 * steps)]
    for step in (steps - 1, steps + 3, 5):
        assert torch.equal(late.batch(step)["language"], batches[step])
    assert not torch.equal(batches[0], batches[steps])
    assert not torch.equal(reader(source, counted, seed=4).batch(0)["language"], batches[0])


def test_at_most_a_window_of_rows_is_held_and_each_sample_runs_once_an_epoch(source, counted, monkeypatch):
    live, seen, sizes = reader(source, counted), [], []
    of = ModelRows.of

    def counting(self, samples):
        seen.extend(samples.tolist())
        assert live._held is None, "the window before is still held"
        yield from of(self, samples)

    monkeypatch.setattr(ModelRows, "of", counting)
    for step in range(live.steps_per_epoch):
        live.batch(step)
        sizes.append(len(live._held[1].values))
    assert sorted(seen) == counted[0].tolist()
    assert max(sizes) <= 200
    assert len(set(sizes)) > 1


def test_nothing_behind_the_site_runs_and_counting_runs_no_block(folder, texts):
    model = LM(checkpoint=str(folder))
    rows = ModelRows(model, Text(path=str(texts)), "language.1", TOKENS, batch_size=16)
    ran = []
    for number, block in enumerate(model.module.base_model.layers):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    counts = rows.counts(np.arange(20))
    assert not ran
    found = [owners for owners, _ in rows.of(np.arange(20))]
    assert set(ran) == {0}
    assert np.array_equal(counts, np.bincount(np.concatenate(found), minlength=20))


def test_rows_are_named_by_sample_and_position(source, counted):
    live = reader(source, counted)
    mask = np.zeros(32, dtype=bool)
    mask[[0, 31]] = True
    names = live.describe(4, mask)
    ids = set(source.dataset.table[counted[0].tolist()]["sample_id"])
    assert len(names) == 2
    assert all(name.split(", position ")[0] in ids for name in names)


def test_windows_that_hold_too_little_are_refused(source, counted):
    with pytest.raises(UserError, match="one sample has"):
        reader(source, counted, window=8, batch_size=4)
    with pytest.raises(UserError, match="a batch has 300"):
        reader(source, counted, batch_size=300)


def test_data_that_changed_since_it_was_counted_is_an_error(source, counted):
    samples, counts = counted
    changed = counts.copy()
    changed[0] += 1
    live = reader(source, (samples, changed), window=5000)
    with pytest.raises(UserError, match="have another number"):
        live.batch(0)


class Exact:
    """A dictionary that gives rows back as they are."""

    n_concepts = 4

    def encode(self, x, stream):
        return x

    def decode(self, code, stream):
        return code


def test_recovery_changes_only_positions_that_are_rows(source, tmp_path):
    extract_rows(
        source.model,
        source.dataset,
        tmp_path,
        sites=[SITE],
        tokens=TOKENS,
        samples=40,
        split={"seed": 0, "validation": 0.5, "test": 0.0},
    )
    store = Store.open(tmp_path)
    table, touched = store.row_table("language"), []
    with source.model.edit("language.3", lambda hidden: touched.append(hidden[:, 0].clone())):
        mean = torch.full((source.width,), 100.0)
        found = token_recovery(source.model, SITE, Exact(), table, store.samples, mean, texts=5, resamples=20)
    assert found["loss_recovered/mean"].value == pytest.approx(1, abs=1e-6)
    assert found["task_loss/mean"].value != pytest.approx(found["task_loss/clean"].value, abs=1e-3)
    # The first position is no row: whatever stands in for the others, its own state stays.
    assert all(torch.equal(touched[0], one) for one in touched[1:])


@pytest.mark.shared_data
def test_a_real_model_keeps_most_of_its_loss_with_rows_of_a_live_dictionary(shared_data, tmp_path):
    from vlsae.dictionaries import TopK
    from vlsae.training import fit

    model, dataset = LM(checkpoint=f"path:{shared_data / 'stories260k'}"), Text()
    rows = ModelRows(model, dataset, "language.3", TOKENS, batch_size=64)
    held_out, samples = (
        np.arange(0, len(dataset), 6),
        np.setdiff1d(np.arange(len(dataset)), np.arange(0, len(dataset), 6)),
    )
    live = LiveReader(rows, samples, rows.counts(samples), batch_size=256, window=2048)
    torch.manual_seed(0)
    dictionary = TopK(rows.width, 256, 16)
    fit(dictionary, live, epochs=4, lr=3e-3)
    extract_rows(
        model,
        Chosen(dataset, held_out),
        tmp_path,
        sites=["language.3"],
        tokens=TOKENS,
        samples=len(held_out),
        split={"seed": 0, "validation": 1.0, "test": 0.0},
    )
    store = Store.open(tmp_path)
    mean = store.read("language.3").mean(dim=0)
    table = store.row_table("language")
    found = token_recovery(model, "language.3", dictionary.eval(), table, store.samples, mean, resamples=20)
    assert found["task_loss/clean"].value < found["task_loss/reconstructed"].value < found["task_loss/mean"].value
    assert 0.7 < found["loss_recovered/mean"].value < 1


def command(runs: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "VLSAE_RUNS": str(runs), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    done = [sys.executable, "-m", "vlsae", *words]
    return subprocess.run(done, env=environment, capture_output=True, text=True, timeout=240)


def settings(folder: Path, texts: Path, *more: str) -> list[str]:
    return [
        "train",
        "model=lm",
        f"model.checkpoint=path:{folder}",
        "dataset=text",
        f"dataset.path={texts}",
        "objective=top_k",
        "objective.n_concepts=64",
        "objective.k=4",
        "train.source=live",
        "train.sites=2",
        "extract.tokens.pooling=tokens",
        "train.live.window=300",
        "train.live.kept=30",
        "train.batch_size=64",
        "train.epochs=6",
        "train.checkpoint_every=5",
        *more,
    ]


@pytest.fixture(scope="module")
def first(folder, texts, tmp_path_factory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLSAE_RUNS", str(runs))
        assert main(settings(folder, texts, "--name", "first")) == 0
    return runs / "train/first/v0001"


@pytest.mark.slow
def test_a_live_training_is_evaluated_as_one_on_a_store_and_probed(first, monkeypatch):
    summary = json.loads((first / "summary.json").read_text())["metrics"]
    wanted = ("explained_variance/language", "l0/language", "loss_recovered/mean", "rows_seen", "dead/language")
    assert all(summary[name]["value"] is not None for name in wanted)
    assert not (first.parents[2] / "extract").exists()
    assert Store.open(first / "representations").n_samples < 120
    concepts = [json.loads(line) for line in (first / "concepts.jsonl").read_text().splitlines()]
    assert any(concept["texts"] for concept in concepts)
    monkeypatch.setenv("VLSAE_RUNS", str(first.parents[2]))
    assert main(["probe", "probe=dictionary", "--run", "train/first/v0001"]) == 0
    (probed,) = (first.parents[2] / "probe").glob("*/v0001/summary.json")
    again = json.loads(probed.read_text())["metrics"]
    for name in ("clean", "reconstructed"):
        assert again[f"task_loss/{name}"]["value"] == pytest.approx(summary[f"task_loss/{name}"]["value"], abs=1e-5)


@pytest.mark.stress
def test_one_and_two_data_workers_make_the_same_bytes(first, folder, texts, tmp_path, monkeypatch):
    monkeypatch.setenv("VLSAE_RUNS", str(tmp_path))
    assert main(settings(folder, texts, "--name", "first", "hardware.workers=2")) == 0
    again = content(tmp_path / "train/first/v0001")
    # The page shows the command.
    assert differing(again, content(first)) == ["config.yaml", "overrides.yaml", "report.html"]


@pytest.mark.stress
def test_a_killed_live_training_goes_on_to_the_same_numbers(first, folder, texts):
    runs = first.parents[2]
    run = runs / "train/killed/v0001"
    environment = {**os.environ, "VLSAE_RUNS": str(runs), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "vlsae", *settings(folder, texts, "--name", "killed")]
    process = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)
    metrics, deadline = run / "metrics.jsonl", time.monotonic() + 120
    while not (metrics.exists() and len(metrics.read_text().splitlines()) > 3):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = command(runs, "runs", "resume", "train/killed/v0001")
    assert done.returncode == 0, done.stderr
    one, other = (json.loads((path / "summary.json").read_text())["metrics"] for path in (run, first))
    assert one == other
    assert (run / "dictionary/model.safetensors").read_bytes() == (first / "dictionary/model.safetensors").read_bytes()


def test_what_cannot_be_live_is_refused_before_a_run_is_claimed(folder, texts, runs_dir, capsys):
    live, shapes = ["train", "train.source=live"], ["dataset=shapes", "dataset.n=20"]
    for words, expected in (
        ([*settings(folder, texts), "--run", "extract/a/v0001"], "reads no run"),
        ([*settings(folder, texts), "hardware=multi_cpu"], "train.source=live reads a model's rows in one process"),
        ([*live, *shapes, "train.sites=3"], "reads one site"),
        ([*live, *shapes, "train.sites=vision.embedding"], "one row a sample"),
        ([*live, *shapes, "objective=align"], "learns from samples"),
        ([*live, *shapes, "objective=prototype", "train.sites=vision.3"], "needs a label"),
    ):
        assert main(words) == 2
        assert expected in capsys.readouterr().err
    assert not runs_dir.exists() or not any(runs_dir.rglob("manifest.json"))


def test_a_plan_says_what_live_rows_cost(folder, texts, runs_dir, capsys):
    assert main([*settings(folder, texts), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "extract/" not in out
    assert "kB" in out or "MB" in out
