"""The index of shards is kept between commands, noticed when it is stale, and never needed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from test_shards import fault, picture, write_shard, write_shards

from vlsae.datasets import Captions, kept_index
from vlsae.datasets.kept_index import cache_folder
from vlsae.errors import UserError


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """Return an empty cache of this test's own."""
    monkeypatch.setenv("VLSAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "shards"


@pytest.fixture
def shards(tmp_path, cache) -> Path:
    return write_shards(tmp_path / "shards", shards=3)


@pytest.fixture
def indexed(monkeypatch) -> list[str]:
    """Return the names of the shards whose headers and texts are read, as they are read."""
    names: list[str] = []
    whole = kept_index.index_shard

    def told(path, columns):
        names.append(path.name)
        return whole(path, columns)

    monkeypatch.setattr(kept_index, "index_shard", told)
    return names


def table(path: Path, **settings) -> dict:
    return Captions(path=str(path), check="none", **settings).table.to_dict()


def test_a_second_opening_reads_no_shard_and_finds_the_same(shards, cache, indexed):
    first = table(shards)
    assert indexed == ["part-000.tar", "part-001.tar", "part-002.tar"]
    assert len(list(cache.iterdir())) == 3
    again = Captions(path=str(shards), check="none")
    assert again.table.to_dict() == first
    assert [image.getpixel((0, 0))[0] for image in again.images([11, 0])] == [11, 0]
    assert len(indexed) == 3
    assert sorted(path.name for path in shards.iterdir()) == ["part-000.tar", "part-001.tar", "part-002.tar"]


def test_a_shard_that_is_added_or_changed_is_indexed_and_no_other(shards, cache, indexed):
    table(shards)
    write_shard(shards / "part-003.tar", {"9.png": picture(), "9.txt": "new"})
    assert table(shards)["texts"][12] == ["new"]
    assert indexed[3:] == ["part-003.tar"]
    write_shard(shards / "part-001.tar", {"7.png": picture(), "7.txt": "other"})
    assert [texts for texts in table(shards)["texts"] if texts == ["other"]]
    assert indexed[4:] == ["part-001.tar"]
    assert len(list(cache.iterdir())) == 4, "the index of a changed shard takes the place of the old one"


@pytest.mark.parametrize("how", ["written in place", "copied over"])
def test_a_change_that_keeps_size_and_time_is_noticed(shards, cache, how, tmp_path):
    shard = shards / "part-001.tar"
    table(shards)
    before = shard.stat()
    other = tmp_path / "other.tar"
    other.write_bytes(shard.read_bytes().replace(b"picture 5\n", b"picture X\n"))
    if how == "written in place":
        shard.write_bytes(other.read_bytes())
    else:
        shutil.move(other, shard)
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (shard.stat().st_size, shard.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert table(shards)["texts"][5] == ["picture X"]


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    return content[:-40] + bytes([content[-40] ^ 1]) + content[-39:]


@pytest.mark.parametrize("damage", [cut, flipped, lambda content: b"", lambda content: b"\0" * len(content)])
def test_a_damaged_index_is_made_anew(shards, cache, indexed, damage, caplog):
    first = table(shards)
    whole = {path: path.read_bytes() for path in cache.iterdir()}
    for path, content in whole.items():
        path.write_bytes(damage(content))
    assert table(shards) == first
    assert len(indexed) == 6
    assert "is made anew" in caplog.text
    assert {path: path.read_bytes() for path in cache.iterdir()} == whole


def test_an_index_of_another_format_is_made_anew(shards, cache, indexed, monkeypatch):
    first = table(shards)
    monkeypatch.setattr(kept_index, "FORMAT", kept_index.FORMAT + 1)
    assert table(shards) == first
    assert len(indexed) == 6


def test_other_columns_are_another_index(shards, cache, indexed):
    table(shards)
    assert "no file .long" in fault(shards, columns={"text": "long"})
    table(shards)
    assert len(indexed) == 6


def test_bad_samples_are_told_of_again_and_a_torn_shard_is_read_again(shards, cache, indexed):
    write_shard(shards / "part-001.tar", {"1.txt": "a", "../2.png": picture(), "3.png": picture(), "3.txt": "fine"})
    torn = shards / "part-002.tar"
    torn.write_bytes(torn.read_bytes()[:3000])
    first, second = (Captions(path=str(shards), on_error="skip", check="none") for _ in range(2))
    assert first.table.to_dict() == second.table.to_dict()
    assert first.skipped == second.skipped
    assert [one.row for one in first.skipped] == [
        "part-001.tar:../2.png",
        "part-001.tar:1",
        "part-002.tar",
        "part-002.tar:00009",
    ]
    assert indexed == ["part-000.tar", "part-001.tar", "part-002.tar", "part-002.tar"]


def test_ids_that_two_shards_share_are_found_among_kept_ones(shards, cache):
    row = {"1.png": picture(), "1.json": '{"uid": "same", "caption": "a"}'}
    for shard in ("part-000.tar", "part-001.tar", "part-002.tar"):
        write_shard(shards / shard, row)
    told = {fault(shards, columns={"id": "uid"}) for _ in range(2)}
    assert len(told) == 1
    assert "duplicate id 'same', first at part-000.tar:1 (1 more row is bad)" in told.pop()


def test_a_shard_that_changes_while_it_is_read_is_an_error_that_says_so(shards):
    dataset = Captions(path=str(shards), check="none")
    assert len(dataset) == 12
    write_shard(shards / "part-000.tar", {"1.png": picture(), "1.txt": "one"})
    with pytest.raises(UserError, match=r"part-000.tar has changed since it was indexed"):
        dataset.images([0])


def test_without_a_folder_to_keep_it_in_the_index_is_made_each_time(shards, cache, indexed, caplog):
    cache.parent.write_text("no folder")
    with caplog.at_level("INFO", logger="vlsae"):
        assert table(shards) == table(shards)
    assert len(indexed) == 6
    assert "is not kept" in caplog.text


def test_the_cache_is_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("VLSAE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("VLSAE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "vlsae"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "vlsae"
