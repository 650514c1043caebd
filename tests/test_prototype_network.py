"""The prototype network: its four terms, its labels, and the explanation of a class."""

from __future__ import annotations

import numpy as np
import pytest
import stores
import torch
from small_dictionaries import BOTH

from vlsae.dictionaries import PrototypeNetwork, from_pretrained
from vlsae.dictionaries.prototype import prototype_loss
from vlsae.representations import Reader
from vlsae.training import build_optimizer, train_step

D = 6


def batch_of(n=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    centres = 4 * torch.eye(3, D)
    rows = {s: centres[labels] + i + 0.3 * torch.randn(n, D, generator=generator) for i, s in enumerate(BOTH)}
    return {**rows, **{f"labels/{stream}": labels for stream in BOTH}}


def make(**options):
    torch.manual_seed(0)
    network = PrototypeNetwork(D, 6, classes=["a", "b", "c"], latent=5, hidden=16, **options)
    network.initialize(batch_of())
    return network


def test_the_loss_is_the_four_published_terms_of_all_rows():
    network, batch = make(), batch_of()
    total, parts = network.loss(batch)
    x = (torch.cat([batch[stream] for stream in BOTH]) - network.offset) / network.scale
    z = network.to_latent(x)
    expected, terms = prototype_loss(
        z, network.prototypes, network.weight, x, network.from_latent(z), batch["labels/vision"].repeat(2)
    )
    torch.testing.assert_close(total, expected)
    for name, factor in zip(("ce", "ae", "r1", "r2"), (20, 1, 1, 1)):
        torch.testing.assert_close(parts[f"loss/{name}"], factor * terms[name])


def test_each_term_has_a_gradient():
    network = make()
    for name, part in network.loss(batch_of()).parts.items():
        gradients = torch.autograd.grad(part, list(network.parameters()), retain_graph=True, allow_unused=True)
        assert any(one is not None and one.abs().sum() > 0 for one in gradients), name


def test_it_learns_classes_and_prototypes_stay_near_rows():
    found = {}
    for lambdas in ([20, 1, 1, 1], [20, 1, 0, 0]):
        network, batch = make(lambdas=lambdas), batch_of()
        optimizer = build_optimizer(network, 1e-2)
        for step in range(300):
            train_step(network, batch, optimizer, step)
        held = batch_of(seed=1)
        parts = network.eval().loss(held).parts
        assert min(parts["accuracy/vision"], parts["accuracy/language"]) > 0.95
        z = network.to_latent((torch.cat([held[s] for s in BOTH]) - network.offset) / network.scale)
        nearest = (z[:, None] - network.prototypes).square().sum(dim=2).min(dim=0).values.mean()
        found[tuple(lambdas)] = (nearest / z.square().sum(dim=1).mean()).item()
    near, far = found.values()
    assert near < far / 2


def test_codes_are_the_nearest_prototypes_and_logits_sum_their_contributions(tmp_path):
    network, batch = make(initial="rows"), batch_of()
    x = batch["vision"]
    code = network.encode(x, "vision")
    z = network.to_latent((x - network.offset) / network.scale)
    distance = torch.cdist(z, network.prototypes).square()
    assert torch.equal(code.indices, distance.argmin(dim=1))
    contributions = distance[:, :, None] * network.weight[None]
    torch.testing.assert_close(contributions.sum(dim=1), network.logits(x, "vision"), atol=1e-4, rtol=1e-4)
    case = network.from_latent(network.prototypes[code.indices]) * network.scale + network.offset
    torch.testing.assert_close(network.decode(code, "vision"), case)
    order = torch.tensor([3, 1, 0, 5, 4, 2])
    before = network.logits(x, "vision")
    with torch.no_grad():
        network.prototypes.copy_(network.prototypes[order])
        network.weight.copy_(network.weight[order])
    torch.testing.assert_close(network.logits(x, "vision"), before, atol=1e-4, rtol=1e-4)
    network.save_pretrained(tmp_path)
    again = from_pretrained(tmp_path)
    assert again.classes == ["a", "b", "c"]
    assert torch.equal(again.logits(x, "vision"), network.eval().logits(x, "vision"))


def test_batches_without_labels_and_wrong_settings_are_refused():
    network = make()
    with pytest.raises(ValueError, match="labels/vision"):
        network.loss({stream: batch_of()[stream] for stream in BOTH})
    with pytest.raises(ValueError, match="two classes"):
        PrototypeNetwork(D, classes=["a"])
    with pytest.raises(ValueError, match="lambdas"):
        PrototypeNetwork(D, classes=["a", "b"], lambdas=[1.0])


def test_a_reader_hands_each_rows_label(tmp_path):
    store = stores.opened(tmp_path / "store")
    sites = {"vision": "vision.embedding", "language": "language.embedding"}
    sites = {stream: next(s for s in store.sites if s.startswith(stream)) for stream in sites}
    reader = Reader(store, sites, batch_size=7, seed=3).labelled(np.arange(store.n_samples) % 4)
    batch = reader.batch(1)
    assert set(batch) == {"vision", "language", "labels/vision", "labels/language"}
    for stream in ("vision", "language"):
        sample = batch[stream][:, 0].round().long()
        assert torch.equal(batch[f"labels/{stream}"], sample % 4)
    assert set(reader.mapped(lambda x, stream: x).batch(1)) == set(batch)
    with pytest.raises(ValueError, match="labels"):
        reader.labelled(np.zeros(3))
