"""How dictionaries whose rows vary in active concepts train, and that every term of a loss is learned from."""

from __future__ import annotations

import math

import pytest
import torch
from small_dictionaries import BOTH, D, H, K, make

from vlsae.dictionaries import (
    BatchTopK,
    Gated,
    JumpReLU,
    Matryoshka,
    MatryoshkaK,
    RandomEncoder,
    ReLUL1,
    SharedLinear,
    from_pretrained,
)
from vlsae.dictionaries.evaluation import evaluate
from vlsae.training import build_optimizer, train_step

PENALISED = (ReLUL1, Gated, JumpReLU)


@pytest.mark.parametrize("cls", PENALISED)
def test_scale_of_the_input_changes_nothing(cls):
    rows = torch.randn(50, D, generator=torch.Generator().manual_seed(1)) + 1
    losses = []
    for factor in (1.0, 100.0):
        torch.manual_seed(0)
        dictionary = cls(D, H, K)
        dictionary.initialize({"vision": factor * rows})
        losses.append(dictionary.loss({"vision": factor * rows}).total)
        code = dictionary.encode(factor * rows, "vision")
        error = (dictionary.decode(code, "vision") / factor - rows).square().mean()
        losses.append(error)
    torch.testing.assert_close(losses[:2], losses[2:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cls", PENALISED)
def test_each_term_has_a_gradient(cls):
    batch = {stream: torch.randn(40, D, generator=torch.Generator().manual_seed(1)) for stream in BOTH}
    options = {"threshold": 0.12, "bandwidth": 0.12} if cls is JumpReLU else {}
    dictionary = make(cls, None, auxiliary_weight=0.1, dead_after=5, **options)
    dictionary.silent_for[:4] = 5
    parts = dictionary.loss({stream: rows.double() for stream, rows in batch.items()}).parts
    assert set(parts) >= {"loss/vision", "loss/language", "loss/auxiliary", "loss/sparsity"}
    for name, part in parts.items():
        parameters = list(dictionary.parameters())
        gradients = torch.autograd.grad(part, parameters, retain_graph=True, allow_unused=True)
        assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients), name


@pytest.mark.parametrize("cls", [BatchTopK, Matryoshka, MatryoshkaK])
def test_each_term_of_the_top_k_kinds_has_a_gradient(cls):
    batch = {stream: torch.randn(40, D, generator=torch.Generator().manual_seed(1)).double() for stream in BOTH}
    dictionary = make(cls, None, auxiliary_weight=0.1, dead_after=5)
    dictionary.silent_for[:4] = 5
    parts = dictionary.loss(batch).parts
    assert len(parts) >= 3
    for name, part in parts.items():
        (gradient,) = torch.autograd.grad(part, [dictionary.encoder.weight], retain_graph=True)
        assert gradient.abs().sum() > 0, name


def test_an_adapted_weight_follows_the_active_concepts_and_survives_files(tmp_path):
    batch = {"vision": torch.randn(200, D, generator=torch.Generator().manual_seed(1))}
    dictionary = ReLUL1(D, H, K, sparsity=0.5, adapt=0.05)
    dictionary.initialize(batch)
    optimizer = build_optimizer(dictionary, 1e-2)
    active = dictionary.encode(batch["vision"], "vision").offsets.diff().double().mean()
    train_step(dictionary, batch, optimizer, 0)
    assert dictionary.sparsity_weight.item() == pytest.approx(0.5 * math.exp(0.05 * min(1, math.log(active / K))))
    for step in range(1, 400):
        train_step(dictionary, batch, optimizer, step)
    code = dictionary.encode(batch["vision"], "vision")
    assert code.offsets.diff().double().mean().item() == pytest.approx(K, rel=0.1)
    dictionary.save_pretrained(tmp_path)
    assert torch.equal(from_pretrained(tmp_path).sparsity_weight, dictionary.sparsity_weight)
    fixed = ReLUL1(D, H, K, sparsity=0.5, adapt=0)
    train_step(fixed, batch, build_optimizer(fixed, 1e-2), 0)
    assert fixed.sparsity_weight == 0.5


def test_relu_l1_starts_at_k_active_concepts_and_warms_its_penalty_up():
    batch = {stream: torch.randn(300, D, generator=torch.Generator().manual_seed(n)) for n, stream in enumerate(BOTH)}
    dictionary = ReLUL1(D, H, K, bias_start="k", sparsity=None, penalty_warmup=4)
    dictionary.initialize(batch)
    active = [dictionary.encode(x, stream).offsets.diff().double().mean().item() for stream, x in batch.items()]
    assert sum(active) / 2 == pytest.approx(K, rel=0.1)
    assert dictionary.sparsity_weight.item() == pytest.approx(math.sqrt(D / K) / 2)
    whole = ReLUL1(D, H, K, bias_start="k", sparsity=None)
    whole.load_state_dict(dictionary.state_dict())
    optimizer = build_optimizer(dictionary, 0.0)
    full = whole.loss(batch).parts["loss/sparsity"].item()
    for step, share in enumerate((0.25, 0.5, 0.75, 1.0)):
        part = train_step(dictionary, batch, optimizer, step).parts["loss/sparsity"].item()
        assert part == pytest.approx(share * full, rel=1e-4)
        assert dictionary.sparsity_weight.item() == pytest.approx(math.sqrt(D / K) / 2)
    train_step(dictionary, batch, optimizer, 4)
    assert dictionary.sparsity_weight.item() != pytest.approx(math.sqrt(D / K) / 2, rel=1e-9)


def test_a_gate_starts_at_k_active_concepts():
    batch = {stream: torch.randn(300, D, generator=torch.Generator().manual_seed(n)) for n, stream in enumerate(BOTH)}
    dictionary = Gated(D, H, K, bias_start="k")
    dictionary.initialize(batch)
    active = [dictionary.encode(x, stream).offsets.diff().double().mean().item() for stream, x in batch.items()]
    assert sum(active) / 2 == pytest.approx(K, rel=0.1)


def test_outside_training_more_than_k_active_concepts_cost_the_error():
    batch = {stream: torch.randn(20, D, generator=torch.Generator().manual_seed(1)) for stream in BOTH}
    dictionary = Gated(D, H, K).eval()
    parts = dictionary.loss(batch).parts
    expected = sum(
        parts[f"loss/{stream}"] * (dictionary.encode(x, stream).offsets.diff().double().mean() / K - 1)
        for stream, x in batch.items()
    )
    torch.testing.assert_close(parts["loss/sparsity"], expected.float())
    fixed = Gated(D, H, K, adapt=0).eval()
    assert torch.equal(fixed.loss(batch).total, fixed.train().loss(batch).total)


@pytest.mark.parametrize("cls", [BatchTopK, ReLUL1])
def test_evaluation_counts_active_concepts_that_vary(cls):
    generator = torch.Generator().manual_seed(1)
    rows = {stream: torch.randn(60, D, generator=generator) for stream in BOTH}
    numbers = evaluate(cls(D, H, K).eval(), rows, bootstrap=5)
    low, high = numbers["l0_min/vision"].value, numbers["l0_max/vision"].value
    assert low < numbers["l0/vision"].value < high
    assert high > K
    average = (numbers["l0/vision"].value + numbers["l0/language"].value) / 2
    assert numbers["consistency/random"].value == pytest.approx(average / (2 * H - average), rel=0.1)


def known_factors(seed: int, n: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return pairs in which two of 8 factors are active, seen by both streams with a gap between them."""
    directions = torch.nn.functional.normalize(torch.randn(8, 16, generator=torch.Generator().manual_seed(5)), dim=1)
    generator = torch.Generator().manual_seed(seed)
    active = torch.rand(n, 8, generator=generator).argsort(dim=1).argsort(dim=1) < 2
    strength = active * (0.5 + torch.rand(n, 8, generator=generator))
    gap = 0.3 * torch.randn(2, 16, generator=torch.Generator().manual_seed(6))
    noise = 0.1 * torch.randn(2, n, 16, generator=generator) / 4
    return {stream: strength @ directions + gap[i] + noise[i] for i, stream in enumerate(BOTH)}, active


def test_known_factors_smoke():
    train, _ = known_factors(100, 512)
    held_out, active = known_factors(999, 200)
    scores = {}
    for cls in (SharedLinear, RandomEncoder):
        torch.manual_seed(0)
        dictionary = cls(16, 64, 4)
        optimizer = build_optimizer(dictionary, 1e-2)
        for step in range(150):
            train_step(dictionary, train, optimizer, step)
        codes = [dictionary.encode(x, stream).to_dense().detach() for stream, x in held_out.items()]
        scores[cls] = sum(joint_auroc(codes, active[:, factor]) for factor in range(8)) / 8
    assert scores[SharedLinear] > scores[RandomEncoder] + 0.05


def joint_auroc(codes: list[torch.Tensor], present: torch.Tensor) -> float:
    """Return the best AUROC that one concept has in both streams."""
    per_stream = []
    for code in codes:
        with_factor, without = code[present].T, code[~present].T
        wins = (with_factor[:, :, None] > without[:, None]).double() + 0.5 * (
            with_factor[:, :, None] == without[:, None]
        )
        per_stream.append(wins.mean(dim=(1, 2)))
    return torch.minimum(*per_stream).max().item()
