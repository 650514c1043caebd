"""What every dictionary offers: codes of rows by stream, their decoding, and files.

Shapes: n rows, d width, h concepts, k active concepts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from vlsae.bounds import Range
from vlsae.dictionaries.pretrained import Pretrained
from vlsae.errors import UserError
from vlsae.training.rows import check_finite

STREAMS = ("vision", "language")

#: Concepts for each active one where neither number is given.
CONCEPTS_PER_ACTIVE = 16

#: Types of constructor arguments with their bounds, which configurations are checked against.
Count = Annotated[int, Range(1, None)]
OptionalCount = Annotated[int | None, Range(1, None)]


@dataclass(frozen=True)
class SparseCode:
    """Codes of n rows in compressed sparse row form; within a row the concepts ascend.

    ``offsets (n + 1,)`` and ``indices (nnz,)`` are int64, ``values (nnz,)`` carry gradients.
    """

    offsets: Tensor
    indices: Tensor
    values: Tensor
    n_concepts: int

    @property
    def n_rows(self) -> int:
        """The number of rows."""
        return self.offsets.shape[0] - 1

    @property
    def rows(self) -> Tensor:
        """The row of each value, ``(nnz,)``."""
        return torch.repeat_interleave(self.offsets.diff(), output_size=self.indices.shape[0])

    def to_dense(self) -> Tensor:
        """Return the codes as ``(n, h)``, zero where a concept is silent."""
        dense = self.values.new_zeros(self.n_rows, self.n_concepts)
        return dense.index_put((self.rows, self.indices), self.values)

    @classmethod
    def from_top(cls, indices: Tensor, values: Tensor, n_concepts: int, kept: Tensor | None = None) -> SparseCode:
        """Return the code of ``indices (n, k)`` and ``values (n, k)``; ``kept (n, k)`` leaves out entries."""
        indices, order = indices.sort(dim=1)
        values = values.gather(1, order)
        n, k = indices.shape
        if kept is None:
            offsets = torch.arange(n + 1, device=indices.device) * k
            return cls(offsets, indices.reshape(-1), values.reshape(-1), n_concepts)
        kept = kept.gather(1, order)
        offsets = torch.zeros(n + 1, dtype=torch.int64, device=indices.device)
        offsets[1:] = kept.sum(dim=1).cumsum(0)
        return cls(offsets, indices[kept], values[kept], n_concepts)

    @classmethod
    def from_dense(cls, dense: Tensor) -> SparseCode:
        """Return the code of ``(n, h)``: its entries that are not zero."""
        rows, indices = dense.nonzero(as_tuple=True)
        counts = torch.bincount(rows, minlength=dense.shape[0])
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return cls(offsets, indices, dense[rows, indices], dense.shape[1])


class Dictionary(Pretrained, nn.Module, ABC):
    """A set of concepts that rows of each stream are coded in.

    ``width`` d, ``n_concepts`` h and ``k`` are attributes; ``kind`` names the class in files.
    """

    #: Whether a row has at most k active concepts; else k is how many rows have on average, or are meant to have.
    bounds_k: ClassVar[bool] = True
    not_saved: ClassVar[tuple[str, ...]] = ("expansion",)

    def __init__(
        self, width: int, n_concepts: OptionalCount = None, k: OptionalCount = None, *, expansion: Count = 8
    ) -> None:
        super().__init__()
        self.width = positive("width", width)
        self.n_concepts = positive("n_concepts", expansion * width if n_concepts is None else n_concepts)
        self.k = positive("k", max(1, self.n_concepts // CONCEPTS_PER_ACTIVE) if k is None else k)
        if self.k > self.n_concepts:
            raise UserError(f"k must lie in 1…{self.n_concepts} (n_concepts); got {k}.")

    @abstractmethod
    def encode(self, x: Tensor, stream: str) -> SparseCode:
        """Return the codes of ``x (n, d)``."""

    @abstractmethod
    def activations(self, x: Tensor, stream: str) -> Tensor:
        """Return how strongly ``x (n, d)`` activates each concept before any is left out, ``(n, h)``."""

    @abstractmethod
    def decode(self, code: SparseCode | Tensor, stream: str) -> Tensor:
        """Return the rows ``(n, d)`` that codes stand for; a dense code ``(n, h)`` serves too."""

    def target(self, x: Tensor, stream: str) -> Tensor:
        """Return what ``decode(encode(x))`` approximates, ``(n, d)``: ``x`` itself unless an option rescales it."""
        return self.checked(x, stream)

    def checked(self, x: Tensor, stream: str) -> Tensor:
        """Return ``x (n, d)`` in the dtype and on the device of the parameters.

        Raises ``ValueError`` for an unknown stream, a wrong shape, and rows that are not finite.
        """
        check_stream(stream)
        x = check_rows(x, self.width, "x", stream)
        return x.to(next(self.parameters()))

    def dense(self, code: SparseCode | Tensor, stream: str) -> Tensor:
        """Return a code as ``(n, h)`` in the parameters' dtype.

        Raises ``ValueError`` for an unknown stream, other concepts, and values that are not finite.
        """
        check_stream(stream)
        if not isinstance(code, SparseCode):
            return check_rows(code, self.n_concepts, "code", stream).to(next(self.parameters()))
        if code.n_concepts != self.n_concepts:
            raise UserError(f"code has {code.n_concepts} concepts; this dictionary has {self.n_concepts}.")
        dense = code.to_dense()
        check_finite(dense, stream)
        return dense.to(next(self.parameters()))

    def checked_batch(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a training batch, streams in their fixed order; ``ValueError`` where it is empty or wrong."""
        if not isinstance(batch, Mapping) or not batch:
            raise UserError("A batch must map 'vision', 'language' or both to rows (n, d); it holds no stream.")
        for stream in batch:
            check_stream(stream)
        rows = {stream: self.checked(batch[stream], stream) for stream in STREAMS if stream in batch}
        for stream, x in rows.items():
            if x.shape[0] == 0:
                raise UserError(f"batch[{stream!r}] has no rows; at least one was expected.")
        return rows


def check_stream(stream: str) -> None:
    """Raise ``ValueError`` unless the stream is ``"vision"`` or ``"language"``."""
    if stream not in STREAMS:
        raise UserError(f"stream must be 'vision' or 'language'; got {stream!r}.")


def check_rows(x: Tensor, width: int, name: str, stream: str) -> Tensor:
    """Return ``x``; ``ValueError`` unless it is a finite floating-point tensor of shape ``(n, width)``."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = f"{x.dtype} tensor" if isinstance(x, Tensor) else type(x).__name__
        raise UserError(f"{name} ({stream}) must be a floating-point tensor (n, {width}); got a {kind}.")
    if x.ndim != 2 or x.shape[1] != width:
        raise UserError(f"{name} ({stream}) has shape {tuple(x.shape)}; (n, {width}) was expected.")
    check_finite(x, stream)
    return x


def positive(name: str, value: int) -> int:
    """Return an integer of at least 1; ``ValueError`` otherwise."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise UserError(f"{name} must be an integer of at least 1; got {value!r}.")
    return int(value)


def one_of(name: str, value: str, valid: tuple[str, ...]) -> str:
    """Return an option's value; ``ValueError`` where it is not among the valid ones."""
    if value not in valid:
        raise UserError(f"{name} must be one of {', '.join(valid)}; got {value!r}.")
    return value
