"""Captions in text files beside their images."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from vlsae.datasets import Captions
from vlsae.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(("one.jpg", "deep/two.PNG", "deep/three.jpg")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(tmp_path / name)
    (tmp_path / "one.txt").write_text("a red dog\n\n  two dogs \n", encoding="utf-8")
    (tmp_path / "deep" / "two.txt").write_text("ein Hund über Bord", encoding="utf-8")
    return tmp_path


def test_a_text_file_captions_the_image_of_its_name(folder: Path) -> None:
    (folder / "README.txt").write_text("about these images")
    dataset = Captions(path=str(folder))
    assert dict(zip(dataset.table["sample_id"], dataset.table["texts"])) == {
        "one.jpg": ["a red dog", "two dogs"],
        "deep/two.PNG": ["ein Hund über Bord"],
    }
    assert [image.size for image in dataset.images([0, 1])] == [(8, 8), (8, 8)]
    assert {(one.row, one.reason) for one in dataset.skipped} == {
        ("deep/three.jpg", "has no caption"),
        ("README.txt", "has no image of its name"),
    }


def test_other_captions_are_another_dataset(folder: Path) -> None:
    before = Captions(path=str(folder)).digest()
    assert Captions(path=str(folder)).digest() == before
    (folder / "one.txt").write_text("a red cat")
    assert Captions(path=str(folder)).digest() != before


def test_empty_and_unreadable_captions_are_named_or_left_out(folder: Path) -> None:
    (folder / "deep" / "three.txt").write_text("  \n")
    with pytest.raises(UserError, match=r"deep/three.txt.*empty caption"):
        _ = Captions(path=str(folder)).table
    (folder / "one.txt").write_bytes(b"\xff\xfe\xff")
    dataset = Captions(path=str(folder), on_error="skip")
    assert dataset.table["sample_id"][:] == ["deep/two.PNG"]
    assert {one.row for one in dataset.skipped} == {"deep/three.txt", "one.txt"}


def test_a_caption_file_goes_before_texts(folder: Path) -> None:
    (folder / "captions.jsonl").write_text('{"image": "one.jpg", "text": "from the file"}\n')
    assert Captions(path=str(folder)).table["texts"][:] == [["from the file"]]
