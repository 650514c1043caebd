"""ALIGN's loss against the reference's numbers, its floor and invariances; retrieval; a short training."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from vlsae.errors import MissingFile, UserError
from vlsae.learners.align import Align, encode_text
from vlsae.learners.contrast import (
    Temperature,
    align_loss,
    class_vectors,
    duplicate_rows,
    joint_query,
    smoothing_floor,
)
from vlsae.learners.retrieval import recall_at

GOLDEN = Path(__file__).parent / "golden" / "learners" / "align_loss.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.fixture(scope="module")
def architecture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from vlsae.datasets.shapes_tokenizer import VOCABULARY, write_tokenizer

    folder = tmp_path_factory.mktemp("architecture")
    write_tokenizer(folder, 48)
    vision = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 64}
    text = {"layers": 2, "width": 32, "heads": 2, "context_length": 48, "vocab_size": len(VOCABULARY)}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": {**text, "hf_tokenizer_name": "shapes"}}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    return folder


def batch_of(n: int, folder: Path) -> dict[str, torch.Tensor]:
    from transformers import AutoTokenizer

    from vlsae.datasets.shapes import Shapes

    dataset = Shapes(n=n, max_objects=1, detail="short")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(dataset.captions, padding="max_length", max_length=48, return_tensors="pt").input_ids
    return {"vision": torch.from_numpy(dataset.images(range(n))).permute(0, 3, 1, 2) / 255 - 0.5, "language": ids}


@pytest.mark.parametrize("temperature", [1.0, 0.5, 1 / 64])
def test_loss_and_gradients_equal_the_reference(golden: dict[str, np.ndarray], temperature: float) -> None:
    key = {1.0: "T1_", 0.5: "T0.5_", 1 / 64: "T0.015625_"}[temperature]
    image, text = (torch.tensor(golden[name], requires_grad=True) for name in ("image", "text"))
    t = torch.tensor(temperature, requires_grad=True)
    loss = align_loss(image, text, t)
    loss.backward()
    np.testing.assert_allclose(loss.item(), golden[f"{key}loss_smooth01"], atol=1e-5)
    np.testing.assert_allclose(image.grad, golden[f"{key}grad_image"], atol=2e-5)
    np.testing.assert_allclose(text.grad, golden[f"{key}grad_text"], atol=2e-5)
    np.testing.assert_allclose(t.grad, golden[f"{key}grad_temperature"], rtol=1e-3, atol=2e-5)
    plain = align_loss(image, text, t, label_smoothing=0.0)
    np.testing.assert_allclose(plain.item(), golden[f"{key}loss_smooth0_openclip"], atol=1e-5)


def test_without_smoothing_it_is_the_loss_of_open_clip() -> None:
    from open_clip.loss import ClipLoss

    image, text = functional.normalize(torch.randn(2, 12, 8, dtype=torch.float64), dim=-1)
    ours = align_loss(image, text, 0.05, label_smoothing=0.0)
    assert ours.item() == pytest.approx(ClipLoss()(image, text, 20.0).item(), abs=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("temperature", [0.02, 1.0])
def test_equal_embeddings_cost_the_logarithm_of_their_number(smoothing: float, temperature: float) -> None:
    t = torch.tensor(temperature, requires_grad=True)
    loss = align_loss(torch.ones(8, 4), torch.ones(8, 4), t, label_smoothing=smoothing)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(8), abs=1e-5)
    assert t.grad is not None
    assert abs(t.grad.item()) < 1e-4 / temperature**2 * 1e-2


def test_smoothing_punishes_overconfidence() -> None:
    assert align_loss(torch.eye(8), torch.eye(8), 0.01, label_smoothing=0.0).item() < 1e-6
    assert align_loss(torch.eye(8), torch.eye(8), 0.01).item() == pytest.approx(8.75, abs=1e-4)


def test_floor_is_reached_at_its_gap_and_flat_there() -> None:
    t = torch.tensor(1 / 4.290459, requires_grad=True)
    loss = align_loss(torch.eye(8), torch.eye(8), t)
    loss.backward()
    assert t.grad is not None
    assert loss.item() == pytest.approx(0.466982, abs=1e-5)
    assert loss.item() == pytest.approx(smoothing_floor(8), abs=1e-5)
    assert abs(t.grad.item()) < 1e-4
    assert smoothing_floor(64) == pytest.approx(0.72948, abs=1e-5)


def test_loss_does_not_depend_on_side_order_scale_or_gathering() -> None:
    torch.manual_seed(0)
    image, text = torch.randn(2, 10, 6)
    whole = align_loss(image, text, 0.3).item()
    order = torch.randperm(10)
    assert align_loss(text, image, 0.3).item() == pytest.approx(whole, abs=1e-6)
    assert align_loss(image[order], text[order], 0.3).item() == pytest.approx(whole, abs=1e-6)
    assert align_loss(7 * image, 7 * text, 0.3).item() == pytest.approx(whole, abs=1e-6)
    gathered = align_loss(torch.cat([image[:5], image[5:]]), torch.cat([text[:5], text[5:]]), 0.3).item()
    halves = (align_loss(image[:5], text[:5], 0.3) + align_loss(image[5:], text[5:], 0.3)).item() / 2
    assert gathered == pytest.approx(whole, abs=1e-7)
    assert abs(halves - whole) > 0.1
    assert align_loss(image, text, 0.3, reduce="sum").item() == pytest.approx(2 * whole, abs=1e-6)


def test_duplicates_are_no_negatives() -> None:
    ids = torch.tensor([[1, 2], [1, 3], [1, 2]])
    duplicates = duplicate_rows(ids)
    assert duplicates.tolist() == [[True, False, True], [False, True, False], [True, False, True]]
    x = torch.eye(3)
    x[2] = x[0]
    free = align_loss(x, x, 0.01, label_smoothing=0.0, duplicates=duplicates).item()
    assert free < 1e-6
    assert align_loss(x, x, 0.01, label_smoothing=0.0).item() == pytest.approx(2 / 3 * math.log(2), abs=1e-5)
    none = torch.eye(3, dtype=torch.bool)
    assert align_loss(x, x, 0.5, duplicates=none).item() == pytest.approx(align_loss(x, x, 0.5).item(), abs=1e-6)


@pytest.mark.parametrize("parametrisation", ["log", "direct"])
def test_temperature_stays_between_its_bounds(parametrisation: str) -> None:
    temperature = Temperature(1.0, parametrisation, 0.5, 2.0)
    assert temperature().item() == pytest.approx(1.0)
    with torch.no_grad():
        temperature.parameter.fill_(-9.0)
    temperature.clamp()
    assert temperature().item() == pytest.approx(0.5)
    with pytest.raises(UserError, match="starts at 3"):
        Temperature(3.0, parametrisation, 0.5, 2.0)


def test_recall_of_known_ranks() -> None:
    # The right item of each row stands at rank 1, 1, 2 and 4.
    similarity = torch.tensor([[9.0, 1, 2, 3], [1, 9, 2, 3], [9, 1, 8, 2], [9, 8, 7, 1]])
    recall = recall_at(similarity, (1, 2, 5))
    assert recall == {1: 0.5, 2: 0.75, 5: 1.0}
    assert recall_at(torch.zeros(4, 4), (1,))[1] == 0.0


def test_joint_queries_and_class_vectors() -> None:
    torch.manual_seed(0)
    image, text, items = torch.randn(5, 8), torch.randn(5, 8), functional.normalize(torch.randn(20, 8), dim=-1)
    for weights, alone in (((1, 0), image), ((0, 1), text)):
        ranks = (joint_query(image, text, *weights) @ items.T).argsort(dim=1)
        assert torch.equal(ranks, (functional.normalize(alone, dim=-1) @ items.T).argsort(dim=1))
    torch.testing.assert_close(class_vectors(image[:, None]), functional.normalize(image, dim=-1))
    norms = class_vectors(torch.stack([image, text], dim=1)).norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones(5))


def test_a_few_steps_lower_the_loss_and_the_temperature_has_its_own_rate(architecture: Path) -> None:
    from vlsae.training import build_optimizer, train_step

    torch.manual_seed(0)
    learner = Align(architecture=str(architecture), temperature=0.1)
    optimizer = build_optimizer(learner, 1e-3)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-3, 1e-3, 1e-2])
    assert optimizer.param_groups[2]["weight_decay"] == 0
    batch = batch_of(48, architecture)
    losses = [train_step(learner, batch, optimizer, step, clip=1.0).total.item() for step in range(25)]
    assert losses[-1] < losses[0] - 0.3
    for name, parameter in learner.towers.named_parameters():
        assert parameter.grad is not None or name == "logit_scale", name
    assert learner.temperature.parameter.grad is not None


def test_every_text_gives_the_mean_of_the_losses_of_each_column(architecture: Path) -> None:
    learner = Align(architecture=str(architecture), temperature=0.2, every_text=True).eval()
    one, two = batch_of(6, architecture), batch_of(6, architecture)
    two["language"] = two["language"][[1, 1, 2, 0, 5, 5]]  # texts repeat, within a column and between the two
    both = {"vision": one["vision"], "language": torch.stack([one["language"], two["language"]], dim=1)}
    alone = [learner.loss({**one, "language": batch["language"]}).total.item() for batch in (one, two)]
    assert learner.loss(both).total.item() == pytest.approx(sum(alone) / 2, abs=1e-5)


def test_leaving_out_common_padding_changes_nothing(architecture: Path) -> None:
    learner = Align(architecture=str(architecture)).eval()
    ids = batch_of(6, architecture)["language"]
    with torch.no_grad():
        torch.testing.assert_close(
            encode_text(learner.towers, ids), learner.towers.encode_text(ids), atol=1e-6, rtol=1e-5
        )


def test_what_is_saved_is_a_model_of_open_clip(architecture: Path, tmp_path: Path) -> None:
    from vlsae.models import CLIP

    learner = Align(architecture=str(architecture), temperature=0.2, embed_dim=24)
    learner.product().save_pretrained(tmp_path / "clip")
    model = CLIP(checkpoint=f"path:{tmp_path / 'clip'}")
    model.load()
    assert model.module.logit_scale.exp().item() == pytest.approx(5.0, rel=1e-5)
    again = Align(architecture=str(tmp_path / "clip"), initial=str(tmp_path / "clip"))
    assert again.temperature().item() == pytest.approx(0.2, rel=1e-5)
    bounded = Align(architecture=str(tmp_path / "clip"), initial=str(tmp_path / "clip"), temperature_min=0.5)
    assert bounded.temperature().item() == pytest.approx(0.5, rel=1e-5)
    for name, value in learner.towers.state_dict().items():
        torch.testing.assert_close(again.towers.state_dict()[name], value)
    with pytest.raises(UserError, match="do not fit"):
        Align(architecture=str(architecture), initial=str(tmp_path / "clip"))


def test_mistakes_are_named(architecture: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ViT-B-32"):
        Align(architecture="ViT-B-33")
    with pytest.raises(MissingFile, match="open_clip_config"):
        Align(architecture=str(tmp_path))
    with pytest.raises(UserError, match="multiple"):
        Align(architecture=str(architecture), vision_width=40)
    learner = Align(architecture=str(architecture))
    with pytest.raises(UserError, match="lacks a stream"):
        learner.loss({"vision": torch.zeros(2, 3, 64, 64)})
    with pytest.raises(UserError, match="2 images, 3 texts"):
        learner.loss({"vision": torch.zeros(2, 3, 64, 64), "language": torch.zeros(3, 48, dtype=torch.long)})
    with pytest.raises(UserError, match="alike"):
        align_loss(torch.zeros(2, 3), torch.zeros(3, 3), 1.0)
