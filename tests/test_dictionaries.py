"""The contract of every kind of dictionary."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml

from vlsae.dictionaries import (
    SAED,
    SAES,
    VLSAE,
    AuxiliaryAutoencoder,
    BatchTopK,
    Codebook,
    DistanceOneDecoder,
    Gated,
    JumpReLU,
    Matryoshka,
    MatryoshkaK,
    RandomEncoder,
    ReLUL1,
    SharedLinear,
    TopK,
    from_pretrained,
)
from vlsae.dictionaries.selection import top_k
from vlsae.signatures import check_settings, settings_of
from vlsae.training import Objective, build_optimizer, train_step
from vlsae.training.rows import InvalidRows

KINDS = [
    *(VLSAE, DistanceOneDecoder, RandomEncoder, SAED, SAES, SharedLinear, TopK, BatchTopK, Matryoshka, MatryoshkaK),
    *(ReLUL1, Gated, JumpReLU, Codebook),
]
CONFIGS = sorted(path.stem for path in (Path(__file__).parents[1] / "configs" / "objective").glob("*.yaml"))
STREAMS = ("vision", "language")


@pytest.fixture(params=KINDS, ids=lambda cls: cls.__name__)
def dictionary(request):
    torch.manual_seed(1)
    # Few values lie within the published bandwidth of a threshold.
    options = {"bandwidth": 0.5} if request.param is JumpReLU else {}
    return request.param(12, 48, 5, **options)


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {stream: torch.randn(20, 12, generator=generator) for stream in STREAMS}


@pytest.mark.parametrize("stream", STREAMS)
def test_codes(dictionary, batch, stream):
    x = batch[stream]
    code = dictionary.encode(x, stream)
    dense = code.to_dense()
    assert dense.shape == (20, 48)
    assert dictionary.activations(x, stream).shape == (20, 48)
    assert (code.offsets.diff() <= dictionary.k).all() or not dictionary.bounds_k
    assert (code.values > 0).all()
    rows = [code.indices[a:b].tolist() for a, b in zip(code.offsets, code.offsets[1:])]
    assert all(row == sorted(set(row)) for row in rows)
    kept = dense > 0
    if type(dictionary) is not Codebook:  # whose codes have equal shares
        torch.testing.assert_close(dense[kept], dictionary.activations(x, stream)[kept])
    decoded = dictionary.decode(code, stream)
    assert decoded.shape == x.shape
    assert torch.equal(decoded, dictionary.decode(dense, stream))


def test_no_rows(dictionary):
    code = dictionary.encode(torch.zeros(0, 12), "vision")
    assert code.offsets.tolist() == [0]
    assert code.to_dense().shape == (0, 48)
    assert dictionary.decode(code, "vision").shape == (0, 12)
    with pytest.raises(ValueError, match="no rows"):
        dictionary.loss({"vision": torch.zeros(0, 12)})


def test_loss_is_that_of_the_reconstruction(dictionary, batch):
    loss = dictionary.eval().loss(batch)
    for stream, x in batch.items():
        decoded = dictionary.decode(dictionary.encode(x, stream), stream)
        torch.testing.assert_close(loss.parts[f"loss/{stream}"], F.mse_loss(decoded, x))
    torch.testing.assert_close(loss.total, sum(loss.parts.values()))


def test_every_parameter_has_a_gradient(dictionary, batch):
    dictionary.loss(batch).total.backward()
    for name, parameter in dictionary.named_parameters():
        assert not parameter.requires_grad or parameter.grad.abs().sum() > 0, name


def test_one_stream_is_enough(dictionary, batch):
    loss = dictionary.loss({"language": batch["language"]})
    assert "loss/language" in loss.parts
    assert "loss/vision" not in loss.parts


def test_double_precision_throughout(dictionary, batch):
    dictionary.double()
    code = dictionary.encode(batch["vision"], "vision")
    assert code.values.dtype == torch.float64
    assert dictionary.decode(code, "vision").dtype == torch.float64
    assert dictionary.loss(batch).total.dtype == torch.float64
    optimizer = build_optimizer(dictionary, 1e-3)
    train_step(dictionary, batch, optimizer)
    assert all(p.dtype == torch.float64 for p in dictionary.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_round_trip(dictionary, batch, tmp_path, dtype):
    dictionary.to(dtype).save_pretrained(tmp_path / "a")
    again = type(dictionary).from_pretrained(tmp_path / "a")
    whatever = from_pretrained(tmp_path / "a")
    for loaded in (again, whatever):
        assert type(loaded) is type(dictionary)
        assert (loaded.width, loaded.n_concepts, loaded.k) == (12, 48, 5)
        own = dictionary.state_dict()
        assert {name: (v.dtype, v.shape) for name, v in loaded.state_dict().items()} == {
            name: (v.dtype, v.shape) for name, v in own.items()
        }
        assert all(torch.equal(value, own[name]) for name, value in loaded.state_dict().items())
    again.save_pretrained(tmp_path / "b")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_another_kind_is_refused(dictionary, tmp_path):
    dictionary.save_pretrained(tmp_path)
    for cls in {*KINDS, AuxiliaryAutoencoder} - {type(dictionary)}:
        with pytest.raises(ValueError, match="kind"):
            cls.from_pretrained(tmp_path)


def test_every_flipped_byte_of_the_weights_is_found(dictionary, tmp_path):
    dictionary.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 40)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(ValueError):
            type(dictionary).from_pretrained(tmp_path)
    path.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match="damaged"):
        type(dictionary).from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "nothing"}, "kind of dictionary"),
        ({"k": 6}, "does not describe"),
        ({"schema": 99}, "schema"),
        ({"digest": None}, "does not describe"),
    ],
)
def test_changed_configurations_are_refused(dictionary, tmp_path, change, message):
    dictionary.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        from_pretrained(tmp_path)


def test_missing_files_are_named(dictionary, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        from_pretrained(tmp_path)
    dictionary.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize("cls", KINDS)
@pytest.mark.parametrize("k", [0, 49, -1, 2.5, True])
def test_k_outside_its_range_is_refused(cls, k):
    with pytest.raises(ValueError, match="k must"):
        cls(12, 48, k)


def test_wrong_input_is_named(dictionary, batch):
    x = batch["vision"]
    with pytest.raises(ValueError, match=r"stream must be 'vision' or 'language'; got 'audio'"):
        dictionary.encode(x, "audio")
    with pytest.raises(ValueError, match=r"x \(vision\) has shape \(20, 11\); \(n, 12\)"):
        dictionary.activations(x[:, 1:], "vision")
    with pytest.raises(ValueError, match=r"got a torch.int64 tensor"):
        dictionary.encode(x.long(), "vision")
    with pytest.raises(ValueError, match=r"48 concepts|\(n, 48\)"):
        dictionary.decode(torch.zeros(3, 47), "vision")
    for wrong in ({}, {"audio": x}, None):
        with pytest.raises(ValueError, match=r"stream|batch"):
            dictionary.loss(wrong)
    bad = x.clone()
    bad[2, 3], bad[7, 0] = float("nan"), float("inf")
    for call in (dictionary.encode, dictionary.activations):
        with pytest.raises(InvalidRows, match="not finite in vision, rows 2, 7"):
            call(bad, "vision")
    with pytest.raises(InvalidRows, match="not finite in language, rows 2, 7"):
        dictionary.loss({"vision": x, "language": bad})


def test_a_plug_in_saves_and_loads_by_its_kind(tmp_path, batch):
    class Doubled(SAES):
        kind = "doubled"

    Doubled(12, 48, 5).save_pretrained(tmp_path)
    assert type(from_pretrained(tmp_path)) is Doubled


def test_author_names_of_the_baselines():
    own = {name.rpartition(".")[0] for name in SAED(8, 16, 2).state_dict()}
    assert own == {"vision_encoder", "text_encoder", "vision_decoder", "text_decoder"}
    assert set(SAES(8, 16, 2).state_dict()) == {"encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"}
    with pytest.raises(ValueError, match="k"):
        SAES.from_author_state({}, None)


def test_every_dictionary_is_an_objective_that_makes_itself(dictionary):
    assert isinstance(dictionary, Objective)
    assert dictionary.product() is dictionary
    assert dictionary.source == "representations"


def test_linear_dictionaries_keep_only_what_is_above_zero():
    dictionary = SAES(12, 48, 40)
    code = dictionary.encode(torch.randn(20, 12, generator=torch.Generator().manual_seed(0)), "vision")
    assert (code.offsets.diff() < 40).any()


def test_top_k_against_a_stable_sort():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 6, (200, 30), generator=generator).float()
    for k in (1, 7, 29, 30):
        expected = scores.sort(dim=1, descending=True, stable=True).indices[:, :k].sort(dim=1).values
        assert torch.equal(top_k(scores, k).sort(dim=1).values, expected)


def test_importing_the_packages_imports_no_torch():
    code = "import sys, vlsae.dictionaries, vlsae.training; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


#: Objectives whose constructors ask for more than a width, or that have no k; the contract suite builds these.
OTHERWISE = (
    "align",
    "next_token",
    "visual_instruction",
    "word_lstm",
    "prototype",
    "pca",
    "ica",
    "nmf",
    "kmeans",
    "splice",
)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in OTHERWISE])
def test_the_configuration_fits_the_constructor(name):
    path = Path(__file__).parents[1] / "configs" / "objective" / f"{name}.yaml"
    node = yaml.safe_load(path.read_text())
    module, _, cls = node.pop("_target_").rpartition(".")
    own = getattr(importlib.import_module(module), cls)
    check_settings("objective", node, own)
    assert set(node) == set(settings_of(own))
    dictionary = own(width=6, **node)
    assert (dictionary.kind, dictionary.n_concepts, dictionary.k) == (name, 48, 3)


@pytest.mark.parametrize("folder", sorted((Path(__file__).parent / "golden" / "saved").iterdir()), ids=lambda f: f.name)
def test_what_was_saved_under_each_schema_still_loads(folder):
    module = from_pretrained(folder)
    assert folder.name.startswith(module.kind)
    x = torch.tensor([[1.0, -2.0, 3.0, 0.5]])
    for stream, expected in json.loads((folder / "expected.json").read_text()).items():
        decoded = module.decode(module.encode(x, stream), stream)
        torch.testing.assert_close(decoded[0], torch.tensor(expected))


def test_a_code_that_is_not_finite_is_refused_by_its_row(dictionary):
    code = dictionary.encode(torch.randn(3, dictionary.width, generator=torch.Generator().manual_seed(0)), "vision")
    values = code.values.detach().clone()
    values[0] = float("nan")
    with pytest.raises(ValueError, match=f"not finite in vision, row {int(code.rows[0])}"):
        dictionary.decode(replace(code, values=values), "vision")
