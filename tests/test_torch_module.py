"""Modules of the user's own: layers found in the order in which they run, maps pooled over space, weights exact."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_clip import hooked, pictures

from vlsae import plugins
from vlsae.datasets import ImageFolder
from vlsae.errors import UserError
from vlsae.models import TokenSelection
from vlsae.models.torch_module import TorchModule
from vlsae.testing import check

NETS = Path(__file__).parent / "plugin_files" / "cifar_resnet.py"


@pytest.fixture
def nets():
    with plugins.loaded():
        plugins.load([str(NETS)])
        yield sys.modules["cifar_resnet"]


@pytest.fixture
def weights(nets, tmp_path) -> Path:
    torch.manual_seed(0)
    save_file(nets.resnet8().state_dict(), tmp_path / "resnet8.safetensors")
    return tmp_path / "resnet8.safetensors"


def model_of(weights: Path, **settings) -> TorchModule:
    return TorchModule(
        **{"checkpoint": f"path:{weights}", "architecture": "cifar_resnet.resnet8", "image_size": 32, **settings}
    )


def test_layers_are_the_blocks_and_rows_are_their_maps(nets, weights):
    model = model_of(weights)
    assert {name: (site.width, site.module) for name, site in model.sites().items()} == {
        "vision.0": (16, "layer1.0:input"),
        "vision.1": (16, "layer1.0"),
        "vision.2": (32, "layer2.0"),
        "vision.3": (64, "layer3.0"),
        "vision.embedding": (10, "forward"),
    }
    batch = model.prepare(pictures())
    original, seen = nets.resnet8().eval(), []
    original.load_state_dict(load_file(weights))
    with torch.no_grad(), hooked(original, "layer2.0", seen):
        logits = original(batch.vision)
    rows = model.represent(batch, ["vision.2", "vision.embedding"])
    torch.testing.assert_close(rows["vision.2"].values, seen[0].mean((2, 3)))
    assert torch.equal(rows["vision.embedding"].values, logits)
    pixels = model.represent(batch, ["vision.2"], TokenSelection("tokens"))["vision.2"]
    assert torch.equal(pixels.values, seen[0].flatten(2).transpose(1, 2).flatten(0, 1))
    assert pixels.position[:3].tolist() == [0, 1, 2]
    with pytest.raises(UserError, match="class token"):
        model.represent(batch, ["vision.2"], TokenSelection("cls"))


def test_an_edit_of_a_map_is_the_edit_of_its_pixels(nets, weights):
    model = model_of(weights)
    batch = model.prepare(pictures())
    original = nets.resnet8().eval()
    original.load_state_dict(load_file(weights))
    shift = torch.arange(32.0)
    with torch.no_grad():
        hidden = original.layer2(original.layer1(torch.relu(original.bn1(original.conv1(batch.vision)))))
        expected = original.linear(original.layer3(hidden + shift[:, None, None]).mean((2, 3)))
    with model.edit("vision.2", lambda sequence: sequence + shift):
        found = model.represent(batch, ["vision.embedding"])["vision.embedding"].values
    torch.testing.assert_close(found, expected)


def test_the_contract_and_chosen_layers(nets, weights):
    check(TorchModule, checkpoint=f"path:{weights}", architecture="cifar_resnet.resnet8", image_size=32)
    model = model_of(weights, layers=["layer3", "conv1", "linear"])
    assert [site.module for site in model.sites().values()][1:4] == ["conv1", "layer3", "linear"]
    batch = model.prepare(pictures())
    both = model.represent(batch, ["vision.3", "vision.embedding"])
    assert torch.equal(both["vision.3"].values, both["vision.embedding"].values)
    with model.edit("vision.3", lambda sequence: sequence * 2):
        doubled = model.represent(batch, ["vision.embedding"])["vision.embedding"].values
    assert torch.equal(doubled, both["vision.embedding"].values * 2)


def test_a_model_of_torchvision_by_name(tmp_path):
    import torchvision

    torch.manual_seed(0)
    original = torchvision.models.get_model("squeezenet1_1", weights=None).eval()
    torch.save(original.state_dict(), tmp_path / "net.pth")
    model = TorchModule(checkpoint=f"path:{tmp_path / 'net.pth'}", architecture="squeezenet1_1", image_size=64)
    assert model.sites()["vision.embedding"].width == 1000
    batch = model.prepare(pictures(size=64))
    with torch.no_grad():
        expected = original(batch.vision)
    assert torch.equal(model.represent(batch, ["vision.embedding"])["vision.embedding"].values, expected)


def test_faults_name_what_does_not_fit(nets, weights, tmp_path):
    def use(settings) -> None:
        model = model_of(weights, **settings)
        model.sites()
        model.load()

    def fault(**settings) -> str:
        with pytest.raises(UserError) as caught:
            use(settings)
        return str(caught.value)

    assert "--plugin other.py" in fault(architecture="other.net")
    assert "Did you mean resnet8?" in fault(architecture="cifar_resnet.resnet9")
    assert "gives str, no torch module" in fault(architecture="cifar_resnet.nothing")
    assert "model of torchvision" in fault(architecture="resnet19")
    assert "lacks layer1.1.conv1.weight" in fault(architecture="cifar_resnet.resnet20")
    assert "module for model.layers 'layer4'" in fault(layers=["layer4"])
    assert "There is no weight file" in fault(checkpoint=f"path:{tmp_path / 'none.safetensors'}")
    assert "is no file" in fault(checkpoint="bundled")
    tensors = load_file(weights)
    save_file({**tensors, "linear.weight": torch.zeros(9, 64)}, tmp_path / "other.safetensors")
    assert "linear.weight is (9, 64), not (10, 64)" in fault(checkpoint=f"path:{tmp_path / 'other.safetensors'}")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing at all")
    assert "is damaged" in fault(checkpoint=f"path:{tmp_path / 'broken.safetensors'}")
    torch.save({"weights": print}, tmp_path / "code.pth")
    assert "what else it holds is not run" in fault(checkpoint=f"path:{tmp_path / 'code.pth'}")
    with pytest.raises(UserError, match="one number for each"):
        model_of(weights, mean=[0.5])


def test_the_digest_changes_with_weights_definition_and_settings(nets, weights, tmp_path):
    digest = model_of(weights).digest()
    assert model_of(weights).digest() == digest
    assert model_of(weights, mean=[0.5, 0.5, 0.5]).digest() != digest
    assert model_of(weights, architecture="cifar_resnet.resnet20").digest() != digest
    tensors = load_file(weights)
    save_file({**tensors, "linear.bias": tensors["linear.bias"] + 1}, tmp_path / "more.safetensors")
    assert model_of(tmp_path / "more.safetensors").digest() != digest


@pytest.mark.shared_data
def test_a_real_resnet_is_right_as_often_as_published(nets, shared_data):
    model = TorchModule(
        checkpoint=f"path:{shared_data / 'resnet_cifar10' / 'resnet20.safetensors'}",
        architecture="cifar_resnet.resnet20",
        image_size=32,
    )
    assert [site for site in model.sites() if site != "vision.embedding"] == [f"vision.{n}" for n in range(10)]
    dataset = ImageFolder(path=str(shared_data / "cifar10"), metadata="labels.csv", check="none")
    rows = np.flatnonzero(np.asarray(dataset.table["split"]) == "test")[:300]
    labels = [dataset.table["labels"][int(row)]["class"] for row in rows]
    batch = model.prepare(dataset.images(rows))
    scores = model.represent(batch, ["vision.embedding"])["vision.embedding"].values
    names = dataset.class_names  # the classes of CIFAR-10 are numbered in the order of their names
    right = np.mean([names[number] == label for number, label in zip(scores.argmax(1).tolist(), labels)])
    assert right > 0.88  # 0.917 of all 846
