"""The contract of every kind of dictionary."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
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
    TopK,
    codebook_snap,
    from_pretrained,
    intra_inter_similarity,
    prototype_loss,
)
from vlsae.dictionaries.prototype import prototype_distances
from vlsae.dictionaries.selection import top_k
from vlsae.dictionaries.top_k import geometric_median
from vlsae.signatures import check_settings, settings_of
from vlsae.training import Objective, build_optimizer, train_step
from vlsae.training.rows import InvalidRows

KINDS = [VLSAE, SAED, SAES, TopK]
STREAMS = ("vision", "language")


@pytest.fixture(params=KINDS, ids=lambda cls: cls.__name__)
def dictionary(request):
    torch.manual_seed(1)
    return request.param(12, 48, 5)


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
    assert (code.offsets.diff() <= dictionary.k).all()
    assert (code.values > 0).all()
    rows = [code.indices[a:b].tolist() for a, b in zip(code.offsets, code.offsets[1:])]
    assert all(row == sorted(set(row)) for row in rows)
    kept = dense > 0
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
    loss = dictionary.loss(batch)
    for stream, x in batch.items():
        decoded = dictionary.decode(dictionary.encode(x, stream), stream)
        torch.testing.assert_close(loss.parts[f"loss/{stream}"], F.mse_loss(decoded, x))
    torch.testing.assert_close(loss.total, sum(loss.parts.values()))


def test_every_parameter_has_a_gradient(dictionary, batch):
    dictionary.loss(batch).total.backward()
    for name, parameter in dictionary.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


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


class TestTopK:
    def test_columns_stay_at_length_one(self, batch):
        dictionary = TopK(12, 48, 5)
        assert torch.equal(dictionary.encoder.weight, dictionary.decoder.weight.T)
        optimizer = build_optimizer(dictionary, 1e-2)
        for step in range(5):
            train_step(dictionary, batch, optimizer, step)
            torch.testing.assert_close(dictionary.decoder.weight.norm(dim=0), torch.ones(48))

    def test_the_decoder_gradient_is_orthogonal_to_its_columns(self, batch):
        dictionary = TopK(12, 48, 5)
        dictionary.loss(batch).total.backward()
        along = (dictionary.decoder.weight.grad * dictionary.decoder.weight).sum(dim=0)
        assert along.abs().max() < 1e-6
        assert dictionary.decoder.weight.grad.abs().max() > 1e-4

    def test_the_bias_starts_at_the_centre(self, batch):
        rows = torch.cat(list(batch.values())) + 3
        for center, expected in (("mean", rows.mean(dim=0)), ("median", geometric_median(rows))):
            dictionary = TopK(12, 48, 5, center=center)
            dictionary.initialize({stream: x + 3 for stream, x in batch.items()})
            torch.testing.assert_close(dictionary.decoder.bias.detach(), expected)

    def test_the_geometric_median_resists_an_outlier(self):
        rows = torch.randn(101, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        rows[0] = 1e4
        center = geometric_median(rows)
        # At the minimum the unit vectors from it to the rows cancel.
        assert F.normalize(rows - center, dim=1).sum(dim=0).norm() < 1e-3
        assert center.norm() < 0.5

    def test_dead_concepts_learn_from_the_residual(self, batch):
        dictionary = TopK(12, 48, 5, dead_after=60)
        with torch.no_grad():
            dictionary.encoder.bias[10:] = -2
        optimizer = build_optimizer(dictionary, 0.0)
        parts = [train_step(dictionary, batch, optimizer, step).parts["loss/auxiliary"].item() for step in range(3)]
        assert parts[:2] == [0, 0]
        dead = dictionary.silent_for >= 60
        assert 0 < dead.sum() < 48
        with torch.no_grad():
            dictionary.encoder.bias[10:] = 0
        dictionary.encoder.bias.grad = None
        loss = dictionary.loss(batch)
        assert loss.parts["loss/auxiliary"] > 0
        loss.parts["loss/auxiliary"].backward()
        assert (dictionary.encoder.bias.grad[~dead] == 0).all()
        assert dictionary.encoder.bias.grad[dead].abs().sum() > 0

    def test_the_auxiliary_loss_by_hand(self, batch):
        dictionary = TopK(12, 48, 5, dead_after=1)
        dictionary.silent_for[:3] = 1
        part = dictionary.loss(batch).parts["loss/auxiliary"]
        expected, residual = 0.0, 0.0
        for stream, x in batch.items():
            e = x - dictionary.decode(dictionary.encode(x, stream), stream)
            code = dictionary.activations(x, stream)[:, :3]
            expected += (e - code @ dictionary.decoder.weight[:, :3].T).square().sum()
            residual += e.square().sum()
        torch.testing.assert_close(part, expected / residual / 32)

    def test_validation_counts_nothing(self, batch):
        dictionary = TopK(12, 48, 5).eval()
        dictionary.loss(batch)
        dictionary.after_step(0)
        assert (dictionary.silent_for == 0).all()


def test_top_k_against_a_stable_sort():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 6, (200, 30), generator=generator).float()
    for k in (1, 7, 29, 30):
        expected = scores.sort(dim=1, descending=True, stable=True).indices[:, :k].sort(dim=1).values
        assert torch.equal(top_k(scores, k).sort(dim=1).values, expected)


class TestSimilarity:
    def test_shuffled_texts_average_to_inter(self):
        generator = torch.Generator().manual_seed(0)
        images, texts = (torch.randn(9, 4, 6, generator=generator, dtype=torch.float64) for _ in range(2))
        shifted = [intra_inter_similarity(images, texts.roll(shift, 0)).intra for shift in range(1, 9)]
        assert sum(shifted) / 8 == pytest.approx(intra_inter_similarity(images, texts).inter, abs=1e-7)

    def test_one_concept_has_no_other(self):
        result = intra_inter_similarity(torch.ones(1, 2, 3), torch.ones(1, 2, 3))
        assert result.intra == pytest.approx(1)
        assert result.inter != result.inter

    def test_the_sides_may_hold_different_numbers_of_items(self):
        result = intra_inter_similarity(torch.ones(2, 2, 3), torch.ones(2, 5, 3))
        assert result.similarity.shape == (2, 2)

    def test_wrong_input_is_named(self):
        features = torch.ones(2, 2, 3)
        with pytest.raises(ValueError, match="mode"):
            intra_inter_similarity(features, features, mode="authors")
        with pytest.raises(ValueError, match="agree"):
            intra_inter_similarity(features, torch.ones(3, 2, 3))
        with pytest.raises(ValueError, match="images"):
            intra_inter_similarity(features[0], features)
        with pytest.raises(ValueError, match="not finite in texts, row 1"):
            intra_inter_similarity(features, features.index_fill(0, torch.tensor([1]), float("nan")))


class TestCodebook:
    def test_scale_leaves_the_choice(self):
        generator = torch.Generator().manual_seed(0)
        x, codebook = torch.randn(30, 6, generator=generator), torch.randn(20, 6, generator=generator)
        indices = codebook_snap(x, codebook, 4)[1]
        scaled = codebook.clone()
        scaled[3] *= 10
        assert torch.equal(codebook_snap(7.3 * x, codebook, 4)[1], indices)
        assert torch.equal(codebook_snap(x, scaled, 4)[1], indices)

    def test_every_code_can_be_taken_in_order(self):
        codebook = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
        output, indices = codebook_snap(codebook[:1], codebook, 5, metric="l2")
        assert indices[0, 0] == 0
        assert sorted(indices[0].tolist()) == [0, 1, 2, 3, 4]
        torch.testing.assert_close(output[0], codebook.mean(dim=0))

    def test_wrong_input_is_named(self):
        x, codebook = torch.ones(2, 3), torch.ones(4, 3)
        for arguments, message in (
            ({"k": 5}, "k must lie in 1…4"),
            ({"k": 0}, "k must"),
            ({"k": 4, "disabled": [1]}, "k must lie in 1…3"),
            ({"k": 1, "disabled": [4]}, "disabled"),
            ({"k": 1, "metric": "dot"}, "metric"),
            ({"k": 1, "gradient": "none"}, "gradient"),
        ):
            with pytest.raises(ValueError, match=message):
                codebook_snap(x, codebook, **arguments)
        with pytest.raises(ValueError, match="codebook"):
            codebook_snap(torch.ones(2, 4), codebook, 1)
        with pytest.raises(ValueError, match="not finite in x, row 0"):
            codebook_snap(torch.tensor([[float("nan"), 0, 0]]), codebook, 1)


class TestPrototypes:
    def arguments(self) -> dict[str, torch.Tensor]:
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

    def test_prototypes_that_are_the_latents(self):
        arguments = self.arguments()
        total, terms = prototype_loss(**arguments)
        assert terms["r1"].item() == terms["r2"].item() == 0
        assert prototype_distances(arguments["z"], arguments["z"]).diagonal().abs().max() == 0
        torch.testing.assert_close(total, 20 * terms["ce"] + terms["ae"])

    def test_order_of_prototypes_does_not_matter(self):
        arguments = self.arguments()
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
            ("x", torch.full((6, 2, 2), float("nan"))),
        ],
    )
    def test_wrong_input_is_named(self, name, value):
        with pytest.raises(ValueError, match=rf"\b{name}\b"):
            prototype_loss(**{**self.arguments(), name: value})


def test_importing_the_packages_imports_no_torch():
    code = "import sys, vlsae.dictionaries, vlsae.training; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["vl_sae", "sae_d", "sae_s", "top_k"])
def test_the_configuration_fits_the_constructor(name):
    path = Path(__file__).parents[1] / "configs" / "objective" / f"{name}.yaml"
    node = yaml.safe_load(path.read_text())
    module, _, cls = node.pop("_target_").rpartition(".")
    own = getattr(importlib.import_module(module), cls)
    check_settings("objective", node, own)
    assert set(node) == set(settings_of(own))
    dictionary = own(width=6, **node)
    assert (dictionary.kind, dictionary.n_concepts, dictionary.k) == (name, 48, 3)
