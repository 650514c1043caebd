"""Vision transformers of three libraries: every site is what the library itself gives, and faults say what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_clip import ALL_TOKENS, hooked, pictures, write_clip

from vlsae.errors import MissingFile, UserError
from vlsae.models import CLIP, TokenSelection
from vlsae.models.vit import ViT
from vlsae.testing import check

LAYERS = 3


def tiny_vision(family: str):
    """A tiny random vision model of transformers."""
    import transformers as tr

    sizes = {"hidden_size": 24, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": 32}
    image = {"image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    return {
        "vit": lambda: tr.ViTModel(tr.ViTConfig(**sizes, **image)),
        "deit": lambda: tr.DeiTModel(tr.DeiTConfig(**sizes, **image)),
        "dinov2": lambda: tr.Dinov2Model(tr.Dinov2Config(**sizes, **image, mlp_ratio=2)),
        "dinov2_registers": lambda: tr.Dinov2WithRegistersModel(
            tr.Dinov2WithRegistersConfig(**sizes, **image, mlp_ratio=2, num_register_tokens=4)
        ),
        "siglip": lambda: tr.SiglipVisionModel(tr.SiglipVisionConfig(**sizes, **image)),
        "clip": lambda: tr.CLIPModel(
            tr.CLIPConfig(
                text_config={**sizes, "vocab_size": 99, "eos_token_id": 98},
                vision_config={**sizes, **image},
                projection_dim=16,
            )
        ),
    }[family]()


#: How many positions stand in front of the patches, and whether one of them is a class token.
FAMILIES = {
    "vit": (1, 0),
    "deit": (2, 0),
    "dinov2": (1, 0),
    "dinov2_registers": (5, 0),
    "siglip": (0, None),
    "clip": (1, 0),
}


def write_vision(folder: Path, family: str) -> Path:
    from transformers import ViTImageProcessor

    model = tiny_vision(family)
    model.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    ViTImageProcessor(size=size, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root, written = tmp_path_factory.mktemp("vision"), {}

    def folder(family: str) -> Path:
        if family not in written:
            written[family] = write_vision(root / family, family)
        return written[family]

    return folder


@pytest.mark.parametrize("family", list(FAMILIES))
def test_hidden_states_of_transformers_are_the_librarys_own(folders, family):
    model = ViT(checkpoint=f"path:{folders(family)}")
    tower = model.model.tower
    assert (tower.prefix, tower.class_index) == FAMILIES[family]
    assert [site for site in model.sites() if site.count(".") == 1] == [
        *(f"vision.{n}" for n in range(LAYERS + 1)),
        "vision.embedding",
    ]
    assert {f"vision.1.{part}" for part in ("attention", "mlp")} <= set(model.sites())
    batch = model.prepare(pictures())
    assert torch.allclose(batch.vision[0, 0, 0, 0], torch.tensor((pictures()[0, 0, 0, 0] / 255 - 0.5) / 0.2).float())
    original = tiny_vision(family).eval()
    original = original.vision_model if family == "clip" else original
    with torch.no_grad():
        output = original(pixel_values=batch.vision, output_hidden_states=True)
    sites = [f"vision.{number}" for number in range(LAYERS + 1)]
    found = model.represent(batch, [*sites, "vision.embedding"], ALL_TOKENS)
    for number, site in enumerate(sites):
        rows = found[site]
        expected = output.hidden_states[number]
        if number == LAYERS:  # what the library calls the last hidden state may be after the final norm
            seen: list[torch.Tensor] = []
            path = (
                model.sites()[site].module.removeprefix("vision_model.")
                if family == "clip"
                else model.sites()[site].module
            )
            with torch.no_grad(), hooked(original, path, seen):
                original(pixel_values=batch.vision)
            expected = seen[0]
        torch.testing.assert_close(rows.values, expected.flatten(0, 1))
    torch.testing.assert_close(found["vision.embedding"].values, output.pooler_output)
    default = model.represent(batch, ["vision.2"])["vision.2"].values
    hidden = output.hidden_states[2]
    torch.testing.assert_close(default, hidden[:, 0] if tower.class_index == 0 else hidden.mean(1))
    content = model.represent(batch, ["vision.2"], TokenSelection("tokens"))["vision.2"]
    assert len(content.values) == 3 * 16
    assert int(content.position.min()) == tower.prefix


TIMM = {"test_vit": (1, 0), "test_vit2": (1, None), "test_vit3": (1, None)}


@pytest.mark.parametrize("name", list(TIMM))
@pytest.mark.parametrize("form", ["folder", "file"])
def test_hidden_states_of_timm_are_the_librarys_own(tmp_path, name, form):
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    original = timm.create_model(name, pretrained=False, num_classes=7).eval()
    if form == "folder":
        tmp_path.joinpath("config.json").write_text(
            json.dumps({"architecture": name, "num_classes": 7, "pretrained_cfg": original.pretrained_cfg}, default=str)
        )
        save_file(original.state_dict(), tmp_path / "model.safetensors")
        model = ViT(checkpoint=f"path:{tmp_path}")
    else:
        torch.save(
            {"state_dict": {f"module.{k}": v for k, v in original.state_dict().items()}}, tmp_path / "weights.pth"
        )
        model = ViT(checkpoint=f"path:{tmp_path / 'weights.pth'}", architecture=name)
    tower = model.model.tower
    assert (tower.prefix, tower.class_index) == TIMM[name]
    batch = model.prepare(pictures(size=160))
    with torch.no_grad():
        blocks = len(original.blocks)
        layers = original.forward_intermediates(
            batch.vision, output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
        )
        features = original.forward_head(original.forward_features(batch.vision), pre_logits=True)
    found = model.represent(batch, [*(f"vision.{n}" for n in range(1, blocks + 1)), "vision.embedding"], ALL_TOKENS)
    for number, (patches, prefix) in enumerate(layers, 1):
        expected = torch.cat([prefix, patches], dim=1)
        torch.testing.assert_close(found[f"vision.{number}"].values, expected.flatten(0, 1))
    torch.testing.assert_close(found["vision.embedding"].values, features)


def test_a_convolutional_model_of_timm_has_its_embedding_alone(tmp_path):
    import timm
    from safetensors.torch import save_file

    original = timm.create_model("test_resnet", pretrained=False).eval()
    save_file(original.state_dict(), tmp_path / "weights.safetensors")
    model = ViT(checkpoint=f"path:{tmp_path / 'weights.safetensors'}", architecture="test_resnet")
    assert list(model.sites()) == ["vision.embedding"]
    batch = model.prepare(pictures(size=160))
    with torch.no_grad():
        expected = original.forward_head(original.forward_features(batch.vision), pre_logits=True)
    torch.testing.assert_close(model.represent(batch, ["vision.embedding"])["vision.embedding"].values, expected)


def test_the_tower_of_a_clip_is_read_alone(tmp_path):
    folder = write_clip(tmp_path / "clip")
    model, whole = ViT(checkpoint=f"path:{folder}"), CLIP(checkpoint=f"path:{folder}")
    assert set(model.sites()) == {site for site in whole.sites() if site.startswith("vision.")}
    images = pictures()
    sites = ["vision.2", "vision.embedding"]
    found, expected = model.represent(model.prepare(images), sites), whole.represent(whole.prepare(images), sites)
    assert all(torch.equal(found[site].values, expected[site].values) for site in sites)
    with pytest.raises(UserError, match=r"no site 'language\.1'"):
        model.represent(model.prepare(images), ["language.1"])


def test_an_edit_reaches_what_lies_behind_it(folders):
    model = ViT(checkpoint=f"path:{folders('dinov2')}")
    batch = model.prepare(pictures())
    before = model.represent(batch, ["vision.1", "vision.embedding"])
    with model.edit("vision.1", lambda hidden: hidden * 0 + 1):
        after = model.represent(batch, ["vision.2", "vision.embedding"])
    assert not torch.allclose(after["vision.embedding"].values, before["vision.embedding"].values)
    again = model.represent(batch, ["vision.embedding"])["vision.embedding"].values
    assert torch.equal(again, before["vision.embedding"].values)
    with pytest.raises(UserError, match="nothing runs behind"):
        model.edit("vision.embedding", lambda hidden: hidden)


def test_the_contract_holds_for_each_library(folders):
    check(ViT, checkpoint=f"path:{folders('dinov2_registers')}")
    check(ViT, checkpoint=f"path:{folders('siglip')}")


def test_a_pooler_without_weights_is_not_made_up(tmp_path, folders):
    from safetensors.torch import load_file, save_file

    folder = write_vision(tmp_path / "vit", "vit")
    tensors = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if "pooler" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    model = ViT(checkpoint=f"path:{folder}")
    batch = model.prepare(pictures())
    original = tiny_vision("vit").eval()
    with torch.no_grad():
        expected = original(pixel_values=batch.vision).last_hidden_state[:, 0]
    torch.testing.assert_close(model.represent(batch, ["vision.embedding"])["vision.embedding"].values, expected)
    assert ViT(checkpoint=f"path:{folders('vit')}").digest() != model.digest()
    lost = {name: value for name, value in kept.items() if "layers.1" not in name and "layer.1" not in name}
    save_file(lost, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="do not fit its configuration"):
        ViT(checkpoint=f"path:{folder}").load()


def test_faults_say_what_to_do(tmp_path, folders):
    def use(settings) -> None:
        model = ViT(**settings)
        model.sites()
        model.load()
        model.prepare(pictures())

    def fault(**settings) -> str:
        with pytest.raises(UserError) as caught:
            use(settings)
        return str(caught.value)

    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"nothing")
    assert "model=torch_module" in fault(checkpoint=f"path:{weights}")
    assert "test_vit" in fault(checkpoint=f"path:{weights}", architecture="test_vti")
    assert "is damaged" in fault(checkpoint=f"path:{weights}", architecture="test_vit")
    assert "says its own" in fault(checkpoint=f"path:{folders('vit')}", architecture="test_vit")
    with pytest.raises(UserError, match="Did you mean bfloat16"):
        ViT(checkpoint=f"path:{folders('vit')}").load("cpu", "bfloat")
    with pytest.raises(MissingFile):
        ViT(checkpoint=f"path:{tmp_path / 'none'}").sites()
    (tmp_path / "config.json").write_text('{"model_type": "vit_mae"}')
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    assert "hides patches at random" in fault(checkpoint=f"path:{tmp_path}")
    (tmp_path / "config.json").write_text('{"model_type": "resnet"}')
    assert "no vision transformer" in fault(checkpoint=f"path:{tmp_path}")
    (tmp_path / "config.json").write_text("{}")
    assert "neither timm's architecture" in fault(checkpoint=f"path:{tmp_path}")
    copy = write_vision(tmp_path / "copy", "vit")
    (copy / "preprocessor_config.json").unlink()
    assert "how images are prepared" in fault(checkpoint=f"path:{copy}")
