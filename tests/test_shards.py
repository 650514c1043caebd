"""Captions from WebDataset shards and from files of paths: read in place, each fault by its row."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlsae.datasets import Captions
from vlsae.datasets.shard_names import shard_paths
from vlsae.errors import MissingFile, UserError


def picture(value: int = 0, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (6, 4), (value, 10, 20)).save(stream, form)
    return stream.getvalue()


def write_shard(path: Path, files: dict[str, bytes | str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_shards(folder: Path, shards: int = 3, samples: int = 4) -> Path:
    for shard in range(shards):
        files: dict[str, bytes | str] = {}
        for number in range(shard * samples, (shard + 1) * samples):
            files |= {f"{number:05d}.jpg": picture(number), f"{number:05d}.txt": f"picture {number}\n"}
        write_shard(folder / f"part-{shard:03d}.tar", files)
    return folder


def fault(path: Path | str, **settings) -> str:
    with pytest.raises(UserError) as caught:
        len(Captions(path=str(path), **settings))
    return str(caught.value)


def test_a_folder_of_shards_gives_stable_ids_locators_and_pixels_where_they_lie(tmp_path):
    dataset = Captions(path=str(write_shards(tmp_path)))
    table = dataset.table
    assert table["sample_id"][:2] == ["part-000/00000", "part-000/00001"]
    assert table["texts"][11] == ["picture 11"]
    assert table["source"][5] == "part-001.tar:00005.jpg"
    place = table["locator"][5]
    with (tmp_path / place["shard"]).open("rb") as file:
        file.seek(place["offset"])
        assert file.read(place["size"]) == picture(5)
    assert [image.getpixel((0, 0))[0] for image in dataset.images([11, 0, 5])] == [11, 0, 5]
    assert "split" not in table.column_names
    assert len(pickle.loads(pickle.dumps(dataset)).images([3])) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["part-000.tar", "part-001.tar", "part-002.tar"]


def test_ids_and_rows_of_earlier_shards_stay_when_shards_are_added(tmp_path):
    write_shards(tmp_path, shards=2)
    before, digest = Captions(path=str(tmp_path)).table.to_dict(), Captions(path=str(tmp_path)).digest()
    assert Captions(path=str(tmp_path)).digest() == digest
    write_shards(tmp_path, shards=3)
    after = Captions(path=str(tmp_path))
    assert {name: values[:8] for name, values in after.table.to_dict().items()} == before
    assert after.digest() != digest


PATTERNS = {
    "part-{000..001}.tar": 2,
    "part-*.tar": 3,
    "part-00[12].tar": 2,
    "{part-000,part-002}.tar": 2,
    "part-00{0..1}.tar": 2,
    "part-001.tar": 1,
}


@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_patterns_mean_shards(tmp_path, pattern):
    write_shards(tmp_path)
    assert len(Captions(path=f"{tmp_path}/{pattern}")) == 4 * PATTERNS[pattern]


def test_patterns_that_mean_none_are_named(tmp_path):
    write_shards(tmp_path)
    with pytest.raises(MissingFile, match="There is no shard"):
        len(Captions(path=f"{tmp_path}/part-{{000..004}}.tar"))
    with pytest.raises(MissingFile, match="No file fits"):
        len(Captions(path=f"{tmp_path}/other-*.tar"))
    assert "without its pair" in fault(f"{tmp_path}/part-{{000..2.tar")
    assert "counts from 5 to 2" in fault(f"{tmp_path}/part-{{5..2}}.tar")
    assert [path.name for path in shard_paths(tmp_path / "part-{000..001}.tar")] == ["part-000.tar", "part-001.tar"]


def test_fields_of_json_are_columns(tmp_path):
    rows = [
        {"uid": "a", "caption": "one", "split": "train", "kind": 3, "who": "x"},
        {"uid": "b", "caption": ["two", "zwei"], "split": "test", "kind": 4, "who": "x"},
    ]
    files: dict[str, bytes | str] = {}
    for number, row in enumerate(rows):
        files |= {f"d/{number}.png": picture(number), f"d/{number}.json": json.dumps(row)}
    write_shard(tmp_path / "a.tar", files)
    table = Captions(path=str(tmp_path), columns={"id": "uid", "label": "kind", "group": "who"}).table
    assert table["sample_id"][:] == ["a", "b"]
    assert table["texts"][:] == [["one"], ["two", "zwei"]]
    assert table["labels"][:] == [{"label": "3"}, {"label": "4"}]
    assert table["group"][:] == ["x", "x"]
    assert table["split"][:] == ["train", "test"]
    assert Captions(path=str(tmp_path)).table["sample_id"][:] == ["a/d/0", "a/d/1"]
    assert "no field 'title' in its .json (dataset.columns.text)" in fault(tmp_path, columns={"text": "title"})
    assert "key in dataset.columns" in fault(tmp_path, columns={"txt": "title"})


def test_other_endings_are_chosen_by_columns(tmp_path):
    files = {"0.input.png": picture(1), "0.png": picture(2), "0.txt": "a", "0.long.txt": "a long text", "0.cls": "7"}
    write_shard(tmp_path / "a.tar", files)
    assert Captions(path=str(tmp_path)).images([0])[0].getpixel((0, 0))[0] == 2
    dataset = Captions(path=str(tmp_path), columns={"image": "input.png", "text": "long.txt"})
    assert dataset.images([0])[0].getpixel((0, 0))[0] == 1
    assert dataset.table["texts"][0] == ["a long text"]
    assert dataset.table["labels"][0] == {"label": "7"}


BAD = {
    "no picture": ({"1.txt": "a"}, "a.tar:1: no picture (.jpg"),
    "no caption": ({"1.png": picture()}, "a.tar:1: empty caption"),
    "empty caption": ({"1.png": picture(), "1.txt": "  "}, "a.tar:1: empty caption"),
    "not text": ({"1.png": picture(), "1.txt": b"\xff\xfe"}, "a.tar:1: 1.txt is not UTF-8"),
    "not JSON": ({"1.png": picture(), "1.json": "{"}, "a.tar:1: its .json is not JSON"),
    "no object": ({"1.png": picture(), "1.json": "[1]"}, "a.tar:1: its .json is list"),
    "broken picture": ({"1.png": picture()[:30], "1.txt": "a"}, "a/1: a.tar:1.png: unreadable image"),
    "leads out": ({"../1.png": picture(), "../1.txt": "a"}, "a.tar:../1.png: has a name that leads out"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_a_bad_sample_is_named_or_left_out_and_counted(tmp_path, case):
    files, words = BAD[case]
    write_shard(tmp_path / "a.tar", {"0.png": picture(), "0.txt": "fine", **files})
    assert words in fault(tmp_path)
    dataset = Captions(path=str(tmp_path), on_error="skip")
    assert dataset.table["sample_id"][:] == ["a/0"]
    assert dataset.images([0])[0].getpixel((0, 0))[0] == 0
    assert dataset.skipped


def test_links_duplicates_and_torn_shards(tmp_path):
    write_shards(tmp_path, shards=1)
    with tarfile.open(tmp_path / "part-000.tar", "a") as archive:
        info = tarfile.TarInfo("00009.jpg")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    assert "part-000.tar:00009.jpg: is a link" in fault(tmp_path)
    twice = {"1.png": picture(), "1.txt": "a", "2.png": picture(), "2.txt": "b", "1.jpg": picture(), "1.json": "{}"}
    write_shard(tmp_path / "part-000.tar", {**twice, "1.json": json.dumps({"caption": "c"})})
    assert "duplicate id 'part-000/1', first at part-000.tar:1" in fault(tmp_path)
    whole = write_shards(tmp_path, shards=1) / "part-000.tar"
    whole.write_bytes(whole.read_bytes()[:3000])
    assert "part-000.tar is not a readable tar archive (unexpected end" in fault(tmp_path)
    assert len(Captions(path=str(tmp_path), on_error="skip")) >= 1


def test_a_shard_that_was_cut_after_the_index_is_an_error_that_names_the_picture(tmp_path):
    write_shards(tmp_path, shards=1)
    dataset = Captions(path=str(tmp_path))
    assert len(dataset) == 4
    with (tmp_path / "part-000.tar").open("r+b") as file:
        file.truncate(2000)
    with pytest.raises(UserError, match=r"part-000/00003: part-000.tar:00003.jpg: part-000.tar (is cut|has changed)"):
        dataset.images([3])


def test_a_caption_file_beside_tars_is_a_caption_file(tmp_path):
    write_shard(tmp_path / "images.tar", {"deep/cat.png": picture(3)})
    (tmp_path / "captions.csv").write_text("image,caption\ndeep/cat.png,a cat\n")
    dataset = Captions(path=str(tmp_path))
    assert dataset.table["source"][0] == "images.tar:deep/cat.png"
    assert dataset.images([0])[0].getpixel((0, 0))[0] == 3


def test_a_file_of_paths_names_pictures_anywhere_relative_to_itself_or_absolutely(tmp_path):
    for name in ("here/one.png", "there/two.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(picture(len(name)))
    table = tmp_path / "here" / "rows.csv"
    table.write_text(f"path,text\none.png,one\n../there/two.png,two\n{tmp_path}/there/two.png,zwei\n")
    dataset = Captions(path=str(table))
    assert dataset.table["texts"][:] == [["one"], ["two"], ["zwei"]]
    assert dataset.images([1])[0].size == (6, 4)
    digest = dataset.digest()
    (tmp_path / "there" / "two.png").write_bytes(picture(99))
    assert Captions(path=str(table)).digest() != digest
    table.write_text("path,text\ntwo.png,two\n")
    assert "rows.csv line 2: image 'two.png' is not there" in fault(table)
    assert len(Captions(path=str(table), images=str(tmp_path / "there"))) == 1
    with pytest.raises(MissingFile, match="no image folder"):
        len(Captions(path=str(table), images=str(tmp_path / "none")))


@pytest.mark.shared_data
def test_real_photographs_repacked_as_shards_give_the_same_pixels(shared_data, tmp_path):
    plain = Captions(path=str(shared_data / "coco_photos"), captions="captions.json", check="none")
    rows = list(range(0, 131, 20))
    for shard in (0, 1):
        files: dict[str, bytes | str] = {}
        for row in rows[shard::2]:
            sample = plain._content[0][row]
            files[f"{row}.jpg"] = plain.files.read(sample.location)
            files[f"{row}.json"] = json.dumps({"captions": sample.texts})
        write_shard(tmp_path / f"{shard}.tar", files)
    packed = Captions(path=str(tmp_path))
    for number, name in enumerate(packed.table["sample_id"]):
        row = int(name.split("/")[1])
        assert packed.table["texts"][number] == plain.table["texts"][row]
        assert np.array_equal(packed.images([number])[0], plain.images([row])[0])
