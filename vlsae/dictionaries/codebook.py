"""Codebook features: a row is replaced by the mean of the k codes most like it (arXiv 2310.17230, section 2).

Shapes: d width, c codes, k codes of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlsae.bounds import check_finite_number
from vlsae.dictionaries.base import one_of, positive
from vlsae.dictionaries.selection import top_k
from vlsae.errors import UserError
from vlsae.training.rows import check_finite

METRICS = ("cosine", "l2")
GRADIENTS = ("base", "aeloss", "fullaeloss", "vqvae")


def codebook_snap(
    x: Tensor,
    codebook: Tensor,
    k: int,
    metric: str = "cosine",
    gradient: str = "aeloss",
    beta: float = 0.25,
    disabled: Sequence[int] = (),
    refill: bool = True,
) -> tuple[Tensor, Tensor]:
    """Replace each row of ``x (…, d)`` by the mean of its k most similar codes of ``codebook (c, d)``.

    Returns ``(output (…, d), indices (…, k))``, most similar first. Codes in ``disabled`` are replaced by the next
    best; without ``refill`` their index is −1, they add nothing and the sum is still divided by k.
    The backward pass goes straight through to ``x``. ``gradient`` says what else it adds, as in the published code:
    ``base`` gives the codes the output's gradient; ``aeloss`` adds that of the mean squared error to the codes,
    ``fullaeloss`` also ``2 β (x − output)`` to ``x``; ``vqvae`` gives the codes the error's gradient alone.
    Raises ``ValueError`` for wrong shapes, options and code numbers, too large a k, and what is not finite.
    """
    one_of("metric", metric, METRICS)
    one_of("gradient", gradient, GRADIENTS)
    for name, tensor in (("x", x), ("codebook", codebook)):
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise UserError(f"{name} must be a floating-point tensor; got {getattr(tensor, 'dtype', type(tensor))}.")
    check_finite_number("beta", beta)
    if codebook.ndim != 2 or x.ndim < 1 or x.shape[-1] != codebook.shape[1]:
        raise UserError(f"x {tuple(x.shape)} and codebook {tuple(codebook.shape)} must be (…, d) and (c, d).")
    n_codes = codebook.shape[0]
    off = sorted({int(code) for code in disabled})
    if off and not 0 <= off[0] <= off[-1] < n_codes:
        raise UserError(f"disabled must hold codes in 0…{n_codes - 1}; got {off}.")
    usable = n_codes - len(off) if refill else n_codes
    if positive("k", k) > usable:
        raise UserError(f"k must lie in 1…{usable}, the number of codes to choose from; got {k}.")
    rows = x.reshape(-1, x.shape[-1])
    check_finite(rows, "x")
    check_finite(codebook, "codebook")
    indices = _nearest(rows.detach(), codebook.detach(), k, metric, off, refill)
    output = _Snap.apply(rows, codebook, indices, gradient, beta)
    return output.reshape(x.shape), indices.reshape(*x.shape[:-1], k)


def _nearest(x: Tensor, codebook: Tensor, k: int, metric: str, off: list[int], refill: bool) -> Tensor:
    if metric == "cosine":
        # Dividing by the length of x as well would change no row's order.
        scores = x @ F.normalize(codebook, dim=1, eps=1e-12).T
    else:
        scores = -torch.cdist(x, codebook)
    if off and refill:
        scores[:, off] = float("-inf")
    indices = top_k(scores, k)
    if off and not refill:
        return indices.masked_fill(torch.isin(indices, torch.tensor(off, device=indices.device)), -1)
    return indices


class _Snap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, codebook: Tensor, indices: Tensor, gradient: str, beta: float) -> Tensor:
        chosen = codebook[indices.clamp(min=0)] * (indices >= 0).unsqueeze(-1)
        output = chosen.sum(dim=1) / indices.shape[1]
        ctx.save_for_backward(x, output, indices)
        ctx.codes, ctx.gradient, ctx.beta = codebook.shape[0], gradient, beta
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (upstream,) = gradients
        x, output, indices = ctx.saved_tensors
        for_x = upstream
        if ctx.gradient in ("fullaeloss", "vqvae"):
            for_x = for_x + 2 * ctx.beta * (x - output)
        error = 2 / x.shape[0] * (output - x)
        for_rows = {"base": upstream, "vqvae": error}.get(ctx.gradient, upstream + error) / indices.shape[1]
        kept = indices >= 0
        rows = for_rows.unsqueeze(1).expand(*indices.shape, x.shape[1])[kept]
        for_codebook = x.new_zeros(ctx.codes, x.shape[1]).index_add_(0, indices[kept], rows)
        return for_x, for_codebook, None, None, None
