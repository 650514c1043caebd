"""Images in arrays: every layout gives the same pixels, and what is none is refused."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from vlsae.datasets.image_arrays import ImageArrays
from vlsae.errors import MissingFile, UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
LABELS = np.array([0, 0, 0, 1, 1, 2])


def idx(array: np.ndarray) -> bytes:
    return (
        bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()
    )


def fault(path: Path, **settings) -> str:
    dataset = ImageArrays(path=str(path), **settings)
    with pytest.raises(UserError) as caught:
        dataset.table  # noqa: B018
    return str(caught.value)


def by_id(dataset: ImageArrays) -> dict[str, np.ndarray]:
    return dict(zip(dataset.table["sample_id"], dataset.images(range(len(dataset)))))


FORMS = {
    "colours last": (PIXELS, PIXELS),
    "colours first": (PIXELS.transpose(0, 3, 1, 2), PIXELS),
    "gray": (PIXELS[..., 0], np.repeat(PIXELS[..., :1], 3, axis=3)),
    "one colour": (PIXELS[..., :1], np.repeat(PIXELS[..., :1], 3, axis=3)),
}


@pytest.mark.parametrize("form", list(FORMS))
def test_every_form_of_an_array_gives_rgb(tmp_path, form):
    array, expected = FORMS[form]
    np.savez(tmp_path / "all.npz", images=array, labels=LABELS)
    dataset = ImageArrays(path=str(tmp_path / "all.npz"))
    assert dataset.table["sample_id"][:] == ["0", "3", "5", "1", "4", "2"]  # each class in turn
    assert [row["class"] for row in dataset.table["labels"]] == ["0", "1", "2", "0", "1", "0"]
    assert all(np.array_equal(image, expected[int(name)]) for name, image in by_id(dataset).items())


def test_idx_files_and_numpys_are_read_alike_with_their_splits(tmp_path):
    for name in ("idx", "npy"):
        (tmp_path / name).mkdir()
    for split, word in (("train", "train"), ("test", "t10k")):
        data = idx(PIXELS[..., 0])
        (tmp_path / "idx" / f"{word}-images-idx3-ubyte.gz").write_bytes(gzip.compress(data))
        (tmp_path / "idx" / f"{word}-labels-idx1-ubyte").write_bytes(idx(LABELS))
        np.save(tmp_path / "npy" / f"x_{split}.npy", PIXELS[..., 0])
        np.save(tmp_path / "npy" / f"y_{split}.npy", LABELS)
    one, two = (ImageArrays(path=str(tmp_path / name), classes=["zero", "one", "two"]) for name in ("idx", "npy"))
    assert len(one) == len(two) == 12
    assert set(one.table["split"]) == {"train", "test"}
    first, second = by_id(one), by_id(two)
    assert set(first) == set(second)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert {row["class"] for row in two.table["labels"]} == {"zero", "one", "two"}


def test_classes_and_templates(tmp_path):
    np.savez(tmp_path / "all.npz", x=PIXELS, y=LABELS)
    path = tmp_path / "all.npz"
    dataset = ImageArrays(path=str(path), classes=["polar_bear", "cat", "dog"], template="a {class}")
    assert dataset.table["texts"][0] == ["a polar bear"]
    assert ImageArrays(path=str(path)).digest() != dataset.digest()
    assert "has the label 2, and dataset.classes names 2" in fault(path, classes=["a", "b"])
    assert "names no label" in fault(path, template="a photo")
    np.savez(path, x=PIXELS)
    assert ImageArrays(path=str(path)).table["labels"][0] == {"class": None}


def test_what_is_no_array_of_images_is_refused(tmp_path):
    path = tmp_path / "all.npz"
    for arrays, words in (
        ({"x": PIXELS.astype(np.float32)}, "float32, whose range is unknown"),
        ({"x": PIXELS[:, :, :, :2]}, "have the shape (6, 4, 5, 2)"),
        ({"x": PIXELS, "y": LABELS[:5]}, "6 images and labels of shape (5,)"),
        ({"numbers": PIXELS}, "none goes by a name of images"),
        ({"x": np.array([{}], dtype=object)}, "cannot be read"),
    ):
        np.savez(path, **arrays)
        assert words in fault(path)
    path.write_bytes(b"PK nothing")
    assert "cannot be read" in fault(path)
    (tmp_path / "images-idx3-ubyte").write_bytes(idx(PIXELS[..., 0])[:-1])
    path.unlink()
    assert "holds 119 numbers" in fault(tmp_path)
    (tmp_path / "images-idx3-ubyte").write_bytes(b"no idx")
    assert "no IDX file" in fault(tmp_path)
    (tmp_path / "rows.txt").write_text("a")
    assert "no IDX, NPZ or NPY" in fault(tmp_path / "rows.txt")
    with pytest.raises(MissingFile):
        len(ImageArrays(path=str(tmp_path / "none")))


@pytest.mark.shared_data
def test_real_digits(shared_data):
    dataset = ImageArrays(path=str(shared_data / "mnist_pair"), template="the digit {class}")
    assert len(dataset) == 10_000
    assert {row["class"] for row in dataset.table["labels"][:10]} == set("0123456789")
    row = dataset.table["sample_id"][:].index("0")
    assert dataset.table["texts"][row] == ["the digit 7"]
    assert dataset.images([row]).shape == (1, 28, 28, 3)
    assert "split" not in dataset.table.column_names
