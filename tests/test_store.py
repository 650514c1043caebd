"""The store: what is written is read, kills and later sites change no byte, damage is found and named."""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import stores
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlsae.errors import MissingFile, UserError
from vlsae.representations import SiteInfo, Store, StoreWriter
from vlsae.representations.files import DamagedStore
from vlsae.representations.moments import Moments, Statistics

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
GOLDEN = Path(__file__).parent / "golden" / "store"


@given(n=st.integers(1, 20), shard=st.integers(1, 21), tokens=st.booleans())
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read_for_any_shard_size(tmp_path_factory, n, shard, tokens):
    store = stores.opened(tmp_path_factory.mktemp("store"), n=n, shard_samples=shard, tokens=tokens)
    assert store.samples.equals(stores.samples(0, n))
    for site, info in store.sites.items():
        table = stores.rows(info.stream, 0, n, tokens)
        expected = stores.values(site, table).to(torch.bfloat16).float()
        assert info.rows == table.num_rows
        assert torch.equal(store.read(site), expected)
        some = np.random.default_rng(0).integers(0, info.rows, 7)
        assert torch.equal(store.read(site, some), expected[some])
        found = store.row_table(info.stream)
        assert all(found[name].to_pylist() == table[name].to_pylist() for name in table.column_names)
        assert store.offsets(info.stream).tolist() == [table.num_rows * i // n for i in range(n + 1)]
        statistics = store.statistics(site)
        assert statistics.mean == pytest.approx(expected.double().mean(0).numpy(), abs=1e-12)
        assert statistics.variance == pytest.approx(expected.double().var(0, correction=0).numpy(), abs=1e-12)
        norms = expected.double().norm(dim=1).numpy()
        assert statistics.norm_mean == pytest.approx(norms.mean())
        assert statistics.norm_variance == pytest.approx(norms.var(), abs=1e-12)
        assert (statistics.norm_min, statistics.norm_max) == pytest.approx((norms.min(), norms.max()))
    store.verify()
    pairs = [] if tokens else [(i, 2 * i + k) for i in range(n) for k in range(2)]
    assert [tuple(pair) for pair in store.pairs.tolist()] == pairs


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Return a function that opens a store of given settings, written once."""

    @functools.cache
    def store(**settings) -> Store:
        return stores.opened(tmp_path_factory.mktemp("store"), **settings)

    return store


@given(n=st.integers(1, 23), shard=st.sampled_from([3, 8, 23]), tokens=st.booleans())
@settings(max_examples=15, deadline=None)
def test_a_limit_is_the_store_of_the_first_samples(stored, n, shard, tokens):
    cut = stored(n=23, shard_samples=shard, tokens=tokens).limit(n)
    small = stored(n=n, shard_samples=shard, tokens=tokens)
    assert cut.n_samples == n
    assert cut.sites == small.sites
    assert cut.samples.equals(small.samples)
    assert np.array_equal(cut.pairs, small.pairs)
    for site, info in small.sites.items():
        assert torch.equal(cut.read(site), small.read(site))
        assert cut.row_table(info.stream).to_pylist() == small.row_table(info.stream).to_pylist()
        assert np.array_equal(cut.offsets(info.stream), small.offsets(info.stream))
        assert np.array_equal(cut.split_rows(info.stream, "train"), small.split_rows(info.stream, "train"))
        assert cut.statistics(site).as_json() == small.statistics(site).as_json()


def test_a_limit_beyond_the_store_is_the_store(tmp_path):
    store = stores.opened(tmp_path)
    assert store.limit(1000) is store
    assert store.limit(10).limit(3).samples["sample_id"].to_pylist() == ["s0000", "s0001", "s0002"]
    with pytest.raises(UserError, match=r"limit must be at least 1; got 0.\nThe store has 23 samples"):
        store.limit(0)


def test_sites_that_come_later_leave_the_others_as_they_are(tmp_path):
    stores.write(tmp_path / "once")
    stores.write(tmp_path / "twice", sites=["vision.embedding"])
    before = stores.files(tmp_path / "twice")
    assert not Store.open(tmp_path / "twice").pairs.size
    stores.write(tmp_path / "twice", sites=["language.embedding"])
    stores.write(tmp_path / "twice", sites=["vision.1", "vision.embedding"])
    after = stores.files(tmp_path / "twice")
    assert all(after[path] == data for path, data in before.items() if path != "index.json")
    assert after == stores.files(tmp_path / "once")


def test_an_interrupted_addition_leaves_the_store_readable(tmp_path):
    stores.write(tmp_path, sites=["vision.embedding"])
    infos = {"language.embedding": SiteInfo(4, module="tower.language.embedding")}
    writer = StoreWriter(tmp_path, sites=infos, shard_samples=5, attributes={"model": "m"})
    assert writer.next_shard == 0
    stores.write_shard(writer, 0, 23)
    assert list(Store.open(tmp_path).sites) == ["vision.embedding"]
    Store.open(tmp_path).verify()
    again = StoreWriter(tmp_path, sites=infos, shard_samples=5, attributes={"model": "m"})
    assert again.next_shard == 1
    with pytest.raises(UserError, match=r"not complete: shard 1 is missing"):
        again.finish()


def test_finishing_twice_changes_nothing(tmp_path):
    stores.write(tmp_path)
    before = stores.files(tmp_path)
    assert stores.write(tmp_path).next_shard == 5
    assert stores.files(tmp_path) == before


@pytest.mark.parametrize("seed", [0, 1])
def test_a_killed_writer_goes_on_to_the_same_bytes(tmp_path, stored, seed):
    process = subprocess.Popen(
        [sys.executable, stores.__file__, str(tmp_path / "killed")], stdout=subprocess.PIPE, env=ENVIRONMENT
    )
    assert process.stdout.readline() == b"ready\n"
    # At a random shard, then at a random moment within it or the next.
    draw = random.Random(seed)
    target = tmp_path / "killed" / "progress" / f"{draw.randrange(2, 15):05d}.json"
    deadline = time.monotonic() + 60
    while not target.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.0005)
    time.sleep(draw.uniform(0, 0.02))
    process.kill()
    assert process.wait() == -9, "the writer was done before it could be killed"
    process.stdout.close()
    with pytest.raises(MissingFile, match=r"is not finished.\nResume its extraction"):
        Store.open(tmp_path / "killed")
    writer = stores.write(tmp_path / "killed", n=100, shard_samples=5, finish=False)
    assert writer.next_shard == 20
    writer.finish()
    assert stores.files(tmp_path / "killed") == stores.files(stored(n=100, shard_samples=5).path)


def test_a_writer_goes_on_after_the_last_whole_shard(tmp_path):
    writer = stores.write(tmp_path / "a", n=15, finish=False)
    assert writer.next_shard == 3
    kept = (tmp_path / "a/vision.1/00000.safetensors").stat().st_mtime_ns
    # What a kill in the middle of a shard leaves: its files, a temporary one, and no record.
    (tmp_path / "a/progress/00002.json").unlink()
    (tmp_path / "a/vision.1/.00002.safetensors.tmp").write_bytes(b"half")
    (tmp_path / "a/progress/.00002.json.x1").write_bytes(b"{")
    assert stores.write(tmp_path / "a", n=15, finish=False).next_shard == 3
    stores.write(tmp_path / "a", n=23)
    assert (tmp_path / "a/vision.1/00000.safetensors").stat().st_mtime_ns == kept
    stores.write(tmp_path / "b", n=23)
    assert stores.files(tmp_path / "a") == stores.files(tmp_path / "b")


def test_a_shard_whose_file_was_lost_is_written_again(tmp_path):
    stores.write(tmp_path, finish=False)
    (tmp_path / "vision.1/00003.safetensors").unlink()
    writer = stores.write(tmp_path, n=0, finish=False)
    assert writer.next_shard == 3
    stores.write(tmp_path)
    Store.open(tmp_path).verify()


def test_a_store_begun_with_other_settings_is_refused(tmp_path):
    stores.write(tmp_path, finish=False)
    info = SiteInfo(3, module="tower.vision.1")
    common = {"sites": {"vision.1": info}, "shard_samples": 5, "attributes": {"model": "m"}}
    for change, message in [
        ({"shard_samples": 6}, r"begun with shard_samples 5; this writer has 6"),
        ({"attributes": {"model": "n"}}, r"begun with attribute model m; this writer has n"),
        ({"dtype": "float32"}, r"begun with site vision.1 \{.*bfloat16"),
        ({"sites": {"vision.1": SiteInfo(4)}}, r"begun with site vision.1"),
    ]:
        with pytest.raises(UserError, match=message):
            StoreWriter(tmp_path, **{**common, **change})
    stores.write(tmp_path)
    with pytest.raises(UserError, match=r"begun with attribute model m; this writer has n"):
        StoreWriter(tmp_path, **{**common, "attributes": {"model": "n"}})


def test_a_site_for_other_samples_is_refused_naming_the_first(tmp_path):
    stores.write(tmp_path, sites=["vision.1"])
    writer = stores.write(tmp_path, n=0, sites=["vision.embedding"], finish=False)
    table = stores.samples(0, 5)
    ids = table["sample_id"].to_pylist()
    swapped = table.set_column(0, "sample_id", pa.array([*ids[:3], ids[4], ids[3]]))
    rows = stores.rows("vision", 0, 5)
    given = {"rows": {"vision": rows}, "values": {"vision.embedding": stores.values("vision.embedding", rows)}}
    with pytest.raises(UserError, match=r"samples of shard 0 .* at 3, 's0003' is there and 's0004' came"):
        writer.write_shard(0, samples=swapped, **given)
    given["rows"] = {"vision": rows.set_column(1, "item", pa.array([0, 0, 1, 0, 0]))}
    with pytest.raises(UserError, match=r"vision rows of shard 0 .* at 2, .*'item': 0.* is there"):
        writer.write_shard(0, samples=table, **given)
    with pytest.raises(UserError, match=r"has 5 shards; shard 5 would be more"):
        writer.write_shard(5, samples=table, **given)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3.4e38])
def test_values_that_are_not_finite_name_the_sample(tmp_path, value):
    writer = stores.write(tmp_path, n=0, sites=["language.embedding"], finish=False)
    rows = stores.rows("language", 5, 10)
    values = stores.values("language.embedding", rows)
    values[3, 2] = value
    word = r"sample 's0006' does not fit bfloat16" if value == 3.4e38 else r"at dimension 2 of sample 's0006'"
    with pytest.raises(UserError, match=rf"language.embedding: .*{word}"):
        writer.write_shard(
            1, samples=stores.samples(5, 10), rows={"language": rows}, values={"language.embedding": values}
        )
    assert not (tmp_path / "language.embedding").exists()


def test_a_token_that_is_not_finite_names_its_position(tmp_path):
    writer = stores.write(tmp_path, n=0, sites=["vision.1"], finish=False)
    rows = stores.rows("vision", 0, 5, tokens=True)
    values = stores.values("vision.1", rows)
    values[7:] = float("nan")
    with pytest.raises(UserError, match=r"of sample 's0002' at position 1 \(and 7 more rows\)"):
        writer.write_shard(0, samples=stores.samples(0, 5), rows={"vision": rows}, values={"vision.1": values})


@pytest.mark.parametrize(("scale", "fits"), [(1.0, True), (1e4, False), (1e-6, False)])
def test_float16_only_where_values_fit(tmp_path, scale, fits):
    writer = stores.write(tmp_path, n=0, sites=["vision.1"], dtype="float16", finish=False)
    rows = stores.rows("vision", 0, 5)
    values = (stores.values("vision.1", rows) + 5) * scale
    given = {"samples": stores.samples(0, 5), "rows": {"vision": rows}, "values": {"vision.1": values}}
    if fits:
        writer.write_shard(0, **given)
        writer.finish()
        store = Store.open(tmp_path)
        assert store.sites["vision.1"].dtype == "float16"
        assert torch.equal(store.read("vision.1"), values.half().float())
    else:
        with pytest.raises(UserError, match=r"sample 's000\d' does not fit float16(.|\n)*extract.dtype=bfloat16"):
            writer.write_shard(0, **given)


def test_float32_is_exact(tmp_path):
    store = stores.opened(tmp_path, dtype="float32")
    assert torch.equal(store.read("vision.1"), stores.values("vision.1", stores.rows("vision", 0, 23)))


def test_chunks_that_do_not_fit_together_are_refused(tmp_path):
    writer = stores.write(tmp_path, n=0, sites=["vision.1"], finish=False)
    rows, samples = stores.rows("vision", 0, 5), stores.samples(0, 5)
    good = {"samples": samples, "rows": {"vision": rows}, "values": {"vision.1": stores.values("vision.1", rows)}}
    for change, message in [
        ({"values": {"vision.1": torch.zeros(4, 3)}}, r"expected floating-point values \(5, 3\); got .*\(4, 3\)"),
        ({"values": {"vision.1": torch.zeros(5, 3, dtype=torch.int64)}}, r"got torch.int64"),
        ({"values": {}}, r"the sites \[\]; expected \['vision.1'\]"),
        ({"rows": {}}, r"the streams \[\]; expected \['vision'\]"),
        (
            {"rows": {"vision": stores.rows("vision", 5, 10)}},
            r"Row 0 of vision belongs to sample 5.\nExpected samples 0…4",
        ),
        ({"rows": {"vision": rows.take([1, 0, 2, 3, 4])}}, r"Row 1 of vision belongs to sample 0"),
        ({"rows": {"vision": rows.drop_columns(["split"])}}, r"row table of vision has columns sample, item, position"),
        ({"samples": samples.drop_columns(["sample_id"])}, r"expected sample_id among them"),
        ({"samples": samples.take([0, 1, 2, 1, 4])}, r"Sample id 's0001' appears twice"),
        ({"samples": stores.samples(0, 6)}, r"Shard 0 has 6 samples; expected 1…5"),
    ]:
        with pytest.raises(UserError, match=message):
            writer.write_shard(0, **{**good, **change})
    writer.write_shard(0, **good)
    more = stores.rows("vision", 5, 7)
    later = {"rows": {"vision": more}, "values": {"vision.1": stores.values("vision.1", more)}}
    with pytest.raises(UserError, match=r"columns of samples in shard 1 differ from those of shard 0"):
        writer.write_shard(1, samples=stores.samples(5, 7).drop_columns(["texts"]), **later)


def test_a_short_shard_in_the_middle_is_refused(tmp_path):
    writer = stores.write(tmp_path, n=3, sites=["vision.1"], finish=False)
    stores.write_shard(writer, 1, 10)
    with pytest.raises(UserError, match=r"Shard 0 has 3 samples.\nOnly the last may have fewer than 5"):
        writer.finish()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sites": {"vision": SiteInfo(3)}}, r"'vision' is not the name of a site"),
        ({"sites": {"../vision.1": SiteInfo(3)}}, r"is not the name of a site"),
        ({"sites": {}}, r"A store needs a site"),
        ({"shard_samples": 0}, r"shard_samples must be at least 1; got 0"),
        ({"dtype": "float8"}, r"no dtype 'float8'"),
    ],
)
def test_writers_refuse_settings_out_of_range(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        StoreWriter(tmp_path, **{"sites": {"vision.1": SiteInfo(3)}, "shard_samples": 5, **settings})


KINDS = [
    "index.json",
    "samples.arrow",
    "pairs.arrow",
    "rows/vision/00001.arrow",
    "language.embedding/00004.safetensors",
]


@pytest.mark.parametrize("name", KINDS)
def test_a_flipped_byte_is_found_and_named(tmp_path, name):
    store = stores.opened(tmp_path)
    good = (tmp_path / name).read_bytes()
    draw = random.Random(name)
    for place in [0, len(good) - 1, *(draw.randrange(len(good)) for _ in range(12))]:
        data = bytearray(good)
        data[place] ^= 1 << draw.randrange(8)
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DamagedStore) as error:
            store.verify()
        assert str(tmp_path / name) in str(error.value), place
        assert "expected" in str(error.value)
        assert "found" in str(error.value)
        if name != "index.json":
            assert store.index.files[name]["sha256"] in str(error.value)
    (tmp_path / name).write_bytes(good)
    store.verify()


def test_every_damaged_file_is_named(tmp_path):
    store = stores.opened(tmp_path)
    for name in KINDS[1:3]:
        data = bytearray((tmp_path / name).read_bytes())
        data[100] ^= 1
        (tmp_path / name).write_bytes(data)
    with pytest.raises(DamagedStore) as error:
        store.verify()
    assert all(name in str(error.value) for name in KINDS[1:3])


def test_structure_is_checked_at_opening(tmp_path):
    stores.write(tmp_path)
    path = tmp_path / "vision.1/00002.safetensors"
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    with pytest.raises(
        DamagedStore, match=rf"00002.safetensors: expected {len(good)} bytes, found {len(good) - 1} bytes"
    ):
        Store.open(tmp_path)
    path.unlink()
    with pytest.raises(DamagedStore, match=r"00002.safetensors: expected \d+ bytes, found no file"):
        Store.open(tmp_path)
    # A file of the right size under another file's name.
    shutil.copy(tmp_path / "vision.1/00001.safetensors", path)
    with pytest.raises(DamagedStore, match=r"expected vision.1 shard 2: .*, found vision.1 shard 1"):
        Store.open(tmp_path).read("vision.1")


@pytest.mark.parametrize("garbage", [b"", b"\xff" * 40, (5).to_bytes(8, "little") + b"[1,2]", b"\x10" + bytes(7)])
def test_a_damaged_header_is_named(tmp_path, garbage):
    store = stores.opened(tmp_path)
    path = tmp_path / "vision.1/00001.safetensors"
    path.write_bytes(garbage)
    with pytest.raises(DamagedStore, match=r"00001.safetensors has no sound safetensors header"):
        store.read("vision.1")


def test_an_index_cannot_reach_out_of_its_store(tmp_path):
    from vlsae.representations.index import Index

    stores.write(tmp_path)
    index = Index.read(tmp_path)
    index.files["../elsewhere"] = index.files["samples.arrow"]
    index.write(tmp_path)
    with pytest.raises(DamagedStore, match=r"lists '../elsewhere'"):
        Store.open(tmp_path)


def test_an_index_of_a_newer_format_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("vlsae.representations.index.SCHEMA", 99)
    stores.write(tmp_path)
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"has format 99; this version of vlsae reads format 1"):
        Store.open(tmp_path)


def test_the_index_is_plain_json(tmp_path):
    stores.write(tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    assert index["schema"] == 1
    assert index["samples"] == 23
    assert index["attributes"] == {"model": "m"}
    assert list(index["sites"]) == ["vision.1", "vision.embedding", "language.embedding"]
    site = index["sites"]["language.embedding"]
    assert (site["width"], site["rows"], site["dtype"], site["pooling"]) == (4, 46, "bfloat16", "default")
    assert site["module"] == "tower.language.embedding"


def test_what_is_not_there_is_named_beside_what_is(tmp_path):
    store = stores.opened(tmp_path)
    with pytest.raises(UserError, match=r"holds no site 'vision.2'.\nIt holds vision.1 \(23 rows, 3 wide\)"):
        store.read("vision.2")
    with pytest.raises(UserError, match=r"has no language row 46.\nIt has 46: 0…45"):
        store.read("language.embedding", [3, 46])
    with pytest.raises(UserError, match=r"has no vision row -1"):
        store.read("vision.1", [-1])
    with pytest.raises(UserError, match=r"rows must be whole numbers"):
        store.read("vision.1", [True, False])
    with pytest.raises(UserError, match=r"no 'audio' rows.\nIt has vision and language"):
        store.row_table("audio")
    with pytest.raises(UserError, match=r"no split 'trian'.\nDid you mean train"):
        store.split_rows("vision", "trian")
    assert store.split_rows("vision", "test").tolist() == []
    assert store.split_rows("vision", "validation").tolist() == [0, 5, 10, 15, 20]
    with pytest.raises(MissingFile, match=r"no store at .*nowhere"):
        Store.open(tmp_path / "nowhere")


def test_rows_of_one_sample_are_pairs_and_others_are_refused(tmp_path):
    store = stores.opened(tmp_path)
    store.check_pairs(store.pairs[:, 0], store.pairs[:, 1])
    with pytest.raises(UserError, match=r"at row 2, vision row 3 \(s0003\) stands beside language row 4 \(s0002\)"):
        store.check_pairs([0, 1, 3], [1, 2, 4])
    with pytest.raises(UserError, match=r"2 vision rows and 1 language rows"):
        store.check_pairs([0, 1], [1])
    tokens = stores.opened(tmp_path / "tokens", tokens=True)
    with pytest.raises(UserError, match=r"at row 0, vision row 0 \(s0000, position 0\) stands beside"):
        tokens.check_pairs([0], [0])


def test_samples_without_captions_have_no_pairs(tmp_path):
    writer = stores.write(tmp_path, n=0, finish=False, sites=["vision.1", "language.embedding"])
    tables = {"vision": stores.rows("vision", 0, 5), "language": stores.rows("language", 0, 5).slice(2, 3)}
    values = {site: stores.values(site, tables[site.split(".")[0]]) for site in writer.sites}
    writer.write_shard(0, samples=stores.samples(0, 5), rows=tables, values=values)
    writer.finish()
    assert Store.open(tmp_path).pairs.tolist() == [[1, 0], [1, 1], [2, 2]]


def test_moments_merge_to_those_of_all_rows():
    x = torch.randn(10_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 5 + 100
    whole = Statistics.of([Moments.of(x)])
    parts = Statistics.of([Moments.none(3), *(Moments.of(part) for part in x.split(777)), Moments.none(3)])
    assert parts.count == whole.count == 10_000
    for statistics in (whole, parts):
        assert statistics.mean == pytest.approx(x.mean(0).numpy(), rel=1e-14)
        assert statistics.variance == pytest.approx(x.var(0, correction=0).numpy(), rel=1e-12)
        assert statistics.norm_variance == pytest.approx(x.norm(dim=1).var(correction=0).item(), rel=1e-10)


def test_files_may_be_read_by_who_may_read_the_folder(tmp_path):
    stores.write(tmp_path)
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == {tmp_path.joinpath("vision.1").stat().st_mode & 0o666}  # as the umask has it


def test_a_store_of_format_1_still_loads():
    store = Store.open(GOLDEN / "v1")
    store.verify()
    assert store.samples["sample_id"].to_pylist() == [f"s{i:04d}" for i in range(7)]
    assert len(store.pairs) == 14
    rows = stores.rows("language", 0, 7)
    assert torch.equal(store.read("language.embedding"), stores.values("language.embedding", rows).bfloat16().float())


def test_nothing_heavy_is_imported():
    code = (
        "import sys, vlsae.representations\n"
        "heavy = ('open_clip', 'transformers', 'hydra', 'typer', 'datasets', 'torchvision')\n"
        "assert 'torch' not in sys.modules\n"
        "from vlsae.representations import Reader, Store, StoreWriter, pool\n"
        "assert not [name for name in heavy if name in sys.modules]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
