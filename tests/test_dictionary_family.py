"""Every kind of dictionary against a second, naive implementation: loss and gradients, row by row in float64."""

from __future__ import annotations

import math

import pytest
import torch
from small_dictionaries import BOTH, D, H, K, N, make

from vlsae.dictionaries import (
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
    from_pretrained,
)
from vlsae.training import build_optimizer, train_step


@pytest.fixture(params=[BOTH, ("vision",), ("language",)], ids="-".join)
def batch(request) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    rows = {stream: torch.randn(N + 3 * i, D, generator=generator).double() + 0.3 for i, stream in enumerate(BOTH)}
    return {stream: rows[stream] for stream in request.param}


def compare(dictionary, batch, oracle):
    """Check loss and all gradients against ``oracle(parameters, batch) → total``."""
    loss = dictionary.loss(batch)
    loss.total.backward()
    own = {name: one.detach().clone().requires_grad_() for name, one in dictionary.named_parameters()}
    expected = oracle(own, batch)
    torch.testing.assert_close(loss.total, expected, rtol=1e-10, atol=1e-12)
    expected.backward()
    for name, parameter in dictionary.named_parameters():
        if parameter.requires_grad and (parameter.grad is not None or own[name].grad is not None):
            torch.testing.assert_close(parameter.grad, own[name].grad, rtol=1e-9, atol=1e-12, msg=name)
    torch.testing.assert_close(loss.total, torch.stack(list(loss.parts.values())).sum())
    return loss


def mse(x, decoded):
    """Return the mean over features of one row's squared error."""
    return ((x - decoded) ** 2).sum() / len(x)


def unit_columns(weight):
    return torch.stack([column / column.norm() for column in weight.T], dim=1)


def largest(values, k):
    """Keep the k largest of a vector that are above zero."""
    order = sorted(range(len(values)), key=lambda i: (-values[i].item(), i))[:k]
    mask = torch.zeros_like(values)
    mask[order] = 1
    return values.clamp(min=0) * mask


def pre(p, x):
    return p["encoder.weight"] @ (x - p["decoder.bias"]) + p["encoder.bias"]


def decode(p, code):
    return unit_columns(p["decoder.weight"]) @ code + p["decoder.bias"]


def over_rows(batch, of_row):
    """Return the sum over streams of the mean of ``of_row``."""
    return sum(torch.stack([of_row(x, stream) for x in rows]).mean() for stream, rows in batch.items())


def decoder_of(p, stream):
    name = {"vision": "vision_decoder", "language": "text_decoder"}[stream]
    return p[f"{name}.weight"], p[f"{name}.bias"]


def test_shared_linear(batch):
    def oracle(p, batch):
        def of_row(x, stream):
            weight, bias = decoder_of(p, stream)
            return mse(x, weight @ largest(p["encoder.weight"] @ x + p["encoder.bias"], K) + bias)

        return over_rows(batch, of_row)

    dictionary = SharedLinear(D, H, K).double()
    compare(dictionary, batch, oracle)
    assert sum(p.numel() for p in dictionary.parameters()) == 3 * H * D + H + 2 * D


def distance_code(encoder, x):
    unit = x / x.norm()
    strength = torch.stack([2 - (unit - row / row.norm()).norm() for row in encoder])
    return largest(strength, K)


def test_distance_with_one_decoder(batch):
    def oracle(p, batch):
        code = lambda x: p["decoder.weight"] @ distance_code(p["encoder"], x) + p["decoder.bias"]  # noqa: E731
        return over_rows(batch, lambda x, _: mse(x, code(x)))

    dictionary = make(DistanceOneDecoder)
    compare(dictionary, batch, oracle)
    assert sum(p.numel() for p in dictionary.parameters()) == 2 * H * D + D


def test_random_encoder_learns_in_its_decoders_alone(tmp_path):
    generator = torch.Generator().manual_seed(3)
    batch = {stream: torch.randn(N, D, generator=generator).double() for stream in BOTH}

    def oracle(p, batch):
        def of_row(x, stream):
            weight, bias = decoder_of(p, stream)
            return mse(x, weight @ distance_code(p["encoder"], x) + bias)

        return over_rows(batch, of_row)

    dictionary = make(RandomEncoder)
    compare(dictionary, batch, oracle)
    before = dictionary.encoder.clone()
    optimizer = build_optimizer(dictionary, 1e-2)
    losses = [train_step(dictionary, batch, optimizer, step).total for step in range(20)]
    assert torch.equal(dictionary.encoder, before)
    assert losses[-1] < losses[0]
    dictionary.save_pretrained(tmp_path)
    assert not from_pretrained(tmp_path).encoder.requires_grad


def batch_code(p, batch):
    """Return codes of all rows by keeping the N · K largest activations of the batch."""
    rows = [x for own in batch.values() for x in own]
    active = [pre(p, x).clamp(min=0) for x in rows]
    ranked = sorted(((a.item(), n, i) for n, row in enumerate(active) for i, a in enumerate(row)), reverse=True)
    masks = [torch.zeros_like(a) for a in active]
    for _, n, i in ranked[: len(rows) * K]:
        masks[n][i] = 1
    return [a * mask for a, mask in zip(active, masks)]


def batch_oracle(prefixes):
    def oracle(p, batch):
        codes, total, first = batch_code(p, batch), 0, 0
        for rows in batch.values():
            own = codes[first : first + len(rows)]
            first += len(rows)
            for end in prefixes:
                mask = (torch.arange(H) < end).double()
                total = total + sum(mse(x, decode(p, code * mask)) for x, code in zip(rows, own)) / len(rows)
        return total

    return oracle


def test_batch_top_k(batch):
    dictionary = make(BatchTopK)
    compare(dictionary, batch, batch_oracle([H]))
    codes = torch.cat(batch_code(dict(dictionary.named_parameters()), batch))
    smallest = codes[codes > 0].min().detach()
    dictionary.after_step(0)
    torch.testing.assert_close(dictionary.threshold, smallest)


def test_the_threshold_is_the_running_mean_and_survives_files(tmp_path):
    generator = torch.Generator().manual_seed(3)
    dictionary = BatchTopK(D, H, K, threshold_decay=0.75)
    optimizer = build_optimizer(dictionary, 0.0)
    smallest, expected = [], 0.0
    for step in range(8):
        batch = {stream: torch.randn(40, D, generator=generator) for stream in BOTH}
        active = torch.cat([dictionary.activations(x, "vision") for x in batch.values()]).detach()
        smallest.append(active.flatten().sort(descending=True).values[80 * K - 1].item())
        train_step(dictionary, batch, optimizer, step)
        expected += max(0.25, 1 / (step + 1)) * (smallest[-1] - expected)
        assert dictionary.threshold.item() == pytest.approx(expected, rel=1e-5)
    dictionary.save_pretrained(tmp_path)
    again = from_pretrained(tmp_path)
    assert torch.equal(again.threshold, dictionary.threshold)
    assert again.batches == 8
    x = torch.randn(500, D, generator=generator)
    code = again.encode(x, "vision")
    assert (code.values > again.threshold).all()
    assert code.offsets.diff().float().mean().item() == pytest.approx(K, rel=0.15)
    assert code.offsets.diff().max() > K
    before = dictionary.threshold.clone()
    dictionary.eval().loss({"vision": x})
    dictionary.after_step(8)
    assert torch.equal(dictionary.threshold, before)


@pytest.mark.parametrize(("given", "prefixes"), [(None, [1, 2, 4, 8, 16]), ([2, 5], [2, 5, 16]), ([16], [16])])
def test_matryoshka_over_prefixes(batch, given, prefixes):
    dictionary = make(Matryoshka, prefixes=given)
    assert dictionary.prefixes == prefixes
    compare(dictionary, batch, batch_oracle(prefixes))


@pytest.mark.parametrize("prefixes", [[], [0, 4], [4, 4], [5, 2], [4, 17], [2.5], [True]])
def test_wrong_prefixes_are_refused(prefixes):
    with pytest.raises(ValueError, match="prefixes"):
        Matryoshka(D, H, K, prefixes=prefixes)


@pytest.mark.parametrize("options", [{}, {"weighting": "decreasing"}, {"largest": 7}, {"largest": K}])
def test_matryoshka_over_k(batch, options):
    dictionary = make(MatryoshkaK, **options)
    levels = {7: [3, 6, 7], K: [3], None: [3, 6, 12, 16]}[options.get("largest")]
    assert dictionary.levels() == levels

    def oracle(p, batch):
        weights = [1 - g / len(levels) if "weighting" in options else 1 for g in range(len(levels))]

        def of_row(x, _):
            return sum(w * mse(x, decode(p, largest(pre(p, x), k))) for w, k in zip(weights, levels))

        return over_rows(batch, of_row)

    compare(dictionary, batch, oracle)


@pytest.mark.parametrize("largest", [2, 17])
def test_a_wrong_largest_k_is_refused(largest):
    with pytest.raises(ValueError, match="largest"):
        MatryoshkaK(D, H, K, largest=largest)


def scaled(batch, dictionary):
    return {stream: rows / dictionary.scale for stream, rows in batch.items()}


@pytest.mark.parametrize("decoder_norm", ["free", "unit"])
def test_relu_l1(batch, decoder_norm):
    dictionary = make(ReLUL1, batch, sparsity=0.75, decoder_norm=decoder_norm)
    torch.testing.assert_close(dictionary.scale, torch.cat(list(batch.values())).square().mean().sqrt())

    def oracle(p, batch):
        columns = unit_columns(p["decoder.weight"]) if decoder_norm == "unit" else p["decoder.weight"]

        def of_row(x, _):
            code = pre(p, x).clamp(min=0)
            penalty = sum(a * column.norm() for a, column in zip(code, columns.T))
            return mse(x, columns @ code + p["decoder.bias"]) + 0.75 / D * penalty

        return over_rows(scaled(batch, dictionary), of_row)

    compare(dictionary, batch, oracle)


def test_gated(batch):
    dictionary = make(Gated, batch, sparsity=0.75)

    def oracle(p, batch):
        frozen = {name: value.detach() for name, value in p.items()}

        def of_row(x, _):
            shared = p["encoder.weight"] @ (x - p["decoder.bias"])
            gate = shared + p["encoder.bias"]
            magnitude = (p["log_gain"].exp() * shared + p["magnitude_bias"]).clamp(min=0)
            error = mse(x, decode(p, magnitude * (gate > 0)))
            through_gate = mse(x, decode(frozen, gate.clamp(min=0)))
            return error + through_gate + 0.75 / D * gate.clamp(min=0).sum()

        return over_rows(scaled(batch, dictionary), of_row)

    loss = compare(dictionary, batch, oracle)
    assert loss.parts["loss/gate"] > 0


@pytest.mark.parametrize("penalty", ["target", "l0"])
@pytest.mark.parametrize("bandwidth", [0.004, 0.16])
def test_jump_relu(batch, bandwidth, penalty):
    # Given for rows of length 1; the rows that are compared have length √d on average.
    unit = math.sqrt(D)
    dictionary = make(
        JumpReLU, batch, sparsity=0.75, threshold=0.12, bandwidth=bandwidth, penalty=penalty, penalty_warmup=4
    )
    dictionary.steps.fill_(1)

    def oracle(p, batch):
        threshold = p["log_threshold"].exp()
        height = threshold - threshold.detach()
        counts = {}

        def of_row(x, stream):
            z = pre(p, x).clamp(min=0)
            above = (z > threshold).double()
            kernel = ((z.detach() - threshold.detach()).abs() / (unit * bandwidth) < 0.5).double()
            # Added zeros with the published pseudo-derivatives.
            code = z * above - threshold.detach() / (unit * bandwidth) * kernel * height
            counts.setdefault(stream, []).append((above - 1 / (unit * bandwidth) * kernel * height).sum())
            return mse(x, decode(p, code))

        error = over_rows(scaled(batch, dictionary), of_row)
        l0 = [torch.stack(own).mean() for own in counts.values()]
        # The second of four steps of the warm-up.
        of_l0 = (lambda one: (one / K - 1) ** 2) if penalty == "target" else (lambda one: one / D)
        return error + 0.75 * 2 / 4 * sum(map(of_l0, l0))

    compare(dictionary, batch, oracle)
    assert dictionary.log_threshold.grad.abs().sum() > 0 or bandwidth < 0.1


def test_jump_relu_starts_where_the_paper_does():
    dictionary = JumpReLU(D, H, K, threshold_lr_scale=3)
    torch.testing.assert_close(dictionary.log_threshold.detach(), torch.full((H,), math.log(1e-3 * math.sqrt(D))))
    optimizer = build_optimizer(dictionary, 1e-3)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 3e-3]
    assert optimizer.defaults["betas"] == (0.0, 0.999)
    for name in ("threshold", "bandwidth"):
        with pytest.raises(ValueError, match=name):
            JumpReLU(D, H, K, **{name: 0.0})
    with pytest.raises(ValueError, match="adapt"):
        JumpReLU(D, H, K, adapt=0.01)


def test_jump_relu_without_a_threshold_starts_at_k():
    generator = torch.Generator().manual_seed(1)
    rows = {stream: torch.randn(400, D, generator=generator) for stream in BOTH}
    torch.manual_seed(0)
    dictionary = JumpReLU(D, H, K, threshold=None)
    dictionary.initialize(rows)
    counts = [dictionary.encode(x, stream).offsets.diff().double().mean().item() for stream, x in rows.items()]
    assert sum(counts) / 2 == pytest.approx(K, rel=0.05)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("gradient", ["base", "aeloss", "fullaeloss", "vqvae"])
def test_codebook(batch, metric, gradient):
    dictionary = make(Codebook, batch, metric=metric, gradient=gradient)

    def snapped(codes, x):
        scores = [x @ c / c.norm() if metric == "cosine" else -(x - c).norm() for c in codes]
        return sum(codes[i] for i in sorted(range(H), key=lambda i: -scores[i].item())[:K]) / K

    def oracle(p, batch):
        rows = {stream: (own - dictionary.offset) / dictionary.scale for stream, own in batch.items()}
        base = over_rows(rows, lambda x, _: ((x - snapped(p["codes"], x)) ** 2).sum() / D)
        every = torch.cat(list(rows.values()))
        added = sum(((x - snapped(p["codes"], x)) ** 2).sum() for x in every) / len(every)
        hidden = added - added.detach()
        if gradient == "vqvae":
            return base.detach() + hidden
        return base if gradient == "base" else base + hidden

    loss = dictionary.loss(batch)
    loss.total.backward()
    own = {"codes": dictionary.codes.detach().clone().requires_grad_()}
    expected = oracle(own, batch)
    torch.testing.assert_close(loss.total, expected, rtol=1e-10, atol=1e-12)
    expected.backward()
    torch.testing.assert_close(dictionary.codes.grad, own["codes"].grad, rtol=1e-9, atol=1e-12)


def test_codebook_sums_and_undoes_its_scaling(batch):
    dictionary = make(Codebook, batch, reduce="sum").eval()
    for stream, x in batch.items():
        code = dictionary.encode(x, stream)
        assert (code.values == 1).all()
        nearest = dictionary.activations(x, stream).topk(K, dim=1).indices
        expected = dictionary.codes[nearest].sum(dim=1) * dictionary.scale + dictionary.offset
        torch.testing.assert_close(dictionary.decode(code, stream), expected)
    with pytest.raises(ValueError, match="mean of codes"):
        Codebook(D, H, K, reduce="sum", gradient="aeloss")


def test_codes_that_never_fired_become_rows():
    rows = torch.randn(30, D, generator=torch.Generator().manual_seed(1))
    dictionary = Codebook(D, 64, 1, replace_after=3)
    with torch.no_grad():
        dictionary.codes[5:] = -rows.sum(dim=0) * torch.rand(59, 1)
    batch = {"vision": rows[:4]}
    optimizer = build_optimizer(dictionary, 0.0)
    before = dictionary.codes.detach().clone()
    for step in range(2):
        train_step(dictionary, batch, optimizer, step)
        assert torch.equal(dictionary.codes, before)
    live = torch.zeros(64, dtype=torch.bool)
    live[dictionary.encode(rows[:4], "vision").indices] = True
    train_step(dictionary, batch, optimizer, 2)
    assert torch.equal(dictionary.codes[live], before[live])
    distance = torch.cdist(dictionary.codes[~live], rows[:4]).amin(dim=1)
    assert distance.max() < 4e-4 * rows.norm(dim=1).max() * math.sqrt(D)
    assert (dictionary.fired == 0).all()


def test_codes_may_start_at_rows():
    rows = torch.randn(30, D, generator=torch.Generator().manual_seed(1))
    dictionary = Codebook(D, H, 1, initial="rows", input_norm="none")
    dictionary.initialize({"vision": rows})
    assert torch.cdist(dictionary.codes, rows).amin(dim=1).max() < 0.01
