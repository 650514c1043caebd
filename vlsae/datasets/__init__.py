"""Datasets: a table of everything but the pixels, and the pixels on demand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlsae import lazy

if TYPE_CHECKING:
    from vlsae.datasets.base import Dataset, Skipped, split_of
    from vlsae.datasets.captions import Captions
    from vlsae.datasets.coco import Coco
    from vlsae.datasets.hub import Hub
    from vlsae.datasets.image_folder import ImageFolder
    from vlsae.datasets.shapes import Shapes
    from vlsae.datasets.text import Text

__all__ = ["Captions", "Coco", "Dataset", "Hub", "ImageFolder", "Shapes", "Skipped", "Text", "split_of"]

_HOMES = {
    "Captions": "captions",
    "Coco": "coco",
    "Dataset": "base",
    "Hub": "hub",
    "ImageFolder": "image_folder",
    "Shapes": "shapes",
    "Skipped": "base",
    "Text": "text",
    "split_of": "base",
}

__getattr__ = lazy.exports(__name__, _HOMES)
