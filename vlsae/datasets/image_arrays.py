"""Images that lie as numbers in arrays: MNIST's IDX files, and NumPy's NPZ and NPY."""

from __future__ import annotations

import gzip
import hashlib
import json
import zipfile
import zlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlsae.datasets.base import Dataset
from vlsae.datasets.label_values import label_struct
from vlsae.datasets.layout import in_turn
from vlsae.datasets.templates import fields_of, filled
from vlsae.errors import MissingFile, UserError

if TYPE_CHECKING:
    import datasets as hf

#: What arrays of images and of labels go by, before or after the name of a split.
IMAGES, LABELS = ("images", "image", "data", "x"), ("labels", "label", "targets", "y")

#: What splits go by in the names of arrays; MNIST calls its test images t10k.
SPLITS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation"}
SPLITS |= {"dev": "validation", "test": "test", "t10k": "test"}

#: Bytes of an IDX file's numbers: unsigned bytes, the only kind that holds pixels or small labels.
UNSIGNED = 0x08


class ImageArrays(Dataset):
    """Images and labels in arrays: a folder of IDX files (``.gz`` or plain), an ``.npz``, or a folder of ``.npy``.

    Arrays are found by their names (``train-images-idx3-ubyte.gz``, ``x_train``, ``images``, ``labels`` …). Images are
    uint8, ``(n, h, w)``, ``(n, h, w, 1 or 3)`` or ``(n, 1 or 3, h, w)``; labels are one number or word an image, and
    ``classes`` gives the numbers names (``labels.class``). ``template`` makes a text of them, such as
    ``"a photo of a {class}"``. Rows come in turn from each split and class, so that a limit leaves some of each.
    """

    def __init__(self, *, path: str, classes: list[str] | None = None, template: str | None = None) -> None:
        self.path = Path(path).expanduser()
        self.classes, self.template = classes, template

    @property
    def has_images(self) -> bool:
        """Whether samples carry an image: always."""
        return True

    @cached_property
    def _parts(self) -> list[tuple[str | None, np.ndarray, list[Any] | None]]:
        """Return each split's images ``(n, h, w, 3)`` and labels; a split that stands alone has no name."""
        arrays = _read(self.path)
        images = {split: array for name, array in arrays.items() if (split := _role(name, IMAGES)) is not None}
        labels = {split: array for name, array in arrays.items() if (split := _role(name, LABELS)) is not None}
        if not images:
            raise UserError(
                f"{self.path} holds {', '.join(arrays) or 'no array'}; none goes by a name of images.",
                f"Name the arrays {', '.join(IMAGES)}, alone or with a split (x_train, images_test).",
            )
        parts = []
        for split, array in images.items():
            pixels = _rgb(array, f"{self.path.name} {split}".strip())
            own = labels.get(split)
            if own is not None and (own.ndim != 1 or len(own) != len(pixels)):
                raise UserError(
                    f"{self.path} has {len(pixels)} images and labels of shape {own.shape} ({split or 'all'})."
                )
            parts.append((split or None, pixels, None if own is None else own.tolist()))
        return parts if len(parts) > 1 else [(None, *parts[0][1:])]

    @cached_property
    def _order(self) -> np.ndarray:
        return np.asarray(in_turn([(split, name) for split, _, name in self._rows]), dtype=np.int64)

    @cached_property
    def _rows(self) -> list[tuple[str | None, int, str | None]]:
        """Return split, number within it, and class of each row, in the order of the arrays."""
        return [
            (split, number, None if labels is None else self._class(labels[number]))
            for split, pixels, labels in self._parts
            for number in range(len(pixels))
        ]

    def _class(self, label: Any) -> str:
        if self.classes is None:
            return str(label)
        if not isinstance(label, int) or not 0 <= label < len(self.classes):
            raise UserError(
                f"{self.path} has the label {label!r}, and dataset.classes names {len(self.classes)}.",
                "Name every class, in the order of their numbers.",
            )
        return self.classes[label]

    @cached_property
    def table(self) -> hf.Dataset:
        """Every column but the pixels, one row an image."""
        import datasets as hf
        import pyarrow as pa
        from datasets.table import InMemoryTable

        rows = [self._rows[number] for number in self._order]
        names = [name for _, _, name in rows]
        texts: list[list[str]] = [[] for _ in rows]
        if self.template is not None:
            fields_of(self.template, ["class"] if any(names) else [])
            texts = [[filled(self.template, {"class": name})] for name in names]
        ids = [f"{split}/{number}" if split else str(number) for split, number, _ in rows]
        columns: dict[str, Any] = {
            "sample_id": ids,
            "texts": pa.array(texts, pa.list_(pa.string())),
            "labels": label_struct({"class": names}),
            "source": [f"{self.path.name}/{identifier}" for identifier in ids],
            "group": ids,
        }
        if rows[0][0] is not None:
            columns["split"] = [split for split, _, _ in rows]
        return hf.Dataset(InMemoryTable(pa.table(columns)))

    def images(self, indices: Sequence[int]) -> np.ndarray:
        """Return the images of some rows, ``(n, h, w, 3)`` uint8."""
        starts = np.cumsum([0, *(len(pixels) for _, pixels, _ in self._parts)])
        rows = self._order[np.asarray(indices, dtype=np.int64)]
        owners = np.searchsorted(starts, rows, side="right") - 1
        return np.stack([self._parts[owner][1][row - starts[owner]] for owner, row in zip(owners, rows)])

    def digest(self) -> str:
        """Return the SHA-256 over the arrays' files and the settings."""
        from vlsae.runs import content_digest

        files = sorted(_files(self.path))
        content = [[file.name, content_digest(file)] for file in files]
        return hashlib.sha256(json.dumps([content, self.classes, self.template]).encode()).hexdigest()


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise MissingFile(f"There is no dataset folder or file {path}.", "Name one that exists: dataset.path=…")
    if path.is_file():
        return [path]
    found = [file for file in path.iterdir() if file.suffix in (".npz", ".npy") or "idx" in file.name]
    return [file for file in found if file.is_file()]


def _read(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file or a folder by name."""
    arrays: dict[str, np.ndarray] = {}
    for file in sorted(_files(path)):
        try:
            if file.suffix == ".npz":
                with np.load(file, allow_pickle=False) as content:
                    arrays |= {name: content[name] for name in content.files}
            elif file.suffix == ".npy":
                arrays[file.stem] = np.load(file, allow_pickle=False)
            elif "idx" in file.name:
                arrays[file.name] = _read_idx(file)
            else:
                raise UserError(
                    f"{file.name} is no IDX, NPZ or NPY file.", "Pictures are read by dataset=image_folder."
                )
        except UserError:
            raise
        except (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile) as error:
            raise UserError(
                f"{file} cannot be read: {error}.", "Arrays of objects are not read; copy damaged ones again."
            ) from error
    return arrays


def _read_idx(file: Path) -> np.ndarray:
    """Return the array of an IDX file: two zero bytes, type, number of axes, their lengths big-endian, the numbers."""
    data = file.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != UNSIGNED:
        raise UserError(f"{file.name} is no IDX file of bytes.", "Copy or download it again.")
    shape = tuple(int(length) for length in np.frombuffer(data, ">u4", data[3], 4))
    start = 4 + 4 * data[3]
    if len(data) - start != int(np.prod(shape, dtype=np.int64)):
        raise UserError(f"{file.name} says {shape} and holds {len(data) - start:,} numbers.", "Copy it again.")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _role(name: str, roles: Sequence[str]) -> str | None:
    """Return the split (or an empty text) of an array whose name is one of the roles; None for another array."""
    words = name.lower().replace("-", "_").replace(".", "_").split("_")
    if not any(role in words for role in roles):
        return None
    return next((SPLITS[word] for word in words if word in SPLITS), "")


def _rgb(array: np.ndarray, name: str) -> np.ndarray:
    """Return images as ``(n, h, w, 3)`` uint8."""
    if array.dtype != np.uint8:
        raise UserError(f"{name} images are {array.dtype}, whose range is unknown.", "Store them as uint8, 0 to 255.")
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim == 4 and array.shape[3] not in (1, 3) and array.shape[1] in (1, 3):
        array = array.transpose(0, 2, 3, 1)
    if array.ndim != 4 or array.shape[3] not in (1, 3) or 0 in array.shape:
        raise UserError(
            f"{name} images have the shape {array.shape}.", "Expected (n, h, w), with 1 or 3 colours or none."
        )
    return np.broadcast_to(array, (*array.shape[:3], 3))
