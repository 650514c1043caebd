"""Products with k active concepts a row, at the cost of the active ones.

A dictionary's step needs one dense product, that of its encoder. Decoding, both weights' gradients and the codes'
gradients involve active concepts alone: rows gathered and summed, their transpose, and single entries of a product.

Shapes: n rows, d width, h concepts, k active concepts a row.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

#: Share of active concepts above which dense products are faster (benchmarks/dictionary_step.py --paths).
SPARSE_SHARE = 0.25


class Support:
    """Which concepts are active: ``indices (n, k)``, distinct within a row, of ``n_concepts``."""

    def __init__(self, indices: Tensor, n_concepts: int) -> None:
        self.indices, self.n_concepts = indices.contiguous(), n_concepts

    @property
    def n(self) -> int:
        """The number of rows."""
        return self.indices.shape[0]

    @property
    def k(self) -> int:
        """The number of active concepts a row."""
        return self.indices.shape[1]

    @functools.cached_property
    def row_offsets(self) -> Tensor:
        """Where each row begins among all active entries, and the end, ``(n + 1,)``."""
        return torch.arange(0, self.n * self.k + 1, self.k, device=self.indices.device)

    @functools.cached_property
    def by_concept(self) -> tuple[Tensor, Tensor, Tensor]:
        """The entries in the order of their concepts: their places, their rows, and where each concept begins."""
        flat = self.indices.view(-1)
        places = _ascending(flat, self.n_concepts)
        counts = torch.bincount(flat, minlength=self.n_concepts)
        begins = torch.zeros(self.n_concepts, dtype=torch.int64, device=flat.device)
        begins[1:] = counts[:-1].cumsum(0)
        return places, places.div(self.k, rounding_mode="floor"), begins


class Block(NamedTuple):
    """Entries of scores ``(n, h)`` in a rectangle: ``concepts (m,)`` on ``rows (r,)``, on every row where None."""

    concepts: Tensor
    rows: Tensor | None = None

    def of_rows(self, values: Tensor) -> Tensor:
        """Return the rows ``(r, …)`` of ``values (n, …)``."""
        return values if self.rows is None else values.index_select(0, self.rows)

    def of_scores(self, scores: Tensor) -> Tensor:
        """Return the entries ``(r, m)`` of ``scores (n, h)``."""
        return self.of_rows(scores.index_select(1, self.concepts))

    def of_weight(self, weight: Tensor) -> Tensor:
        """Return the concepts' rows ``(m, d)`` of ``weight (h, d)``."""
        return weight.index_select(0, self.concepts)


def weighted_sums(support: Support, values: Tensor, weight: Tensor) -> Tensor:
    """Return ``(n, d)``: each row's active rows of ``weight (h, d)``, weighted by ``values (n, k)`` and summed."""
    flat, offsets = support.indices.view(-1), support.row_offsets[:-1]
    return _bags(weight, flat, offsets, values.reshape(-1))


def transposed_sums(support: Support, values: Tensor, rows: Tensor) -> Tensor:
    """Return ``(h, d)``: of each concept, the ``rows (n, d)`` that it is active on, weighted by ``values (n, k)``."""
    places, own, begins = support.by_concept
    return _bags(rows, own, begins, values.reshape(-1)[places])


def concept_sums(support: Support, values: Tensor) -> Tensor:
    """Return ``(h,)``: of each concept, the sum of its ``values (n, k)``."""
    return values.new_zeros(support.n_concepts).index_add_(0, support.indices.view(-1), values.reshape(-1))


def entries(support: Support, rows: Tensor, weight: Tensor) -> Tensor:
    """Return ``(n, k)``: the active entries of ``rows @ weight.T``, of ``rows (n, d)`` and ``weight (h, d)``."""
    zeros = rows.new_zeros(support.n * support.k)
    pattern = _compressed(support.row_offsets, support.indices.view(-1), zeros, (support.n, support.n_concepts))
    product = torch.sparse.sampled_addmm(pattern, rows.contiguous(), weight.T, beta=0.0)
    return product.values().view(support.n, support.k)


class SelectedProduct(torch.autograd.Function):
    """``values (n, k)``: known entries of ``rows @ weight.T + bias``, with the gradients of all three.

    Whoever chose the support has computed the whole product without a graph; only its active entries get gradients,
    and those of a ``block``, ``block_values (r, m)``, returned beside.
    ``center (d,)`` was taken from all rows before: its gradient needs one row's product, where theirs need n.
    """

    @staticmethod
    def forward(
        ctx: Any,
        support: Support,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor,
        center: Tensor | None,
        values: Tensor,
        block: Block | None = None,
        block_values: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return both kinds of values as they are, now functions of rows, weight, bias and center."""
        ctx.support, ctx.block = support, block
        ctx.save_for_backward(rows, weight)
        return values.view_as(values), None if block_values is None else block_values.view_as(block_values)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor, of_block: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of rows, weight, bias and center."""
        support, (rows, weight) = ctx.support, ctx.saved_tensors
        of_rows = weighted_sums(support, gradient, weight) if ctx.needs_input_grad[1] else None
        of_weight = transposed_sums(support, gradient, rows) if ctx.needs_input_grad[2] else None
        of_bias = concept_sums(support, gradient)
        if of_block is not None:
            block: Block = ctx.block
            of_bias.index_add_(0, block.concepts, of_block.sum(dim=0))
            if of_rows is not None:
                of_rows[slice(None) if block.rows is None else block.rows] += of_block @ block.of_weight(weight)
            if of_weight is not None:
                of_weight.index_add_(0, block.concepts, of_block.T @ block.of_rows(rows))
        of_center = -torch.mv(weight.T, of_bias) if ctx.needs_input_grad[4] else None
        return None, of_rows, of_weight, of_bias, of_center, None, None, None


class SelectedCosine(torch.autograd.Function):
    """``values (n, k)``: known cosines of unit ``rows (n, d)`` and ``weight (h, d)``, with the gradients of both.

    ``norms (h,)`` are the lengths of the weight's rows. The gradient of a direction has no part along it:
    ``Σ gradient · cosine`` over the rows a concept is active on, found without a pass over weights.
    """

    @staticmethod
    def forward(ctx: Any, support: Support, rows: Tensor, weight: Tensor, norms: Tensor, values: Tensor) -> Tensor:
        """Return the values as they are, now a function of rows and weight."""
        ctx.support = support
        ctx.save_for_backward(rows, weight, norms, values)
        return values.view_as(values)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of rows and weight."""
        support, (rows, weight, norms, values) = ctx.support, ctx.saved_tensors
        scale = norms.reciprocal()
        scaled = gradient * scale[support.indices]
        of_rows = weighted_sums(support, scaled, weight) if ctx.needs_input_grad[1] else None
        of_weight = None
        if ctx.needs_input_grad[2]:
            along = concept_sums(support, gradient * values) * scale.square()
            of_weight = transposed_sums(support, scaled, rows).addcmul_(weight, along[:, None], value=-1)
        return None, of_rows, of_weight, None, None


class SparseDecoding(torch.autograd.Function):
    """``(n, d)``: the sum of the active rows of ``weight (h, d)``, each times its value, ``values (n, k)``.

    ``unit``: the rows of ``weight`` have length 1 and are to keep it, so that its gradient loses the part along them.
    Beside it the block's rows of ``weight``, ``(m, d)``, for other uses: their gradient joins the decoding's without a
    second one of the size of ``weight``, and loses the part along them too.
    """

    @staticmethod
    def forward(
        ctx: Any, support: Support, values: Tensor, weight: Tensor, unit: bool = False, block: Block | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the decoded rows, and the rows of the weight that are asked for."""
        ctx.support, ctx.unit, ctx.block = support, unit, block
        ctx.save_for_backward(values, weight)
        return weighted_sums(support, values, weight), None if block is None else block.of_weight(weight)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor, of_block: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of values and weight."""
        support, (values, weight) = ctx.support, ctx.saved_tensors
        gradient = gradient.contiguous()
        of_values = entries(support, gradient, weight) if ctx.needs_input_grad[1] or ctx.unit else None
        of_weight = None
        if ctx.needs_input_grad[2]:
            of_weight = transposed_sums(support, values, gradient)
            if of_block is not None:
                of_weight.index_add_(0, ctx.block.concepts, of_block)
            if ctx.unit:
                along = concept_sums(support, values * of_values)
                if of_block is not None:
                    along.index_add_(0, ctx.block.concepts, torch.linalg.vecdot(of_block, ctx.block.of_weight(weight)))
                of_weight.addcmul_(weight, along[:, None], value=-1)
        return None, of_values, of_weight, None, None


class SquaredError(torch.autograd.Function):
    """``‖target − code @ columns‖²`` of ``target (n, d)``, ``code (n, m)`` and ``columns (m, d)``, a scalar.

    The gradients of code and columns need the error alone, which is kept; none of its multiples is formed.
    """

    @staticmethod
    def forward(ctx: Any, target: Tensor, code: Tensor, columns: Tensor) -> Tensor:
        """Return the sum of squares; the target is a constant."""
        error = torch.addmm(target, code, columns, alpha=-1)
        ctx.save_for_backward(error, code, columns)
        flat = error.view(-1)
        return flat @ flat

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of code and columns."""
        error, code, columns = ctx.saved_tensors
        factor = -2 * gradient
        return None, (error @ columns.T).mul_(factor), (code.T @ error).mul_(factor)


def concept_major(layer: nn.Linear) -> nn.Linear:
    """Lay a decoder's ``weight (d, h)`` out in memory concept by concept, so that a concept's row is read at once."""
    layer.weight = nn.Parameter(layer.weight.detach().T.contiguous().T)
    return layer


def pays(n_concepts: int, k: int, weight: Tensor) -> bool:
    """Tell whether sparse products serve: on a CPU, in full precision, for a small share of the concepts."""
    full = weight.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
    return weight.device.type == "cpu" and full and k < SPARSE_SHARE * n_concepts


def _ascending(concepts: Tensor, n_concepts: int) -> Tensor:
    """Return the order that sorts concepts, equal ones as they come."""
    if concepts.device.type != "cpu" or n_concepts > 1 << 16:
        return concepts.argsort(stable=True)
    # NumPy sorts 16-bit integers digit by digit, several times faster than by comparing.
    return torch.from_numpy(concepts.numpy().astype(np.uint16).argsort(kind="stable"))


def _bags(table: Tensor, indices: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    return torch.embedding_bag(table, indices, offsets, False, 0, False, weights.contiguous())[0]


def _compressed(offsets: Tensor, indices: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():
        # That the layout is in beta is told once a process, to whoever cannot do anything about it.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(offsets, indices, values, shape, check_invariants=False)
