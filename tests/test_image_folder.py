"""Image folders: what folders, archives and metadata say of each picture, and what is refused."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vlsae.datasets import ImageFolder
from vlsae.datasets.base import sample_splits
from vlsae.datasets.layout import read_layout
from vlsae.errors import MissingFile, UserError


def picture(value: int = 0, size: tuple[int, int] = (6, 4)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (value, 10, 20)).save(stream, "PNG")
    return stream.getvalue()


def write(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(number))
    return folder


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w", links: dict[str, str] | None = None) -> Path:
    with tarfile.open(path, mode) as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            file.addfile(info)
    return path


def fault(folder: Path, **settings) -> str:
    with pytest.raises(UserError) as caught:
        len(ImageFolder(path=str(folder), **settings))
    return str(caught.value)


def classes(dataset: ImageFolder) -> dict[str, str | None]:
    return {row["sample_id"]: row["labels"]["class"] for row in dataset.table}


def red(dataset: ImageFolder, sample: str) -> int:
    return dataset.images([dataset.table["sample_id"][:].index(sample)])[0].getpixel((0, 0))[0]


def test_the_folder_above_a_picture_is_its_class_and_rows_come_from_each_class_in_turn(tmp_path):
    write(tmp_path, "cat/1.png", "cat/2.png", "cat/3.png", "dog/1.png", "dog/deep/../2.png", "readme.txt")
    dataset = ImageFolder(path=str(tmp_path))
    assert dataset.table["sample_id"][:] == ["cat/1.png", "dog/1.png", "cat/2.png", "dog/2.png", "cat/3.png"]
    assert dataset.table["labels"][1] == {"class": "dog"}
    assert dataset.class_names == ["cat", "dog"]
    assert dataset.table["texts"][:] == [[]] * 5
    assert "split" not in dataset.table.column_names
    assert red(dataset, "dog/1.png") == 3


@pytest.mark.parametrize("kind", ["zip", "tar", "folder"])
def test_archives_read_as_the_folder_that_they_hold(tmp_path, kind):
    names = ["photos/train/cat/1.png", "photos/train/dog/2.png", "photos/val/cat/3.png", "photos/val/dog/4.png"]
    members = {name: picture(number) for number, name in enumerate(names)}
    if kind == "folder":
        path = write(tmp_path, *names)
    elif kind == "tar":
        path = write_tar(tmp_path / "all.tar", members)
    else:
        path = tmp_path / "all.zip"
        with zipfile.ZipFile(path, "w") as file:
            for name, data in members.items():
                file.writestr(name, data)
    dataset = ImageFolder(path=str(path))
    assert classes(dataset) == dict(zip(names, ["cat", "dog", "cat", "dog"]))
    assert dict(zip(dataset.table["sample_id"], dataset.table["split"]))[names[3]] == "validation"
    assert [red(dataset, name) for name in names] == [0, 1, 2, 3]
    assert len(pickle.loads(pickle.dumps(dataset)).images([1, 0])) == 2


def test_an_archive_for_each_class_or_split_counts_as_a_folder(tmp_path):
    for name in ("train", "test"):
        write_tar(tmp_path / f"{name}.tar", {"cat/1.png": picture(), "dog/1.png": picture(1)})
    table = ImageFolder(path=str(tmp_path)).table
    assert set(table["split"]) == {"train", "test"}
    assert sorted(table["sample_id"]) == [
        "test.tar:cat/1.png",
        "test.tar:dog/1.png",
        "train.tar:cat/1.png",
        "train.tar:dog/1.png",
    ]
    assert ImageFolder(path=str(tmp_path), splits="ignore").class_names == ["cat", "dog"]


LAYOUTS = {
    "flat": (["", ""], [None, None], [None, None]),
    "one folder is no class": (["cat", "cat"], [None, None], [None, None]),
    "shared folders do not count": (["a/b/cat", "a/b/dog"], [None, None], ["cat", "dog"]),
    "a class named like a split": (["train", "bus"], [None, None], ["train", "bus"]),
    "splits of one class": (["train", "test"], ["train", "test"], [None, None]),
    "splits of classes": (["Train/cat", "TEST/dog"], ["train", "test"], ["cat", "dog"]),
    "splits below a folder": (["x/dev/cat", "x/train/dog"], ["validation", "train"], ["cat", "dog"]),
    "one split is none": (["train/cat", "train/dog"], [None, None], ["cat", "dog"]),
    "other depths": (["animals/cat", "cars/old/fast"], [None, None], ["cat", "fast"]),
}


@pytest.mark.parametrize("case", list(LAYOUTS))
def test_what_folders_say(case):
    folders, splits, found = LAYOUTS[case]
    layout = read_layout([tuple(name.split("/")) if name else () for name in folders])
    assert (layout.splits, layout.classes) == (splits, found)


@given(st.lists(st.lists(st.sampled_from(["cat", "dog", "train", "test"]), max_size=3).map(tuple), max_size=6))
def test_a_layout_never_mixes_up_pictures(folders):
    try:
        layout = read_layout(folders)
    except UserError:
        return
    assert len(layout.splits) == len(layout.classes) == len(folders)
    assert all(name is None or name == own[-1] for name, own in zip(layout.classes, folders))
    assert len({name for name in layout.splits if name}) != 1
    by_folder = dict(zip(folders, zip(layout.splits, layout.classes)))
    assert all(by_folder[own] == both for own, both in zip(folders, zip(layout.splits, layout.classes)))


def test_split_folders_with_pictures_beside_them_are_refused_until_told_to_be_classes(tmp_path):
    write(tmp_path, "train/1.png", "test/1.png", "more/1.png")
    assert "named like splits (test, train), and pictures lie beside them, in more" in fault(tmp_path)
    dataset = ImageFolder(path=str(tmp_path), splits="ignore")
    assert dataset.class_names == ["more", "test", "train"]


def test_a_picture_without_a_class_among_others_is_named_or_left_out(tmp_path):
    write(tmp_path, "cat/1.png", "dog/1.png", "stray.png")
    assert "stray.png: lies in no folder of a class, and others do" in fault(tmp_path)
    dataset = ImageFolder(path=str(tmp_path), on_error="skip")
    assert [skipped.row for skipped in dataset.skipped] == ["stray.png"]
    assert len(dataset) == 2


METADATA = {
    "csv": "file_name,text,kind\n1.png,a cat,pet\n2.png,a lion,wild\n",
    "jsonl": '{"file_name": "1.png", "text": "a cat", "kind": "pet"}\n'
    '{"file_name": "2.png", "text": "a lion", "kind": "wild"}\n',
}


@pytest.mark.parametrize("kind", list(METADATA))
def test_metadata_gives_texts_and_labels_and_says_which_pictures_are_samples(tmp_path, kind):
    write(tmp_path, "train/1.png", "train/2.png", "train/unlisted.png", "test/1.png", "test/2.png")
    for split in ("train", "test"):
        (tmp_path / split / f"metadata.{kind}").write_text(METADATA[kind])
    dataset = ImageFolder(path=str(tmp_path), columns={"label": "kind"})
    rows = {row["sample_id"]: (row["texts"], row["labels"], row["split"]) for row in dataset.table}
    assert rows["test/2.png"] == (["a lion"], {"kind": "wild"}, "test")
    assert len(rows) == 4
    assert [(skipped.row, skipped.reason) for skipped in dataset.skipped] == [
        ("train/unlisted.png", "is not in the metadata")
    ]


def test_a_file_of_any_name_and_columns_maps_texts_labels_ids_and_splits(tmp_path):
    write(tmp_path, "1.png", "2.png", "3.png")
    table = "pic,key,hue,n,group,part\n1.png,a,red,3,g,train\n2.png,b,blue,4,g,test\n3.png,c,,5,h,train\n"
    (tmp_path / "table.csv").write_text(table)
    columns = {"image": "pic", "id": "key", "label": ["hue", "n"], "split": "part"}
    settings = {"path": str(tmp_path), "metadata": "table.csv", "columns": columns}
    dataset = ImageFolder(**settings)
    assert dataset.table["sample_id"][:] == ["a", "b", "c"]
    assert dataset.table["labels"][:] == [{"hue": "red", "n": 3}, {"hue": "blue", "n": 4}, {"hue": None, "n": 5}]
    assert dataset.table["group"][:] == ["g", "g", "h"]
    named = ImageFolder(**{**settings, "columns": {**columns, "label": "group"}})
    assert named.table["group"][:] == ["a", "b", "c"]  # a column of labels is not guessed to be one of groups
    assert "no column 'hues'" in fault(tmp_path, metadata="table.csv", columns={**columns, "label": "hues"})
    assert "key in dataset.columns 'labels'" in fault(tmp_path, columns={"labels": "hue"})
    assert "holds no metadata file" in fault(tmp_path, columns={"label": "hue"})
    with pytest.raises(MissingFile):
        len(ImageFolder(path=str(tmp_path), metadata="none.csv"))


def test_a_template_makes_texts_of_labels(tmp_path):
    write(tmp_path, "polar_bear/1.png", "dog/1.png")
    dataset = ImageFolder(path=str(tmp_path), template="a photo of a {class}")
    assert sorted(dataset.table["texts"][:]) == [["a photo of a dog"], ["a photo of a polar bear"]]
    assert "label for dataset.template 'klass'" in fault(tmp_path, template="a {klass}")
    assert "names no label" in fault(tmp_path, template="a photo")
    (tmp_path / "metadata.csv").write_text("file_name,text,label\npolar_bear/1.png,,x\ndog/1.png,,\n")
    assert "empty caption" in fault(tmp_path, template="a {label}")
    (tmp_path / "metadata.csv").write_text("file_name,label\npolar_bear/1.png,x\ndog/1.png,\n")
    assert "metadata.csv line 3: has no label to make a text of" in fault(tmp_path, template="a {label}")


def test_members_that_leave_a_tar_and_links_are_never_read(tmp_path):
    (tmp_path / "secret.png").write_bytes(picture(9))
    inside = tmp_path / "data"
    inside.mkdir()
    members = {"cat/1.png": picture(), "dog/1.png": picture(1), "../secret.png": picture(2), "/x.png": picture(3)}
    write_tar(inside / "all.tar", members, links={"dog/2.png": "../../secret.png", "dog/3.png": "1.png"})
    dataset = ImageFolder(path=str(inside), on_error="skip")
    assert classes(dataset) == {"cat/1.png": "cat", "dog/1.png": "dog"}
    assert {skipped.row: skipped.reason for skipped in dataset.skipped} == {
        "all.tar:../secret.png": "has a name that leads out of its archive",
        "all.tar:/x.png": "has a name that leads out of its archive",
        "all.tar:dog/2.png": "is a link",
        "all.tar:dog/3.png": "is a link",
    }


def test_broken_archives_and_pictures_are_named(tmp_path):
    whole = write_tar(tmp_path / "all.tar", {"a/1.png": picture(), "b/2.png": picture(1, (300, 300))}).read_bytes()
    (tmp_path / "all.tar").write_bytes(whole[:1800])
    assert "all.tar is cut off within 'b/2.png'" in fault(tmp_path)
    (tmp_path / "all.tar").write_bytes(b"no archive" * 100)
    assert "all.tar is not a readable tar archive" in fault(tmp_path)
    (tmp_path / "all.tar").unlink()
    write(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "b" / "2.png").write_bytes(picture()[:40])
    assert "b/2.png: b/2.png: unreadable image" in fault(tmp_path)
    assert len(ImageFolder(path=str(tmp_path), on_error="skip")) == 1


def test_what_holds_no_picture_says_what_would_read_it(tmp_path):
    with pytest.raises(MissingFile, match="no dataset folder"):
        len(ImageFolder(path=str(tmp_path / "none")))
    assert "Pictures end in .jpg" in fault(tmp_path)
    (tmp_path / "train.parquet").write_bytes(b"")
    assert "dataset=hub dataset.path=FOLDER" in fault(tmp_path)
    write_tar(tmp_path / "all.tar.gz", {"cat/1.png": picture()}, "w:gz")
    assert "compressed tar" in fault(tmp_path)
    assert "compressed tar" in fault(tmp_path / "all.tar.gz")
    write_tar(tmp_path / "named.tar", {"cat/1.png": picture()}, "w:gz")
    assert "named.tar is a tar archive compressed with gzip" in fault(tmp_path / "named.tar")


def test_the_digest_changes_with_pixels_names_classes_and_texts_and_with_nothing_else(tmp_path):
    one, two = (write(tmp_path / name, "cat/1.png", "dog/1.png") for name in ("one", "two"))
    digest = ImageFolder(path=str(one)).digest()
    assert ImageFolder(path=str(two), check="none").digest() == digest
    assert ImageFolder(path=str(two), template="a {class}").digest() != digest
    (two / "dog").rename(two / "wolf")
    assert ImageFolder(path=str(two)).digest() != digest
    (two / "wolf").rename(two / "dog")
    (two / "dog" / "1.png").write_bytes(picture(7))
    assert ImageFolder(path=str(two)).digest() != digest


@pytest.mark.shared_data
def test_real_cifar_pictures_with_their_table(shared_data):
    path = str(shared_data / "cifar10")
    dataset = ImageFolder(path=path, metadata="labels.csv", template="a photo of a {class}", check="none")
    assert len(dataset) == 3642
    assert len(dataset.class_names) == 10
    splits = dataset.table["split"][:]
    assert (splits.count("train"), splits.count("test")) == (2796, 846)
    assert len({row["class"] for row in dataset.table["labels"][:20]}) == 10
    row = dataset.table["sample_id"][:].index("test/t0000.png")
    assert dataset.table["texts"][row] == ["a photo of a cat"]
    assert dataset.images([row])[0].size == (32, 32)


@pytest.mark.shared_data
def test_real_emoji_with_names_and_groups(shared_data):
    columns = {"text": "name", "label": "group"}
    path = str(shared_data / "noto_emoji")
    dataset = ImageFolder(path=path, metadata="emoji.csv", columns=columns, check="header")
    assert len(dataset) == 1636
    assert len({row["group"] for row in dataset.table["labels"]}) == 8
    row = dataset.table["texts"][:].index(["grinning face"])
    assert dataset.images([row])[0].getpixel((0, 0)) == (255, 255, 255)  # clear, over white


@pytest.mark.shared_data
def test_real_scenes_and_photographs_without_any_table(shared_data):
    assert len(ImageFolder(path=str(shared_data / "nlvr_dev"), check="none")) == 989
    photos = ImageFolder(path=str(shared_data / "coco_photos"), metadata="photos.csv", check="header")
    assert len(photos) == 243
    assert photos.class_names == ["photos_open", "photos_restricted"]
    assert np.asarray(photos.images([0])[0]).shape[2] == 3


def test_a_source_of_train_and_test_alone_holds_its_validation_rows_out_of_training(tmp_path):
    write(tmp_path, *(f"{split}/{name}/{n}.png" for split in ("train", "test") for name in "ab" for n in range(40)))
    dataset = ImageFolder(path=str(tmp_path), check="none")
    own, found = dataset.table["split"][:], sample_splits(dataset, 160, {"seed": 1, "validation": 0.25, "test": 0.5})
    assert set(zip(own, found)) == {("train", "train"), ("train", "validation"), ("test", "test")}
    assert 8 <= found.count("validation") <= 32
    assert sample_splits(dataset, 160, {"seed": 1, "validation": 0.0, "test": 0.5}) == own
