"""The auxiliary autoencoder: contract and properties, beyond the golden numbers."""

from __future__ import annotations

import pytest
import torch

from vlsae.dictionaries import AuxiliaryAutoencoder, from_pretrained
from vlsae.training import build_optimizer


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "vision": torch.randn(16, 10, generator=generator),
        "language": torch.randn(16, 6, generator=generator),
    }


def make(**options) -> AuxiliaryAutoencoder:
    torch.manual_seed(0)
    return AuxiliaryAutoencoder(10, 6, 12, **options)


def test_shapes_and_gradients(batch):
    model = make()
    for stream, x in batch.items():
        code = model.encode(x, stream)
        assert code.shape == (16, 12)
        assert model.decode(code, stream).shape == x.shape
    loss = model.loss(batch)
    torch.testing.assert_close(loss.total, sum(loss.parts.values()))
    loss.total.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_parameter_names():
    names = {name.rpartition(".")[0] for name in make().state_dict()}
    assert names == {"vision_projection", "text_projection", "vision_decoder", "text_decoder"}


@pytest.mark.parametrize(("similarity", "changes"), [("cosine", False), ("dot", True)])
def test_only_dot_products_depend_on_length(batch, similarity, changes):
    model = make(similarity=similarity)
    with torch.no_grad():
        model.vision_projection.bias.zero_()
        model.text_projection.bias.zero_()
    small = model.loss(batch).parts["loss/contrastive"].item()
    large = model.loss({stream: 10 * x for stream, x in batch.items()}).parts["loss/contrastive"].item()
    assert (large != pytest.approx(small, rel=1e-5)) == changes


def test_one_pair_has_no_contrastive_loss(batch):
    loss = make().loss({stream: x[:1] for stream, x in batch.items()})
    assert loss.parts["loss/contrastive"].item() == 0


def test_double_precision_against_finite_differences(batch):
    model = make().double()
    wide = {stream: x[:4].double() for stream, x in batch.items()}
    weight = model.text_projection.weight

    def loss(value):
        return torch.func.functional_call(_Loss(model), {"inner.text_projection.weight": value}, wide)

    assert torch.autograd.gradcheck(loss, (weight,), rtol=1e-5)


class _Loss(torch.nn.Module):
    def __init__(self, inner: AuxiliaryAutoencoder) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, batch):
        return self.inner.loss(batch).total


def test_retrieval_is_reported_in_evaluation_only(batch):
    model = make()
    assert not any(name.startswith("top1") for name in model.loss(batch).parts)
    parts = model.eval().loss(batch).parts
    assert {"top1/image_to_text", "top1/text_to_image"} <= parts.keys()


def test_it_learns_by_adamw_with_weight_decay():
    optimizer = build_optimizer(make(), 5e-5)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.param_groups[0]["weight_decay"] == 0.01


def test_round_trip(tmp_path, batch):
    model = make(similarity="dot", temperature=0.1)
    model.save_pretrained(tmp_path)
    for again in (AuxiliaryAutoencoder.from_pretrained(tmp_path), from_pretrained(tmp_path)):
        assert (again.vision_width, again.language_width, again.width) == (10, 6, 12)
        assert (again.similarity, again.temperature) == ("dot", 0.1)
        assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_wrong_input_is_named(batch):
    model = make()
    with pytest.raises(ValueError, match="similarity"):
        make(similarity="euclidean")
    with pytest.raises(ValueError, match="temperature"):
        make(temperature=0)
    with pytest.raises(ValueError, match=r"x \(vision\) has shape \(16, 6\); \(n, 10\)"):
        model.encode(batch["language"], "vision")
    with pytest.raises(ValueError, match=r"e \(vision\)"):
        model.decode(batch["language"], "vision")
    with pytest.raises(ValueError, match="stream must"):
        model.encode(batch["vision"], "image")
    with pytest.raises(ValueError, match="must map 'vision' and 'language'"):
        model.loss({"vision": batch["vision"]})
    with pytest.raises(ValueError, match="equally many rows"):
        model.loss({**batch, "language": batch["language"][:3]})
    with pytest.raises(ValueError, match=r"x \(vision\) must be a floating-point tensor"):
        model.loss({"vision": [1.0], "language": [1.0]})
    batch["language"][2, 2] = float("nan")
    with pytest.raises(ValueError, match="not finite in language, row 2"):
        model.loss(batch)
