"""Adam over matrices that lie transposed in memory: PyTorch's numbers, and no copy."""

from __future__ import annotations

import pytest
import torch

from vlsae.training.adam import Adam


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.999)])
def test_the_numbers_are_those_of_torch_whatever_the_layout(betas):
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(6, 4, generator=generator), torch.randn(6, generator=generator)]
    gradients = [[torch.randn(p.shape, generator=generator) for p in start] for _ in range(4)]
    ends = []
    for make, transposed in ((Adam, True), (Adam, False), (torch.optim.Adam, True)):
        parameters = [
            torch.nn.Parameter(p.T.contiguous().T if transposed and p.ndim == 2 else p.clone()) for p in start
        ]
        optimizer = make([{"params": parameters}], lr=0.1, betas=betas)
        for several in gradients:
            for parameter, gradient in zip(parameters, several):
                parameter.grad = torch.empty_like(parameter).copy_(gradient)
            optimizer.step()
        assert parameters[0].shape == (6, 4)
        assert parameters[0].stride() == ((1, 6) if transposed else (4, 1))
        moments = optimizer.state[parameters[0]]["exp_avg"]
        assert moments.shape == (6, 4)
        assert moments.stride() == parameters[0].stride()
        ends.append(parameters)
    for one, other in zip(ends[0], ends[1]):
        assert torch.equal(one, other)
    for one, other in zip(ends[0], ends[2]):
        torch.testing.assert_close(one, other)
