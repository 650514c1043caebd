"""An own model and an own dataset in one file: a pair of encoders of handwritten digits and their names."""

from __future__ import annotations

import gzip
import hashlib
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Annotated

import datasets as hf
import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn import functional

from vlsae.bounds import Range
from vlsae.datasets.base import Dataset
from vlsae.errors import UserError, unknown
from vlsae.models.base import Batch, Model, Rows, Site
from vlsae.plugins import register

WIDTH = 8


@register("model", "digit_pair")
class DigitPair(Model):
    """Three residual blocks for pictures and an embedding for digits, trained to agree; read at their joint outputs."""

    def __init__(self, *, path: str) -> None:
        self.path = Path(path)

    @cached_property
    def weights(self) -> dict[str, torch.Tensor]:
        return load_file(self.path)

    def sites(self) -> dict[str, Site]:
        return {"vision.embedding": Site(WIDTH, "img_enc"), "language.embedding": Site(WIDTH, "text_enc")}

    def digest(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def load(self, device: str = "cpu", dtype: str = "float32") -> None:
        """Nothing: the weights are read when they are first needed."""

    def prepare(self, images=None, texts=None) -> Batch:
        pixels = None
        if images is not None:
            grey = np.stack([np.asarray(image)[..., 0] for image in images])
            pixels = torch.from_numpy(grey).float()[:, None] / 255
        digits = None if texts is None else torch.tensor([_digit(text) for text in texts])
        return Batch(pixels, digits)

    @torch.no_grad()
    def represent(self, batch: Batch, sites, tokens=None) -> dict[str, Rows]:
        found = {}
        for site in sites:
            if site not in self.sites():
                raise unknown("site", site, self.sites())
            stream = site.split(".")[0]
            values = self._picture(batch.vision) if stream == "vision" else self._text(batch.language)
            numbers = torch.arange(len(values))
            found[site] = Rows(values, numbers, torch.full_like(numbers, -1))
        return found

    def edit(self, site, function):
        return nullcontext()

    def _picture(self, x: torch.Tensor) -> torch.Tensor:
        for block in ("res_block1", "res_block2", "res_block3"):
            x = self._block(x, f"img_enc.{block}")
        return self._norm(self._linear(x.flatten(1), "img_enc.wi"), "img_enc.ln")

    def _text(self, digits: torch.Tensor) -> torch.Tensor:
        x = self.weights["text_enc.emb.weight"][digits]
        for layer in ("dense1", "dense2"):
            x = torch.relu(self._linear(x, f"text_enc.{layer}"))
        return self._norm(self._linear(x, "text_enc.wt"), "text_enc.ln")

    def _block(self, x: torch.Tensor, name: str) -> torch.Tensor:
        inner = torch.relu(self._batch_norm(self._conv(x, f"{name}.conv1", 2, 1), f"{name}.bn1"))
        inner = self._batch_norm(self._conv(inner, f"{name}.conv2", 1, 1), f"{name}.bn2")
        return torch.relu(inner + self._conv(x, f"{name}.conv3", 2, 0))

    def _conv(self, x: torch.Tensor, name: str, stride: int, padding: int) -> torch.Tensor:
        return functional.conv2d(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], stride, padding)

    def _batch_norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        parts = (self.weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, *parts)

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.layer_norm(x, (WIDTH,), self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])


@register("dataset", "digits")
class Digits(Dataset):
    """Handwritten digits from files in idx format, each with its digit as caption and label."""

    has_images = True

    def __init__(self, *, path: str, n: Annotated[int, Range(1, 10_000)] = 10_000) -> None:
        self.path, self.n = Path(path), n

    @cached_property
    def pixels(self) -> np.ndarray:
        content = gzip.decompress((self.path / "t10k-images-idx3-ubyte.gz").read_bytes())
        return np.frombuffer(content, np.uint8, offset=16).reshape(-1, 28, 28)[: self.n]

    @cached_property
    def table(self) -> hf.Dataset:
        content = gzip.decompress((self.path / "t10k-labels-idx1-ubyte.gz").read_bytes())
        labels = [str(digit) for digit in np.frombuffer(content, np.uint8, offset=8)[: self.n]]
        ids = [f"digit-{number:05d}" for number in range(len(labels))]
        columns = {"sample_id": ids, "texts": [[one] for one in labels], "labels": [{"digit": one} for one in labels]}
        return hf.Dataset.from_dict({**columns, "source": ids, "group": ids})

    def images(self, indices) -> np.ndarray:
        return np.repeat(self.pixels[list(indices)][..., None], 3, axis=3)

    def digest(self) -> str:
        return hashlib.sha256(f"{self.n}".encode() + self.pixels.tobytes()).hexdigest()


def _digit(text: str) -> int:
    found = [letter for letter in text if letter.isdigit()]
    if len(found) != 1:
        raise UserError(f"{text!r} names no single digit.", "This model knows the texts 0 to 9.")
    return int(found[0])
