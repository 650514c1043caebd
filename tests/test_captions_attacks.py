"""Captions under attack: hostile and ambiguous sources give an error by row or a counted row, never a crash."""

from __future__ import annotations

import io
import json
import random
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlsae.datasets import Captions, archives, pictures
from vlsae.errors import UserError


def picture(form: str = "PNG", size: tuple[int, int] = (6, 4), value: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (value, 10, 20)).save(stream, form)
    return stream.getvalue()


def folder(place: Path, captions: str, name: str = "captions.csv", images: dict[str, bytes] | None = None) -> Path:
    for file, data in (images or {"cat.png": picture(), "dog.png": picture(value=1)}).items():
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        (place / file).write_bytes(data)
    (place / name).write_bytes(captions.encode("utf-8", "surrogatepass"))
    return place


def archive(place: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return place


def fault(place: Path, **arguments) -> str:
    with pytest.raises(UserError) as caught:
        len(Captions(path=str(place), **arguments))
    return str(caught.value)


def left(place: Path, **arguments) -> tuple[list[str], list[str]]:
    dataset = Captions(path=str(place), on_error="skip", **arguments)
    return dataset.table["sample_id"][:], [skipped.row for skipped in dataset.skipped]


DUPLICATES = {
    "an id of two images": "id,image,caption\n1,cat.png,a\n1,dog.png,b\n",
    "a row that stands twice": "id,image,caption\n1,cat.png,a\n1,cat.png,a\n",
    "a caption's id": "id,image,caption\n1,cat.png,a\n1,cat.png,b\n2,cat.png,c\n",
}


@pytest.mark.parametrize("case", list(DUPLICATES))
def test_a_duplicate_id_is_found_without_being_told_of_the_column(tmp_path, case):
    place = folder(tmp_path, DUPLICATES[case])
    assert "captions.csv line 3: duplicate id '1', first at captions.csv line 2" in fault(place)
    assert left(place)[1] == ["captions.csv line 3"]


def test_ids_of_captions_do_not_tear_an_image_apart_unless_they_are_named_as_the_samples(tmp_path):
    place = folder(tmp_path, "id,image,caption\n1,cat.png,a\n2,cat.png,b\n3,dog.png,c\n")
    assert Captions(path=str(place)).table["texts"][:] == [["a", "b"], ["c"]]
    table = Captions(path=str(place), columns={"id": "id"}).table
    assert table["sample_id"][:] == ["1", "2", "3"]
    assert table["group"][:] == ["1", "1", "3"]  # one image never falls into two splits


def test_rows_of_one_id_and_image_are_its_captions(tmp_path):
    place = folder(tmp_path, "id,image,caption\n1,cat.png,a\n1,cat.png,b\n2,dog.png,c\n")
    table = Captions(path=str(place)).table
    assert table["sample_id"][:] == ["1", "2"]
    assert table["texts"][:] == [["a", "b"], ["c"]]


def test_cocos_duplicate_and_unknown_images_are_named(tmp_path):
    images = [{"id": 1, "file_name": "cat.png"}, {"id": 1, "file_name": "dog.png"}]
    annotations = [{"image_id": 1, "caption": "a"}, {"image_id": 5, "caption": "b"}]
    place = folder(tmp_path, json.dumps({"images": images, "annotations": annotations}), "captions.json")
    assert "images[1]: duplicate id 1 (1 more row is bad)" in fault(place)
    assert left(place) == (["1"], ["captions.json images[1]", "captions.json annotation 1"])


def test_a_split_is_taken_as_it_stands_or_refused_but_never_dropped(tmp_path):
    place = folder(tmp_path, "image,caption,split\ncat.png,a,train\ndog.png,b,val\n")
    assert Captions(path=str(place)).table["split"][:] == ["train", "validation"]
    folder(tmp_path, "image,caption,split\ncat.png,a,train\ndog.png,b,restval\n")
    assert "line 3: split 'restval'; expected train" in fault(place)
    assert "split" not in Captions(path=str(place), columns={"split": ""}).table.column_names
    folder(tmp_path, "image,caption,split\ncat.png,a,train\ndog.png,b,\n")
    assert "line 3: no split" in fault(place)


def test_the_picture_of_another_folder_is_never_taken(tmp_path):
    place = folder(tmp_path, "image,caption\nval/cat.png,a\n", images={"train/cat.png": picture()})
    assert "'val/cat.png' is not in" in fault(place)
    folder(tmp_path, "image,caption\ndata/train/cat.png,a\n", images={"train/cat.png": picture()})
    assert len(Captions(path=str(place))) == 1
    folder(tmp_path, f"image,caption\n{place / 'train' / 'cat.png'},a\n", images={"train/cat.png": picture()})
    assert len(Captions(path=str(place))) == 1
    folder(tmp_path, "image,caption\n/etc/cat.png,a\n", images={"train/cat.png": picture()})
    assert "leads out of its folder" in fault(place)


def test_names_in_composed_and_decomposed_unicode_are_one(tmp_path):
    place = folder(tmp_path, "image,caption\ncafé.png,a\n", images={"café.png": picture()})
    assert len(Captions(path=str(place))) == 1


BROKEN = {
    "key twice": ("captions.json", '{"cat.png": "a", "cat.png": "b"}', "the key 'cat.png' stands twice"),
    "nested": ("captions.json", "[" * 100_000, "nested too deeply"),
    "number": ("captions.json", '[{"image": ' + "9" * 5000 + "}]", "is not JSON"),
    "header twice": ("captions.csv", "image,caption,caption\ncat.png,a,b\n", "the column 'caption' twice"),
    "open quote": ("captions.csv", 'image,caption\ndog.png,b\ncat.png,"a\n\n\n', "captions.csv line 3"),
    "nothing": ("captions.csv", "", "no image with a caption"),
}


@pytest.mark.parametrize("case", list(BROKEN))
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_file_that_cannot_be_understood_is_an_error_in_either_mode(tmp_path, case, on_error):
    name, text, words = BROKEN[case]
    assert words in fault(folder(tmp_path, text, name), on_error=on_error)


ROWS = {
    "cells": ("captions.csv", "image,caption\ncat.png,a,b\ndog.png,b\n", "line 2: 3 values; expected 2"),
    "line": ("captions.jsonl", '{"image": \n{"image": "dog.png", "text": "b"}\n', "line 1: not JSON"),
    "kind": ("captions.json", '["cat.png", {"image": "dog.png", "text": "b"}]', "row 0: str; expected an object"),
    "surrogate": (
        "captions.json",
        '[{"image": "cat.png", "text": "\\ud800"}, {"image": "dog.png", "text": "b"}]',
        "row 0: caption '\\ud800' holds half a surrogate pair",
    ),
    "number": ("captions.json", '[{"image": "cat.png", "text": 3}, {"image": "dog.png", "text": "b"}]', "row 0: cap"),
}


@pytest.mark.parametrize("case", list(ROWS))
def test_a_row_that_cannot_be_read_is_named_or_left_out(tmp_path, case):
    name, text, words = ROWS[case]
    place = folder(tmp_path, text, name)
    assert words in fault(place)
    assert left(place)[0] == ["dog.png"]


def test_the_first_fault_by_row_is_the_one_named(tmp_path):
    place = folder(tmp_path, "id,image,caption\n1,cat.png,a\n1,dog.png,b\n2,none.png,c\n")
    assert fault(place).startswith("captions.csv line 3")


def test_an_image_with_an_empty_list_of_captions_is_counted_and_no_error(tmp_path):
    place = folder(tmp_path, json.dumps({"cat.png": [], "dog.png": "b"}), "captions.json")
    dataset = Captions(path=str(place))
    assert [(skipped.row, skipped.reason) for skipped in dataset.skipped] == [("cat.png", "has no caption")]


def test_utf16_is_named_as_such(tmp_path):
    place = folder(tmp_path, "")
    (place / "captions.csv").write_text("image,caption\ncat.png,a\n", encoding="utf-16")
    assert "captions.csv line 1 is UTF-16" in fault(place)


def test_hostile_and_damaged_archives_are_counted_and_the_rest_is_read(tmp_path, monkeypatch):
    place = folder(tmp_path, "image,caption\nx.png,a\nbig.png,b\ncat.png,c\ny.png,d\n", images={"cat.png": picture()})
    archive(tmp_path / "outside.zip", {"../x.png": picture(), "C:\\x.png": picture(), "__MACOSX/x.png": b"no"})
    archive(tmp_path / "bomb.zip", {"big.png": b"\0" * 300_000})
    noise = zlib.compress(np.random.default_rng(0).bytes(5000))
    damaged = bytearray(archive(tmp_path / "damaged.zip", {"y.png": picture() + noise}).read_bytes())
    damaged[60:90] = bytes(30)
    (tmp_path / "damaged.zip").write_bytes(bytes(damaged))
    (tmp_path / "empty.zip").write_bytes(b"")
    monkeypatch.setattr(archives, "MOST_BYTES", 100_000)
    samples, rows = left(place)
    assert samples == ["cat.png"]
    assert rows[:3] == ["empty.zip", "outside.zip:../x.png", "outside.zip:C:\\x.png"]
    assert rows[3:] == ["captions.csv line 2", "captions.csv line 3", "captions.csv line 5"]


def test_an_outside_program_is_never_started_for_a_picture(tmp_path):
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n"
    place = folder(tmp_path, "image,caption\nx.jpg,a\n", images={"x.jpg": eps})
    assert "none of JPEG" in fault(place)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_bytes_of_any_format_are_a_users_error_and_nothing_else():
    generator = random.Random(0)
    sources = [picture(form, (40, 30)) for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")]
    refused = 0
    for _ in range(1500):
        data = bytearray(generator.choice(sources))
        if generator.random() < 0.4:
            data = data[: generator.randrange(len(data))]
        for _ in range(min(len(data), generator.randrange(1, 8))):
            data[generator.randrange(len(data))] = generator.randrange(256)
        try:
            assert pictures.decode(bytes(data)).mode == "RGB"
        except UserError:
            refused += 1
    assert refused > 300


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_the_check_beforehand_finds_what_decoding_would(form):
    pixels = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form)
    whole = stream.getvalue()
    pictures.check_whole(whole)
    for kept in (0.4, 0.9):
        with pytest.raises(UserError, match="unreadable image"):
            pictures.check_whole(whole[: int(len(whole) * kept)])


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_orientation_does_not_cost_the_picture():
    data = picture("JPEG")
    broken = data[:2] + b"\xff\xe1\x00\x20Exif\0\0II*\0\xff\xff\xff\xff" + bytes(16) + data[2:]
    assert pictures.decode(broken).size == (6, 4)


def test_sixteen_bits_are_scaled_alike_in_dark_and_bright_pictures_and_floats_are_refused():
    stream = io.BytesIO()
    Image.fromarray(np.full((2, 2), 257 * 3, np.uint16)).save(stream, "PNG")
    assert pictures.decode(stream.getvalue()).getpixel((0, 0)) == (3, 3, 3)
    stream = io.BytesIO()
    Image.fromarray(np.full((2, 2), 200, np.uint16)).save(stream, "PNG")
    assert pictures.decode(stream.getvalue()).getpixel((0, 0)) == (1, 1, 1)
    stream = io.BytesIO()
    Image.fromarray(np.full((2, 2), 0.5, np.float32)).save(stream, "TIFF")
    with pytest.raises(UserError, match="floating-point"):
        pictures.decode(stream.getvalue())


def test_one_changed_byte_within_an_image_changes_the_digest(tmp_path):
    stream = io.BytesIO()
    Image.new("RGB", (200, 200)).save(stream, "BMP")
    place = folder(tmp_path, "image,caption\na.bmp,x\n", images={"a.bmp": stream.getvalue()})
    before = Captions(path=str(place)).digest()
    data = bytearray(stream.getvalue())
    data[60_000] ^= 1
    (place / "a.bmp").write_bytes(bytes(data))
    assert Captions(path=str(place)).digest() != before


def test_many_threads_read_one_archive_through_one_handle(tmp_path):
    names = [f"{number:03}.png" for number in range(60)]
    archive(tmp_path / "images.zip", {name: picture(value=number) for number, name in enumerate(names)})
    folder(tmp_path, "image,caption\n" + "".join(f"{name},x\n" for name in names), images={"unused.png": b""})
    dataset = Captions(path=str(tmp_path), check="none")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: dataset.images([number % 60])[0].getpixel((0, 0))[0], range(600)))
    assert found == [number % 60 for number in range(600)]
    assert len(dataset.files._handles) == 1


def test_an_unknown_mode_is_refused_where_it_is_given():
    with pytest.raises(UserError, match="on_error is 'ignore'"):
        Captions(path="x", on_error="ignore")
