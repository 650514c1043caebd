"""The reader: every row once an epoch, any step by arithmetic, bounded memory, honest pairs."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import stores
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlsae.errors import UserError
from vlsae.representations import Reader, Store

BOTH = {"vision": "vision.embedding", "language": "language.embedding"}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return stores.opened(tmp_path_factory.mktemp("reader") / "pooled", n=31, shard_samples=4)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Store:
    return stores.opened(tmp_path_factory.mktemp("reader") / "tokens", n=31, shard_samples=4, tokens=True)


def epoch(reader: Reader, number: int = 0) -> dict[str, np.ndarray]:
    """The rows of a whole epoch by stream."""
    steps = range(number * reader.steps_per_epoch, (number + 1) * reader.steps_per_epoch)
    batches = [reader.rows(step) for step in steps]
    return {stream: np.concatenate([batch[stream] for batch in batches]) for stream in reader.sites}


@given(
    batch=st.integers(1, 70),
    window=st.integers(1, 9),
    seed=st.integers(0, 3),
    number=st.integers(0, 2),
    split=st.sampled_from([None, "train", "validation"]),
    shuffle=st.booleans(),
    limit=st.integers(6, 40),
)
@settings(max_examples=60, deadline=None)
def test_every_pair_is_read_once_an_epoch(store, batch, window, seed, number, split, shuffle, limit):
    store = store.limit(limit)
    reader = Reader(store, BOTH, batch_size=batch, split=split, seed=seed, shuffle=shuffle, window_shards=window)
    read = epoch(reader, number)
    pairs = np.stack([read["vision"], read["language"]], axis=1)
    kept = store.pairs if split is None else store.pairs[np.isin(store.pairs[:, 0], store.split_rows("vision", split))]
    assert reader.n_rows == len(kept)
    assert reader.steps_per_epoch == -(-len(kept) // batch)
    assert sorted(map(tuple, pairs.tolist())) == sorted(map(tuple, kept.tolist()))
    if not shuffle:
        assert np.array_equal(pairs, kept)


@given(batch=st.integers(2, 20), window=st.integers(1, 9), number=st.integers(0, 2), shuffle=st.booleans())
@settings(max_examples=40, deadline=None)
def test_every_row_is_read_once_an_epoch_where_streams_go_their_own_ways(store, batch, window, number, shuffle):
    reader = Reader(store, BOTH, batch_size=batch, window_shards=window, shuffle=shuffle, paired=False)
    read = epoch(reader, number)
    assert sorted(read["vision"].tolist()) == list(range(31))
    assert sorted(read["language"].tolist()) == list(range(62))
    assert all(len(reader.rows(step)["vision"]) for step in range(reader.steps_per_epoch))


@given(batch=st.integers(1, 50), seed=st.integers(0, 3), step=st.integers(0, 200))
@settings(max_examples=40, deadline=None)
def test_a_step_needs_no_earlier_one(store, batch, seed, step):
    common = {"batch_size": batch, "seed": seed, "window_shards": 3, "split": "train"}
    walked, jumped = Reader(store, BOTH, **common), Reader(store, BOTH, **common)
    for earlier in range(max(0, step - 3), step):
        walked.batch(earlier)
    one, other = walked.batch(step), jumped.batch(step)
    assert all(torch.equal(one[stream], other[stream]) for stream in BOTH)


def test_batches_hold_the_rows_they_say(store):
    reader = Reader(store, BOTH, batch_size=7, window_shards=2)
    for step in range(2 * reader.steps_per_epoch):
        batch, rows = reader.batch(step), reader.rows(step)
        for stream, site in BOTH.items():
            assert batch[stream].dtype == torch.float32
            assert torch.equal(batch[stream], store.read(site, rows[stream]))
        # The first value of the test's rows tells their sample.
        assert torch.equal(batch["vision"][:, 0].round(), batch["language"][:, 0].round())


def test_epochs_and_seeds_come_in_other_orders(store):
    reader = Reader(store, BOTH, batch_size=8, seed=1)
    assert not np.array_equal(epoch(reader, 0)["language"], epoch(reader, 1)["language"])
    other = Reader(store, BOTH, batch_size=8, seed=2)
    assert not np.array_equal(epoch(reader, 0)["language"], epoch(other, 0)["language"])
    # The batch size cuts the order and does not change it.
    assert np.array_equal(epoch(reader)["language"], epoch(Reader(store, BOTH, batch_size=5, seed=1))["language"])


def test_streams_that_go_their_own_ways_are_not_paired_by_chance(tmp_path):
    folder = tmp_path / "store"
    writer = stores.write(folder, n=0, sites=["vision.embedding", "language.embedding"], finish=False)
    rows = stores.rows("vision", 0, 5)
    given = {site: stores.values(site, rows) for site in writer.sites}
    writer.write_shard(0, samples=stores.samples(0, 5), rows={"vision": rows, "language": rows}, values=given)
    writer.finish()
    reader = Reader(Store.open(folder), BOTH, batch_size=5, paired=False)
    batches = [reader.rows(step) for step in range(5)]
    assert any(not np.array_equal(batch["vision"], batch["language"]) for batch in batches)


def test_one_stream_and_no_rows(store):
    reader = Reader(store, {"vision": "vision.1"}, batch_size=4, split="train")
    assert list(reader.batch(0)) == ["vision"]
    assert reader.batch(0)["vision"].shape == (4, 3)
    empty = Reader(store, BOTH, batch_size=4, split="test")
    assert (empty.n_rows, empty.steps_per_epoch) == (0, 0)


def test_rows_are_described_by_sample(store, tokens):
    reader = Reader(store, BOTH, batch_size=6)
    mask = np.array([False, True, False, False, True, False])
    ids = [f"s{row:04d}" for row in reader.rows(3)["vision"][mask]]
    assert reader.describe(3, mask) == reader.describe(3, torch.from_numpy(mask)) == ids
    alone = Reader(tokens, {"language": "language.embedding"}, batch_size=2, shuffle=False)
    assert alone.describe(2, np.array([True, True])) == ["s0000, position 1", "s0000, position 2"]
    with pytest.raises(UserError, match="mask has 5 rows"):
        reader.describe(0, np.ones(5))


def test_evaluation_rows_are_drawn_once_and_for_all(store):
    one = Reader(store, BOTH, batch_size=6, split="train", seed=3).evaluation(10)
    other = Reader(store, BOTH, batch_size=9, split="train", seed=3, shuffle=False, window_shards=1).evaluation(10)
    assert all(torch.equal(one[stream], other[stream]) for stream in BOTH)
    assert one["vision"].shape == (10, 4)
    assert torch.equal(one["vision"][:, 0].round(), one["language"][:, 0].round())
    assert not torch.equal(
        one["language"], Reader(store, BOTH, batch_size=6, split="train", seed=4).evaluation(10)["language"]
    )
    whole = Reader(store, BOTH, batch_size=6, split="train").evaluation(10_000)
    pairs = store.pairs[np.isin(store.pairs[:, 0], store.split_rows("vision", "train"))]
    assert torch.equal(whole["language"], store.read("language.embedding", pairs[:, 1]))


def test_rows_seen_through_an_encoder(store):
    reader = Reader(store, BOTH, batch_size=6)
    weight = torch.randn(4, 2, requires_grad=True)
    mapped = reader.mapped(lambda x, stream: x @ weight).mapped(lambda x, stream: x + (stream == "vision"))
    for step in (0, 5):
        plain, seen = reader.batch(step), mapped.batch(step)
        assert torch.equal(seen["vision"], (plain["vision"] @ weight + 1).detach())
        assert torch.equal(seen["language"], (plain["language"] @ weight).detach())
        assert not seen["vision"].requires_grad
    assert mapped.evaluation(5)["vision"].shape == (5, 2)
    assert mapped.steps_per_epoch == reader.steps_per_epoch
    assert reader.batch(0)["vision"].shape == (6, 4)


def test_pairs_of_token_rows_are_refused_naming_the_first(tokens):
    with pytest.raises(UserError, match=r"no pairs: vision row 0 \(s0000, position 0\) is a token(.|\n)*unpaired=true"):
        Reader(tokens, BOTH, batch_size=4)
    reader = Reader(tokens, BOTH, batch_size=16, paired=False)
    assert sorted(epoch(reader)["language"].tolist()) == list(range(31 * 6))


@pytest.mark.parametrize(
    ("sites", "settings", "message"),
    [
        ({"vision": "vision.9"}, {}, r"holds no site 'vision.9'.\nIt holds vision.1 \(31 rows, 3 wide\)"),
        ({"language": "vision.1"}, {}, r"vision.1 is a site of vision, not of language"),
        ({}, {}, r"A reader needs a site"),
        (BOTH, {"batch_size": 0}, r"batch_size must be at least 1; got 0"),
        (BOTH, {"window_shards": 0}, r"window must be at least 1; got 0"),
        (BOTH, {"split": "dev"}, r"no split 'dev'"),
        (BOTH, {"paired": False, "batch_size": 1}, r"vision has 31 rows, for 62 steps an epoch.\nRaise batch_size"),
    ],
)
def test_what_cannot_be_read_is_refused(store, sites, settings, message):
    with pytest.raises(UserError, match=message):
        Reader(store, sites, **{"batch_size": 4, **settings})


def test_no_more_than_two_windows_are_mapped(store, monkeypatch):
    opened: list[tuple[str, int]] = []
    values = Store.values
    monkeypatch.setattr(Store, "values", lambda self, *a, **k: opened.append(a) or values(self, *a, **k))
    reader = Reader(store, BOTH, batch_size=3, window_shards=2)
    for step in range(reader.steps_per_epoch):
        reader.batch(step)
        assert len({shard for _, shard in reader._mapped}) <= 4
    # Each shard of each site is mapped once an epoch.
    assert len(opened) == len(set(opened)) == 2 * len(store.shards)


MEMORY = """
import sys, torch
torch.set_num_threads(1)
from vlsae.representations import Reader, Store

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4 // 1024

for window in (1, 1, 12):
    reader = Reader(Store.open(sys.argv[1]), {"vision": "vision.1"}, batch_size=128, window_shards=window)
    reader.rows(0)
    before, most = resident(), 0
    for step in range(reader.steps_per_epoch):
        reader.batch(step)
        most = max(most, resident() - before)
    print(most)
    del reader
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process as Linux tells it")
def test_memory_is_bounded_by_the_window(tmp_path):
    import pyarrow as pa

    from vlsae.representations import SiteInfo, StoreWriter

    shard, width, shards = 512, 4096, 12
    writer = StoreWriter(tmp_path, sites={"vision.1": SiteInfo(width)}, shard_samples=shard)
    values = torch.randn(shard, width)
    for number in range(shards):
        owner = np.arange(number * shard, (number + 1) * shard)
        rows = pa.table({"sample": owner, "item": 0 * owner, "position": 0 * owner - 1, "split": ["train"] * shard})
        samples = pa.table({"sample_id": [str(i) for i in owner]})
        writer.write_shard(number, samples=samples, rows={"vision": rows}, values={"vision.1": values})
    writer.finish()
    process = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], check=True, capture_output=True, text=True)
    # The first round also loads code.
    _, narrow, whole = (int(line) for line in process.stdout.split())
    # Forty-eight megabytes are stored, four a shard. A window of all shards shows that the measure sees them.
    assert narrow < 24
    assert whole > 40
