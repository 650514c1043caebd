"""The prototype loss, beyond the golden numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vlsae.dictionaries import prototype_loss
from vlsae.dictionaries.prototype import prototype_distances


def make_arguments() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(6, 5, generator=generator)
    return {
        "z": z,
        "prototypes": z.clone(),
        "weight": torch.randn(6, 3, generator=generator),
        "x": torch.rand(6, 2, 2, generator=generator),
        "x_decoded": torch.rand(6, 2, 2, generator=generator),
        "labels": torch.tensor([0, 1, 2, 0, 1, 2]),
    }


def test_prototypes_that_are_the_latents():
    arguments = make_arguments()
    total, terms = prototype_loss(**arguments)
    assert terms["r1"].item() == terms["r2"].item() == 0
    assert prototype_distances(arguments["z"], arguments["z"]).diagonal().abs().max() == 0
    torch.testing.assert_close(total, 20 * terms["ce"] + terms["ae"])


def test_order_of_prototypes_does_not_matter():
    arguments = make_arguments()
    order = torch.tensor([3, 1, 0, 5, 4, 2])
    permuted = {**arguments, "prototypes": arguments["prototypes"][order], "weight": arguments["weight"][order]}
    torch.testing.assert_close(prototype_loss(**arguments)[0], prototype_loss(**permuted)[0])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("z", torch.ones(6, 4)),
        ("weight", torch.ones(5, 3)),
        ("x_decoded", torch.ones(6, 2)),
        ("labels", torch.tensor([0, 1, 2, 0, 1, 3])),
        ("lambdas", (1, 1)),
        ("lambdas", (1, 1, float("nan"), 1)),
        ("labels", np.zeros(6, dtype=np.int64)),
        ("x", torch.full((6, 2, 2), float("nan"))),
    ],
)
def test_wrong_input_is_named(name, value):
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        prototype_loss(**{**make_arguments(), name: value})
