"""Captions from a local folder: every format, and each fault named with its row."""

from __future__ import annotations

import csv
import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vlsae.datasets import Captions
from vlsae.errors import MissingFile, UserError

NAMES = ["cat.png", "dog.png", "bird.png"]
TEXTS = [["a cat", "the cat sits"], ["a dog"], ["a bird", "a bird, flying"]]


def picture(value: int = 0, mode: str = "RGB", form: str = "PNG", size: tuple[int, int] = (6, 4), **options) -> bytes:
    image = Image.new("RGB", size, (value, 10, 20)).convert(mode)
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def write_images(folder: Path, names: list[str] = NAMES) -> None:
    for number, name in enumerate(names):
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(picture(number))


def write_rows(path: Path, names: list[str], texts: list[list[str]]) -> None:
    flat = [{"image": name, "caption": text} for name, several in zip(names, texts) for text in several]
    if path.suffix == ".json":
        path.write_text(json.dumps(flat))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in flat), encoding="utf-8")
    elif path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(flat), path)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["image", "caption"], delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(flat)


def coco(names: list[str], texts: list[list[str]]) -> dict:
    images = [{"id": 7 + number, "file_name": name} for number, name in enumerate(names)]
    annotations = [
        {"image_id": 7 + number, "id": 100 * number + k, "caption": text}
        for number, several in enumerate(texts)
        for k, text in enumerate(several)
    ]
    return {"images": images, "annotations": annotations}


def fault(folder: Path, **arguments) -> str:
    with pytest.raises(UserError) as caught:
        len(Captions(path=str(folder), **arguments))
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".tsv", ".parquet"])
def test_each_format_gives_one_sample_an_image_with_all_its_captions(tmp_path, suffix):
    write_images(tmp_path)
    write_rows(tmp_path / f"captions{suffix}", NAMES, TEXTS)
    dataset = Captions(path=str(tmp_path))
    assert dataset.table["sample_id"][:] == NAMES
    assert dataset.table["texts"][:] == TEXTS
    assert [image.getpixel((0, 0))[0] for image in dataset.images([2, 0])] == [2, 0]
    assert dataset.hugging_face()[1]["image"].getpixel((0, 0)) == (1, 10, 20)


def test_a_mapping_of_files_and_cocos_form_are_read_and_uncaptioned_images_are_counted(tmp_path):
    write_images(tmp_path)
    (tmp_path / "captions.json").write_text(json.dumps({"cat.png": "a cat", "dog.png": ["a dog", "one dog"]}))
    assert Captions(path=str(tmp_path)).table["texts"][:] == [["a cat"], ["a dog", "one dog"]]
    (tmp_path / "captions.json").write_text(json.dumps(coco(NAMES, [TEXTS[0], [], TEXTS[2]])))
    dataset = Captions(path=str(tmp_path))
    assert dataset.table["sample_id"][:] == ["7", "9"]
    assert [(skipped.row, skipped.reason) for skipped in dataset.skipped] == [("dog.png", "has no caption")]


def test_images_are_read_out_of_several_archives_and_subfolders(tmp_path):
    for archive, name in (("one.zip", "cat.png"), ("two.zip", "deep/dog.png")):
        with zipfile.ZipFile(tmp_path / archive, "w") as file:
            file.writestr(name, picture(NAMES.index(Path(name).name)))
    write_images(tmp_path / "loose", ["unused.png", "bird.png"])
    write_rows(tmp_path / "captions.csv", NAMES, TEXTS)
    dataset = Captions(path=str(tmp_path))
    assert [str(source) for source in dataset.table["source"]] == [
        "one.zip:cat.png",
        "two.zip:deep/dog.png",
        "loose/bird.png",
    ]
    assert len(dataset.images([0, 1, 2])) == 3
    assert len(pickle.loads(pickle.dumps(dataset)).images([1])) == 1


def test_columns_are_mapped_and_carried(tmp_path):
    write_images(tmp_path)
    rows = ["key,photo,words,kind,part", "a,cat.png,a cat,pet,train", "b,dog.png,a dog,pet,validation"]
    (tmp_path / "table.csv").write_text("\n".join(rows))
    columns = {"id": "key", "image": "photo", "text": "words", "label": "kind", "split": "part"}
    table = Captions(path=str(tmp_path), columns=columns).table
    assert table["sample_id"][:] == ["a", "b"]
    assert table["split"][:] == ["train", "validation"]
    assert table[0]["labels"] == {"label": "pet"}


def test_a_missing_column_names_what_there_is_and_the_nearest(tmp_path):
    write_images(tmp_path)
    (tmp_path / "captions.csv").write_text("photograph,words\ncat.png,a cat\n")
    assert "photograph, words" in fault(tmp_path)
    message = fault(tmp_path, columns={"image": "photo", "text": "words"})
    assert "no column 'photo'" in message
    assert "Did you mean photograph?" in message
    assert "dataset.columns" in fault(tmp_path, columns={"txt": "words"})


BAD_ROWS = {
    "missing.png,a cat": "image 'missing.png' is not in",
    "cat.png,": "empty caption",
    "cat.png,   ": "empty caption",
    ",a cat": "expected a file name",
    "../cat.png,a cat": "leads out of its folder",
    "broken.png,a cat": "unreadable image",
    "cut.png,a cat": "unreadable image",
    "empty.png,a cat": "empty file",
}


@pytest.mark.parametrize("row", list(BAD_ROWS))
def test_a_bad_row_is_named_with_its_line_or_left_out_and_counted(tmp_path, row):
    write_images(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"this is no picture")
    (tmp_path / "cut.png").write_bytes(picture(3, size=(200, 200))[:120])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "captions.csv").write_text(f"image,caption\ndog.png,a dog\n{row}\nbird.png,a bird\n")
    message = fault(tmp_path)
    assert "captions.csv line 3" in message
    assert BAD_ROWS[row] in message
    assert "dataset.on_error=skip" in message
    dataset = Captions(path=str(tmp_path), on_error="skip")
    assert dataset.table["sample_id"][:] == ["dog.png", "bird.png"]
    assert [skipped.row for skipped in dataset.skipped] == ["captions.csv line 3"]
    assert BAD_ROWS[row] in dataset.skipped[0].reason


def test_all_bad_rows_are_counted_and_a_duplicate_id_names_both_places(tmp_path):
    write_images(tmp_path)
    rows = ["id,image,caption", "1,cat.png,a cat", "1,dog.png,a dog", "2,none.png,a dog", "3,bird.png,a bird"]
    (tmp_path / "captions.csv").write_text("\n".join(rows))
    message = fault(tmp_path, columns={"id": "id"})
    assert "line 3: duplicate id '1', first at captions.csv line 2" in message
    assert "1 more row is bad" in message


def test_a_bare_name_in_two_folders_is_ambiguous_until_the_path_says_which(tmp_path):
    write_images(tmp_path, ["one/cat.png", "two/cat.png"])
    write_rows(tmp_path / "captions.csv", ["cat.png"], [["a cat"]])
    assert "one/cat.png, two/cat.png" in fault(tmp_path)
    write_rows(tmp_path / "captions.csv", ["two/cat.png"], [["a cat"]])
    assert Captions(path=str(tmp_path)).images([0])[0].getpixel((0, 0))[0] == 1


def test_members_that_leave_an_archive_are_never_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as file:
        file.writestr("../cat.png", picture())
        file.writestr("/dog.png", picture())
    write_rows(tmp_path / "captions.csv", ["cat.png", "dog.png"], TEXTS[:2])
    message = fault(tmp_path)
    assert "images.zip:../cat.png: has a name that leads out of its archive" in message
    assert "4 more rows are bad" in message


FILES = {
    "captions.json": ('{"images": []', "is not JSON"),
    "captions.jsonl": ('{"image": "cat.png", "caption": "a"}\n[1]\n', "line 2: list; expected an object"),
    "captions.csv": ("image,caption\ncat.png,a,b\n", "line 2: 3 values; expected 2"),
    "captions.parquet": ("no table", "not readable Parquet"),
    "captions.txt": ("a cat", "expected one file of captions"),
}


@pytest.mark.parametrize("name", list(FILES))
def test_a_damaged_caption_file_says_where(tmp_path, name):
    write_images(tmp_path)
    (tmp_path / name).write_text(FILES[name][0])
    assert FILES[name][1] in fault(tmp_path)


def test_other_encodings_are_named_by_line_and_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    write_images(tmp_path)
    path = tmp_path / "captions.csv"
    path.write_bytes("image,caption\r\ncat.png,a cat\r\ndog.png,café\r\n".encode("latin-1"))
    assert "captions.csv line 3 is not UTF-8" in fault(tmp_path)
    path.write_bytes('image,caption\r\ncat.png,"a cat,\r\ncafé"\r\ndog.png,a dog\r\n'.encode("utf-8-sig"))
    assert Captions(path=str(tmp_path)).table["texts"][:] == [["a cat,\r\ncafé"], ["a dog"]]


def test_folders_files_and_archives_that_are_missing_or_broken(tmp_path):
    with pytest.raises(MissingFile, match="no dataset folder"):
        len(Captions(path=str(tmp_path / "none")))
    write_images(tmp_path)
    with pytest.raises(MissingFile, match="no caption file"):
        len(Captions(path=str(tmp_path), captions="none.csv"))
    write_rows(tmp_path / "captions.csv", NAMES, TEXTS)
    write_rows(tmp_path / "more.csv", NAMES, TEXTS)
    assert Captions(path=str(tmp_path)).caption_file.name == "captions.csv"
    (tmp_path / "images.zip").write_bytes(b"PK nothing")
    assert "not a readable zip archive" in fault(tmp_path)


def test_pictures_come_upright_in_eight_bit_rgb_over_white(tmp_path):
    upright = Image.new("RGB", (6, 4), (0, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    upright.save(stream, "JPEG", exif=exif)
    sixteen = io.BytesIO()
    Image.fromarray(np.full((4, 6), 65535, np.uint16)).save(sixteen, "PNG")
    clear = io.BytesIO()
    Image.new("RGBA", (6, 4), (0, 0, 0, 0)).save(clear, "PNG")
    files = {
        "turned.jpg": stream.getvalue(),
        "sixteen.png": sixteen.getvalue(),
        "clear.png": clear.getvalue(),
        "cmyk.jpg": picture(9, "CMYK", "JPEG"),
        "palette.png": picture(9, "P"),
        "gray.png": picture(9, "L"),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    write_rows(tmp_path / "captions.csv", list(files), [["x"]] * len(files))
    images = Captions(path=str(tmp_path)).images(range(len(files)))
    assert {image.mode for image in images} == {"RGB"}
    assert images[0].size == (4, 6)
    assert images[1].getpixel((0, 0)) == (255, 255, 255)
    assert images[2].getpixel((0, 0)) == (255, 255, 255)


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path):
    data = bytearray(picture(size=(8, 8)))
    header = data.index(b"IHDR") + 4
    data[header : header + 8] = (60_000).to_bytes(4, "big") * 2
    (tmp_path / "bomb.png").write_bytes(bytes(data))
    write_rows(tmp_path / "captions.csv", ["bomb.png"], [["a bomb"]])
    assert "bomb.png" in fault(tmp_path)


def test_an_image_that_breaks_after_the_check_names_its_row(tmp_path):
    write_images(tmp_path)
    write_rows(tmp_path / "captions.csv", NAMES, TEXTS)
    dataset = Captions(path=str(tmp_path), check="none")
    (tmp_path / "dog.png").write_bytes(picture(5, size=(300, 300))[:90])
    with pytest.raises(UserError, match=r"captions.csv line 4: dog.png: unreadable image"):
        dataset.images([1])


def test_the_digest_follows_content_and_not_the_place(tmp_path):
    digests = []
    for place in ("one", "two", "changed"):
        folder = tmp_path / place
        write_images(folder)
        write_rows(folder / "captions.csv", NAMES, TEXTS)
        if place == "changed":
            (folder / "dog.png").write_bytes(picture(77))
        digests.append(Captions(path=str(folder)).digest())
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1), min_size=1, max_size=4)
)
def test_any_text_comes_back_from_any_format(tmp_path, suffix, texts):
    wanted = [text.strip() for text in texts]
    if not all(wanted):
        return
    write_images(tmp_path, ["cat.png"])
    write_rows(tmp_path / f"captions{suffix}", ["cat.png"], [texts])
    assert Captions(path=str(tmp_path), captions=f"captions{suffix}").table["texts"][0] == wanted


@pytest.mark.shared_data
def test_real_photographs_with_captions_work_as_they_lie(shared_data):
    dataset = Captions(path=str(shared_data / "coco_photos"))
    assert dataset.caption_file.name == "captions.json"
    assert len(dataset) == 131
    assert sum(len(texts) for texts in dataset.table["texts"]) == 655
    assert len(dataset.skipped) == 112
    assert {image.mode for image in dataset.images(range(0, 131, 10))} == {"RGB"}


def test_a_full_look_decodes_each_image_once_for_a_plan_and_its_run(tmp_path, monkeypatch) -> None:
    from vlsae.datasets import pictures

    write_images(tmp_path)
    (tmp_path / NAMES[0]).write_bytes(picture(77))  # content that no other test has looked at
    write_rows(tmp_path / "captions.jsonl", NAMES, TEXTS)
    looked = []
    whole = pictures.check_whole
    monkeypatch.setattr(pictures, "check_whole", lambda data: looked.append(data) or whole(data))
    for _ in range(2):
        assert len(Captions(path=str(tmp_path), check="full").table) == 3
    assert len(looked) == 3
    (tmp_path / NAMES[1]).write_bytes(b"no picture at all")
    with pytest.raises(UserError, match=NAMES[1]):
        _ = Captions(path=str(tmp_path), check="full").table
    assert len(looked) == 6
