"""Fingerprints and content digests."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import vlsae.runs.fingerprints as module
from vlsae.errors import MissingFile
from vlsae.runs import content_digest, fingerprint

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(SCALARS, lambda v: st.lists(v) | st.dictionaries(st.text(), v), max_leaves=6)
IDENTITIES = st.dictionaries(st.text(), VALUES, max_size=5)


def shuffled(value):
    """Return a value with the keys of every mapping the other way round."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(value)}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


@given(IDENTITIES)
def test_the_order_of_keys_does_not_matter(identity):
    assert fingerprint("a", 1, identity, [], {}) == fingerprint("a", 1, shuffled(identity), [], {})


@given(IDENTITIES.filter(bool), VALUES, st.data())
def test_any_other_field_gives_another(identity, value, data):
    key = data.draw(st.sampled_from(sorted(identity)))
    # 1, 1.0, "1" and true are different settings though Python compares some as equal.
    assume(json.dumps(value, sort_keys=True) != json.dumps(identity[key], sort_keys=True))
    base = fingerprint("a", 1, identity, [], {})
    assert base != fingerprint("a", 1, {**identity, key: value}, [], {})
    assert base != fingerprint("a", 1, {name: item for name, item in identity.items() if name != key}, [], {})


def test_every_part_counts():
    parts = [
        fingerprint("a", 1, {"k": 1}, ["p"], {"weights": "w"}),
        fingerprint("b", 1, {"k": 1}, ["p"], {"weights": "w"}),
        fingerprint("a", 2, {"k": 1}, ["p"], {"weights": "w"}),
        fingerprint("a", 1, {"k": "1"}, ["p"], {"weights": "w"}),
        fingerprint("a", 1, {"k": True}, ["p"], {"weights": "w"}),
        fingerprint("a", 1, {"k": 1}, ["q"], {"weights": "w"}),
        fingerprint("a", 1, {"k": 1}, ["p"], {"weights": "v"}),
        fingerprint("a", 1, {"k": 1}, ["p"], {"data": "w"}),
    ]
    assert len(set(parts)) == len(parts)
    assert all(len(part) == 64 for part in parts)


@pytest.mark.parametrize("identity", [{"k": float("nan")}, {"k": object()}, {1: "k"}, {"k": {1, 2}}])
def test_what_json_cannot_hold_is_refused(identity):
    with pytest.raises((TypeError, ValueError)):
        fingerprint("a", 1, identity, [], {})


class TestContentDigest:
    def test_of_a_file_is_its_bytes(self, tmp_path):
        (tmp_path / "a").write_bytes(b"abc")
        (tmp_path / "b").write_bytes(b"abc")
        os.utime(tmp_path / "b", (1, 1))
        assert content_digest(tmp_path / "a") == content_digest(tmp_path / "b")
        (tmp_path / "b").write_bytes(b"abd")
        assert content_digest(tmp_path / "a") != content_digest(tmp_path / "b")

    def test_of_a_folder_sees_names_and_bytes(self, tmp_path):
        folder = tmp_path / "folder"
        (folder / "sub").mkdir(parents=True)
        (folder / "sub/x").write_text("1")
        seen = [content_digest(folder)]
        (folder / "sub/x").write_text("2")
        seen.append(content_digest(folder))
        (folder / "sub/x").rename(folder / "sub/y")
        seen.append(content_digest(folder))
        (folder / "z").write_text("")
        seen.append(content_digest(folder))
        assert len(set(seen)) == 4

    def test_follows_links_and_ends_in_a_circle(self, tmp_path):
        folder, blobs = tmp_path / "folder", tmp_path / "blobs"
        folder.mkdir(), blobs.mkdir()
        (blobs / "x").write_text("1")
        (folder / "linked").symlink_to(blobs / "x")
        (folder / "circle").symlink_to(folder)
        before = content_digest(folder)
        (blobs / "x").write_text("2")
        assert content_digest(folder) != before

    def test_of_a_large_file_is_sampled_unless_verified(self, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "LARGE", 1 << 20)
        monkeypatch.setattr(module, "SAMPLE", 1 << 8)
        file = tmp_path / "large"
        file.write_bytes(os.urandom(2 << 20))
        os.utime(file, (5, 5))
        quick, whole = content_digest(file), content_digest(file, verify=True)
        between = (2 << 20) // module.SAMPLES // 2
        with file.open("r+b") as stream:
            stream.seek(between)
            byte = stream.read(1)
            stream.seek(between)
            stream.write(bytes([byte[0] ^ 1]))
        os.utime(file, (5, 5))
        assert content_digest(file) == quick
        assert content_digest(file, verify=True) != whole
        os.utime(file, (6, 6))
        assert content_digest(file) != quick
        with file.open("r+b") as stream:
            stream.seek(-1, os.SEEK_END)
            stream.write(b"\0" if stream.read(1) != b"\0" else b"\1")
        os.utime(file, (5, 5))
        assert content_digest(file) != quick

    def test_missing(self, tmp_path):
        with pytest.raises(MissingFile):
            content_digest(tmp_path / "nothing")
