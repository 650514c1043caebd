"""Fused Adam that reads tensors as they lie in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Adam(torch.optim.Adam):
    """torch's fused Adam, the same numbers: a matrix that lies transposed in memory is not copied at each step.

    A decoder ``(d, h)`` is kept concept by concept. PyTorch's kernel makes its gradient contiguous first, which takes
    longer than the step; as ``(h, d)`` it already is.
    """

    def __init__(self, params: Any, lr: float, **options: Any) -> None:
        super().__init__(params, lr=lr, fused=True, **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step."""
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        with self._turned([p for p in parameters if _lies_transposed(p) and _lies_transposed(p.grad)]):
            return super().step(closure)

    @contextmanager
    def _turned(self, parameters: list[nn.Parameter]) -> Iterator[None]:
        """Within the context, show parameters, gradients and moments transposed."""
        self._turn(parameters)
        try:
            yield
        finally:
            self._turn(parameters)

    def _turn(self, parameters: list[nn.Parameter]) -> None:
        for parameter in parameters:
            gradient: Any = parameter.grad
            parameter.grad = None
            parameter.data = parameter.data.T
            parameter.grad = gradient.T
            moments = self.state.get(parameter, {})
            for name, value in moments.items():
                if isinstance(value, Tensor) and value.ndim == 2:
                    moments[name] = value.T


def _lies_transposed(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.ndim == 2 and not tensor.is_contiguous() and tensor.T.is_contiguous()
