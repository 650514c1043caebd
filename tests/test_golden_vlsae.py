"""VL-SAE, its linear baselines and the auxiliary autoencoder against numbers of the published code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vlsae.dictionaries import SAED, SAES, VLSAE, AuxiliaryAutoencoder, intra_inter_similarity
from vlsae.training import build_optimizer, epoch_factors, fit, train_step
from vlsae.training.step import set_learning_rate

GOLDEN = Path(__file__).parent / "golden" / "vlsae"
STREAMS = {"vision": "v", "language": "t"}
VECTORS = [("small", VLSAE), ("medium", VLSAE), ("large", VLSAE), ("small", SAED), ("small", SAES)]
PREFIX = {VLSAE: "", SAED: "SAE_D/", SAES: "SAE_V/"}
RENAMED = {
    SAED: {
        "vision_encoder": "v_encoder",
        "text_encoder": "t_encoder",
        "vision_decoder": "vision_decoder.0",
        "text_decoder": "text_decoder.0",
    },
    SAES: {"decoder": "decoder.0"},
}


class Golden:
    """The vectors of one model in one file, by our parameter names."""

    def __init__(self, size: str, cls: type) -> None:
        self.file = np.load(GOLDEN / f"sae_{size}.npz")
        self.cls, self.prefix = cls, PREFIX[cls]
        self.k, self.batch_size = int(self.file["meta/K"]), int(self.file["meta/batch_size"])
        self.lr, self.epochs = float(self.file["meta/base_lr"]), int(self.file["meta/num_epochs"])
        self.warmup_epochs = int(self.file["meta/warmup_epochs"])
        self.inputs = {stream: torch.from_numpy(self.file[f"in/x_{m}"]) for stream, m in STREAMS.items()}
        self.scale = max(x.abs().max().item() for x in self.inputs.values())

    def __getitem__(self, key: str) -> torch.Tensor:
        return torch.as_tensor(self.file[self.prefix + key])

    def parameter(self, group: str, name: str) -> torch.Tensor:
        stem, dot, leaf = name.rpartition(".")
        return self[f"{group}/{RENAMED.get(self.cls, {}).get(stem, stem)}{dot}{leaf}"]

    def model(self, dtype: torch.dtype = torch.float32):
        names = [key for key in self.file.files if key.startswith(f"{self.prefix}init/")]
        state = {name.removeprefix(f"{self.prefix}init/"): torch.from_numpy(self.file[name]) for name in names}
        return self.cls.from_author_state(state, self.k).to(dtype)

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        first = step * self.batch_size % len(self.inputs["vision"])
        return {stream: x[first : first + self.batch_size] for stream, x in self.inputs.items()}

    @property
    def steps_per_epoch(self) -> int:
        return len(self.inputs["vision"]) // self.batch_size

    def describe(self, step: int, mask: np.ndarray) -> list[str]:
        return [str(row) for row in mask.nonzero()[0]]


@pytest.fixture(params=VECTORS, ids=lambda p: f"{p[1].__name__}-{p[0]}")
def golden(request) -> Golden:
    return Golden(*request.param)


def test_forward(golden):
    model = golden.model()
    batch = golden.batch(0)
    loss = model.loss(batch)
    for stream, m in STREAMS.items():
        code = model.encode(batch[stream], stream)
        support = golden[f"fwd/support_{m}"]
        assert code.indices.tolist() == support[support >= 0].tolist()
        assert code.offsets.diff().tolist() == golden[f"fwd/l0_{m}"].tolist()
        torch.testing.assert_close(code.to_dense(), golden[f"fwd/h_{m}"], atol=1e-6 * golden.scale, rtol=0)
        decoded = model.decode(code, stream)
        torch.testing.assert_close(decoded, golden[f"fwd/recon_{m}"], atol=1e-6 * golden.scale, rtol=0)
        assert loss.parts[f"loss/{stream}"].item() == pytest.approx(float(golden[f"fwd/loss_{m}"]), rel=1e-6)
        if golden.cls is VLSAE:
            dense = model.activations(batch[stream], stream)
            torch.testing.assert_close(dense, golden[f"fwd/dense_{m}"], atol=1e-6, rtol=0)
    assert loss.total.item() == pytest.approx(float(golden["fwd/loss"]), rel=1e-6)


def test_backward(golden):
    model = golden.model()
    model.loss(golden.batch(0)).total.backward()
    for name, parameter in model.named_parameters():
        expected = golden.parameter("grad", name)
        assert (parameter.grad - expected).abs().max() <= 1e-5 * expected.abs().max(), name


def test_training_by_steps(golden):
    model = golden.model()
    optimizer = build_optimizer(model, golden.lr)
    factors = epoch_factors("reference", golden.epochs, golden.warmup_epochs)
    losses = []
    for step in range(50):
        set_learning_rate(optimizer, golden.lr * factors[step // golden.steps_per_epoch])
        assert optimizer.param_groups[0]["lr"] == pytest.approx(float(golden["train/lrs"][step]), abs=1e-9)
        losses.append(train_step(model, golden.batch(step), optimizer, step).total.item())
        if step + 1 in (5, 50):
            assert_parameters(model, golden, f"train/step{step + 1}")
        if step + 1 == 45:
            before = {name: value.clone() for name, value in model.state_dict().items()}
    np.testing.assert_allclose(losses, golden["train/f32_losses"].numpy(), rtol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_training_by_the_loop(golden):
    model = golden.model()
    result = fit(
        model,
        golden,
        epochs=golden.epochs,
        lr=golden.lr,
        schedule="reference",
        warmup_epochs=golden.warmup_epochs,
    )
    assert result.steps == 50
    assert_parameters(model, golden, "train/step50")


def assert_parameters(model, golden, group):
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), golden.parameter(group, name), atol=5e-6, rtol=0)


@pytest.mark.parametrize("size", ["small", "medium", "large"])
def test_double_precision(size):
    golden = Golden(size, VLSAE)
    model = golden.model(torch.float64)
    batch = golden.batch(0)
    loss = model.loss(batch)
    loss.total.backward()
    assert loss.total.dtype == torch.float64
    assert loss.total.item() == pytest.approx(float(golden["f64/loss"]), rel=1e-9)
    named = dict(model.named_parameters())
    for name, norm in zip(golden.file["f64/param_order"], golden.file["f64/grad_norms"]):
        assert named[str(name)].grad.norm().item() == pytest.approx(float(norm), rel=1e-9)
    codes = {stream: model.encode(batch[stream], stream) for stream in STREAMS}
    sums = [model.decode(codes[stream], stream).sum().item() for stream in STREAMS]
    sums += [codes[stream].values.sum().item() for stream in STREAMS]
    np.testing.assert_allclose(sums, golden.file["f64/recon_sums"], rtol=1e-9)


@pytest.mark.parametrize("size", ["small", "medium", "large"])
def test_double_precision_training(size):
    golden = Golden(size, VLSAE)
    model = golden.model(torch.float64)
    optimizer = build_optimizer(model, golden.lr)
    factors = epoch_factors("reference", golden.epochs, golden.warmup_epochs)
    losses = []
    for step in range(50):
        set_learning_rate(optimizer, golden.lr * factors[step // golden.steps_per_epoch])
        losses.append(train_step(model, golden.batch(step), optimizer, step).total.item())
    np.testing.assert_allclose(losses, golden.file["train/f64_losses"], rtol=1e-9)


@pytest.mark.parametrize("mode", ["reference", "cosine"])
def test_auxiliary_autoencoder(mode):
    file = np.load(GOLDEN / "aux_ae.npz")
    model = AuxiliaryAutoencoder(40, 40, 56, similarity={"reference": "dot", "cosine": "cosine"}[mode])
    names = [name for name, _ in model.named_parameters()]
    model.load_state_dict({name: torch.from_numpy(file[f"init/{name}"]) for name in names})
    batch = {stream: torch.from_numpy(file[f"in/x_{m}"]) for stream, m in STREAMS.items()}
    for stream, m in STREAMS.items():
        code = model.encode(batch[stream], stream)
        torch.testing.assert_close(code, torch.from_numpy(file[f"fwd/e_{m}"]), atol=1e-5, rtol=0)
        decoded = model.decode(code, stream)
        torch.testing.assert_close(decoded, torch.from_numpy(file[f"fwd/recon_{m}"]), atol=1e-5, rtol=0)
    loss = model.loss(batch)
    contrastive = {"reference": "infonce_reference_unnormalised", "cosine": "infonce_cosine"}[mode]
    assert loss.parts["loss/contrastive"].item() == pytest.approx(float(file[f"loss/{contrastive}"]), rel=1e-5)
    assert loss.parts["loss/reconstruction"].item() == pytest.approx(float(file["loss/mse"]), rel=1e-5)
    assert loss.total.item() == pytest.approx(float(file[f"loss/total_{mode}"]), rel=1e-5)
    loss.total.backward()
    for name, parameter in model.named_parameters():
        expected = torch.from_numpy(file[f"grad_{mode}/{name}"])
        assert (parameter.grad - expected).abs().max() <= 1e-4 * expected.abs().max(), name
    optimizer = build_optimizer(model, 5e-5)
    losses = [train_step(model, batch, optimizer, step).total.item() for step in range(5)]
    np.testing.assert_allclose(losses, file[f"train_{mode}/losses"], rtol=1e-5)
    for name, parameter in model.named_parameters():
        expected = torch.from_numpy(file[f"train_{mode}/step5/{name}"])
        torch.testing.assert_close(parameter.detach(), expected, atol=2e-6, rtol=0)


def test_auxiliary_retrieval():
    file = np.load(GOLDEN / "aux_ae.npz")
    model = AuxiliaryAutoencoder(40, 40, 56, similarity="dot").eval()
    names = [name for name, _ in model.named_parameters()]
    model.load_state_dict({name: torch.from_numpy(file[f"init/{name}"]) for name in names})
    batch = {stream: torch.from_numpy(file[f"in/x_{m}"]) for stream, m in STREAMS.items()}
    assert model.loss(batch).parts["top1/image_to_text"].item() == pytest.approx(float(file["retrieval_acc/dot"]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_intra_and_inter_similarity(dtype):
    file = np.load(GOLDEN / "intra_inter.npz")
    images, texts = (torch.from_numpy(file[f"in/{side}"]).to(dtype) for side in ("img", "txt"))
    default = intra_inter_similarity(images, texts)
    assert default.intra == pytest.approx(float(file["default/intra"]), abs=1e-6)
    assert default.inter == pytest.approx(float(file["default/inter_both"]), abs=1e-6)
    np.testing.assert_allclose(default.similarity.numpy(), file["default/sim_matrix"], atol=1e-6)
    reference = intra_inter_similarity(images, texts, mode="reference")
    assert reference.intra == pytest.approx(float(file["reference/intra"]), abs=1e-6)
    assert reference.inter == pytest.approx(float(file["reference/inter_upper"]), abs=1e-6)
    np.testing.assert_allclose(reference.similarity.numpy(), file["reference/sim_matrix"], atol=1e-6)
    np.testing.assert_allclose(reference.similarity.diagonal().numpy(), file["reference/intra_per_neuron"], atol=1e-6)
