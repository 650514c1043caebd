"""Several networks of one architecture trained side by side: any module, its parameters stacked. B networks, n rows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap


class ModuleBatch(nn.Module):
    """B modules that ``make()`` gives, each from draws of its own that follow ``seed``.

    The module returns its hidden layers and outputs, each ``(n, w)``, in a tuple; it holds no buffers.
    """

    def __init__(self, networks: int, make: Callable[[], nn.Module], seed: int) -> None:
        super().__init__()
        modules = []
        with torch.random.fork_rng([]):
            for network in range(networks):
                torch.manual_seed(seed * networks + network)
                modules.append(make())
        stacked, _ = stack_module_state(modules)
        self._names = list(stacked)
        self.stacked = nn.ParameterList([nn.Parameter(value.detach().clone()) for value in stacked.values()])
        # Outside of the module's registry: only its form is needed, its parameters are the stacked ones.
        self._form = [copy.deepcopy(modules[0]).to("meta")]

    def layers(self, *inputs: Tensor, own: bool = False) -> list[Tensor]:
        """Return each hidden layer ``(B, n, w)`` and the outputs, of inputs ``(n, …)``, or with ``own (B, n, …)``."""

        def one(parameters: dict[str, Tensor], *given: Tensor) -> Any:
            return functional_call(self._form[0], parameters, given)

        places = (0, *((0 if own else None) for _ in inputs))
        return list(vmap(one, in_dims=places)(dict(zip(self._names, self.stacked)), *inputs))

    def forward(self, *inputs: Tensor, own: bool = False) -> Tensor:
        """Return the outputs ``(B, n, w)``."""
        return self.layers(*inputs, own=own)[-1]
