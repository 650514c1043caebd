"""Decoding with a second pass: exact caching, batches, the rules and controls of the hallucination task."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_vlm import LAYERS, WIDTH, pictures, write_vlm

from vlsae.cli import main
from vlsae.datasets import Shapes
from vlsae.dictionaries import VLSAE, AuxiliaryAutoencoder
from vlsae.enhancement.answering import Answerer, Mixing, Prompt, auxiliary_shift, default_layer, layer_number
from vlsae.enhancement.decoding import Rule, decode, drawn, uniforms_of
from vlsae.enhancement.decodings import DECODINGS, decodings, seeds_of
from vlsae.enhancement.hallucination import text_shift, token_shift
from vlsae.enhancement.noisy_pass import NoisyPass
from vlsae.enhancement.shifted_pass import second_pass
from vlsae.enhancement.task import Work
from vlsae.enhancement.tasks.hallucination import Hallucination
from vlsae.errors import UserError
from vlsae.models.vlm import VLM

GOLDEN = Path(__file__).parent / "golden" / "vlsae" / "hallucination.npz"
QUESTIONS = ["is there a ring?", "a?", "what do you see in the picture"]
BY_NAME = {one.name: one for one in DECODINGS}


@pytest.fixture(scope="module", params=["llava", "qwen"])
def vlm(request, tmp_path_factory) -> VLM:
    folder = write_vlm(tmp_path_factory.mktemp("vlm") / request.param, request.param)
    return VLM(checkpoint=f"path:{folder}")


@pytest.fixture(scope="module")
def llava(tmp_path_factory) -> VLM:
    return VLM(checkpoint=f"path:{write_vlm(tmp_path_factory.mktemp('vlm') / 'llava')}")


def concepts(seed: int = 0) -> tuple[VLSAE, AuxiliaryAutoencoder]:
    torch.manual_seed(seed)
    return VLSAE(WIDTH, 64, 8).eval(), AuxiliaryAutoencoder(WIDTH, WIDTH, WIDTH).eval()


def shift_by(alpha: float = 2.0):
    dictionary, auxiliary = concepts()
    return lambda vision, text: text_shift(vision, text, dictionary, auxiliary, alpha, 0.9)


def followed(vlm: VLM, cache: str, layer: int, images, questions, rule: Rule, most: int = 6, shift=None):
    """Return the tokens of a decoding and the logits ``(step, pass, b, v)`` of both passes."""
    prompted = vlm.prompted(images, questions)
    second = second_pass(cache, vlm.blocks, layer, prompted.image_mask, prompted.text_mask, shift or shift_by())
    seen, own = [], second.logits

    def logits(scores):
        seen.append(torch.stack(own(scores)))
        return seen[-1]

    second.logits = logits
    uniforms = uniforms_of(questions, 0, most)
    # No token ends an answer, so that every step is compared.
    found = decode(vlm.module, prompted.inputs, rule, uniforms, second=second, end=[10**6], padding=0)
    return found.tokens, torch.stack(seen)


# Exact caching


@pytest.mark.parametrize("layer", range(LAYERS + 1))
@torch.no_grad()
def test_the_cached_pass_is_the_uncached_one_at_every_step(vlm, layer):
    images = pictures((40, 32), (32, 32), (64, 48))
    rule = Rule(sample=False, alpha=0.6)
    tokens, cached = followed(vlm, "exact", layer, images, QUESTIONS, rule)
    plain_tokens, plain = followed(vlm, "off", layer, images, QUESTIONS, rule)
    assert tokens == plain_tokens
    assert cached.shape == (6, 2, 3, plain.shape[-1])
    torch.testing.assert_close(cached, plain, atol=1e-5, rtol=0)
    assert (cached[:, 0] - cached[:, 1]).abs().amax(dim=(1, 2)).min() > 1e-3


@torch.no_grad()
def test_the_uncached_pass_is_the_published_shift_of_the_whole_sequence(llava):
    """By hand: hidden states at the layer, shifted by token_shift, run through the rest of the model."""
    dictionary, auxiliary = concepts()
    prompted = llava.prompted(pictures((32, 32)), ["a red circle"])
    _, logits = followed(llava, "off", 2, pictures((32, 32)), ["a red circle"], Rule(False), 1)

    def edit(hidden):
        return token_shift(hidden, prompted.image_mask, prompted.text_mask, dictionary, auxiliary, 2.0, 0.9)

    with llava.edit("language.2", edit):
        expected = llava.module(**prompted.inputs).logits[:, -1]
    torch.testing.assert_close(logits[0, 1], expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_frozen_shift_is_exact_for_the_first_token_alone(llava):
    images = pictures((32, 32))
    _, exact = followed(llava, "exact", 1, images, QUESTIONS[:1], Rule(False))
    _, frozen = followed(llava, "frozen_delta", 1, images, QUESTIONS[:1], Rule(False))
    torch.testing.assert_close(frozen[0], exact[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(frozen[:, 0], exact[:, 0], atol=1e-5, rtol=0)
    assert (frozen[1:, 1] - exact[1:, 1]).abs().max() > 1e-4
    fixed = torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(0))
    same = [followed(llava, way, 1, images, QUESTIONS[:1], Rule(False), shift=lambda v, t: fixed)[1]
            for way in ("exact", "frozen_delta")]  # fmt: skip
    torch.testing.assert_close(same[0], same[1], atol=1e-5, rtol=0)


def followed_by(llava, handles):
    """Answer a prompt with four tokens while hooks look on, then take them away; return the prompt."""
    try:
        prompted = llava.prompted(pictures((32, 32)), ["a"])
        followed(llava, "exact", 2, pictures((32, 32)), ["a"], Rule(False), 4)
    finally:
        for handle in handles:
            handle.remove()
    return prompted


@torch.no_grad()
def test_only_rows_behind_the_image_pass_twice_and_only_above_the_layer(llava):
    rows = dict.fromkeys(range(LAYERS), 0)

    def count(number):
        def add(block, args, kwargs):
            rows[number] += args[0].shape[0] * args[0].shape[1]

        return add

    handles = [block.register_forward_pre_hook(count(n), with_kwargs=True) for n, block in enumerate(llava.blocks)]
    prompted = followed_by(llava, handles)
    length, text = prompted.image_mask.shape[1], int(prompted.text_mask.sum())
    assert rows[0] == rows[1] == length + 3
    assert rows[2] == length + 3 + sum(text + step for step in range(4))


@torch.no_grad()
def test_of_the_last_block_rows_before_the_last_give_keys_and_values_alone(llava):
    attention, mlp = llava.blocks[-1].self_attn, llava.blocks[-1].mlp
    rows = dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj", "mlp"), 0)

    def add(name):
        def count(part, args, output):
            rows[name] += output.shape[1]

        return count

    # Registered first, so that they see what a map works out and not what is made of it.
    handles = [(mlp if name == "mlp" else getattr(attention, name)).register_forward_hook(add(name)) for name in rows]
    prompted = followed_by(llava, handles)
    clean, text = prompted.image_mask.shape[1] + 3, int(prompted.text_mask.sum())
    assert rows["k_proj"] == rows["v_proj"] == clean + sum(text + step for step in range(4))
    assert rows["q_proj"] == rows["o_proj"] == rows["mlp"] == clean + 4


def passes_of(vlm: VLM, run) -> list[int]:
    """Return how many prompts pass the last block each time that it runs."""
    found: list[int] = []
    handle = vlm.blocks[-1].register_forward_hook(lambda block, args, output: found.append(len(args[0])))
    try:
        run()
    finally:
        handle.remove()
    return found


@torch.no_grad()
def test_where_the_mask_leaves_one_token_the_second_pass_is_not_computed(vlm):
    images, rule, found = pictures((40, 32), (32, 32), (64, 48)), Rule(True, 0.6, 0.95), []
    passes = passes_of(vlm, lambda: found.extend(followed(vlm, "exact", 2, images, QUESTIONS, rule, 12)))
    tokens, cached = found
    plain_tokens, plain = followed(vlm, "off", 2, images, QUESTIONS, rule, 12)
    assert tokens == plain_tokens
    is_open = torch.stack([rule.is_open(step[0]) for step in plain])
    assert 0.1 < is_open.float().mean() < 0.9
    is_open[0] = True  # Whether the head's word is the model's is seen at the first step.
    torch.testing.assert_close(cached[:, 0], plain[:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(cached[:, 1][is_open], plain[:, 1][is_open], atol=1e-5, rtol=0)
    assert torch.equal(cached[:, 1][~is_open], cached[:, 0][~is_open])
    for step, both in enumerate(plain):
        mixed = rule.logits(*both).softmax(1)
        torch.testing.assert_close(rule.logits(*cached[step]).softmax(1), mixed, atol=1e-5, rtol=0)
    assert passes == [number for step in is_open for number in (3, int(step.sum())) if number]


@torch.no_grad()
def test_a_model_that_changes_its_heads_logits_is_followed_at_every_step(llava):
    def halve(module, args, output):
        output.logits = output.logits / 2

    images, rule, found = pictures((32, 32)), Rule(True, 0.6, 0.99), []
    handle = llava.module.register_forward_hook(halve)
    try:
        passes = passes_of(llava, lambda: found.extend(followed(llava, "exact", 1, images, QUESTIONS[:1], rule)))
        plain = followed(llava, "off", 1, images, QUESTIONS[:1], rule)[1]
    finally:
        handle.remove()
    torch.testing.assert_close(found[1], plain, atol=1e-5, rtol=0)
    assert passes == [1] * 12


def test_a_head_that_reads_what_no_one_module_made_is_refused(llava):
    handle = llava.module.lm_head.register_forward_pre_hook(lambda head, args: (2 * args[0],))
    try:
        with pytest.raises(UserError, match="before the head") as error:
            followed(llava, "exact", 1, pictures((32, 32)), ["a"], Rule(False), 2)
    finally:
        handle.remove()
    assert "cache=off" in str(error.value.mend)


def test_a_head_that_is_not_called_is_refused(llava, monkeypatch):
    for head, words in ((None, "names no output head"), (torch.nn.Linear(2, 2), "is not used")):
        monkeypatch.setattr(llava.module, "get_output_embeddings", lambda head=head: head)
        with pytest.raises(UserError, match=words):
            followed(llava, "exact", 1, pictures((32, 32)), ["a"], Rule(False), 2)


def test_tokens_that_are_open_are_counted_until_an_answer_ends(llava):
    prompted = llava.prompted(pictures((32, 32), (32, 32)), QUESTIONS[:2])
    uniforms = uniforms_of(QUESTIONS[:2], 0, 6)
    given = {"end": [10**6], "padding": 0}
    whole = decode(llava.module, prompted.inputs, Rule(True), uniforms, **given)
    assert (whole.chosen, whole.open) == (12, 12)
    one = decode(llava.module, prompted.inputs, Rule(True, 0.0, 1.0), uniforms, **given)
    assert (one.chosen, one.open) == (12, 0)
    end = {"end": [whole.tokens[0][2]], "padding": 0}
    short = decode(llava.module, prompted.inputs, Rule(True), uniforms, **end)
    assert short.chosen == sum(min(len(tokens) + 1, 6) for tokens in short.tokens) < 12


def test_nothing_of_a_decoding_stays_in_the_model(llava):
    hooks = [len(part._forward_pre_hooks) + len(part._forward_hooks) for part in llava.module.modules()]

    def broken(vision, text):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        followed(llava, "exact", 1, pictures((32, 32)), ["a"], Rule(False), 2, shift=broken)
    assert [len(part._forward_pre_hooks) + len(part._forward_hooks) for part in llava.module.modules()] == hooks


def test_what_cannot_be_shifted_is_refused(llava):
    prompted = llava.prompted(pictures((32, 32)), ["a"])
    nothing = torch.zeros_like(prompted.image_mask)
    with pytest.raises(UserError, match=r"the model has 3"):
        second_pass("exact", llava.blocks, 9, prompted.image_mask, prompted.text_mask, shift_by())
    with pytest.raises(UserError, match="no image token"):
        second_pass("exact", llava.blocks, 1, nothing, prompted.text_mask, shift_by())


# Choosing tokens


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_tokens_are_drawn_by_their_probability_and_never_where_it_is_none(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, 5, generator=generator) * 2
    logits[0, int(torch.randint(5, (1,), generator=generator))] = -torch.inf
    grid = (torch.arange(2000) + 0.5) / 2000
    counts = torch.bincount(drawn(logits.expand(2000, -1), grid), minlength=5) / 2000
    torch.testing.assert_close(counts, logits.softmax(1)[0], atol=1.5e-3, rtol=0)
    assert counts[logits[0].isneginf()].sum() == 0
    assert int(drawn(logits, torch.tensor([1 - 1e-9], dtype=torch.float64))) < 5


def test_what_is_drawn_for_an_item_depends_on_item_and_seed_alone():
    one = uniforms_of(["a", "b"], 3, 5)
    assert np.array_equal(one[1], uniforms_of(["b"], 3, 5)[0])
    assert not np.array_equal(one[0], one[1])
    assert not np.array_equal(one[1], uniforms_of(["b"], 4, 5)[0])


@torch.no_grad()
def test_golden_logits_choose_the_golden_tokens_through_the_loop(llava):
    """The published formulas, met by the rule that the loop applies at each step."""
    golden = {name: torch.from_numpy(value) for name, value in np.load(GOLDEN).items()}
    clean, other = golden["logits/clean"], golden["logits/other"]
    checked = 0
    for key in (key for key in golden if key.startswith(("logits/vlsae_", "logits/vcd_"))):
        alpha, beta = (float(part[1:]) for part in key.split("_")[1:])
        rule = Rule(True, alpha, beta, "contrast" if "vcd" in key else "mix")
        torch.testing.assert_close(rule.logits(clean, other), golden[key], atol=1e-5, rtol=0)
        checked += 1
    assert checked == 8


# Ways of decoding


@pytest.fixture(scope="module")
def answerer(llava) -> Answerer:
    dictionary, auxiliary = concepts()
    return Answerer(llava, Shapes(n=6, size=32), dictionary, auxiliary, layer=2)


PROMPTS = [Prompt(f"item-{n}", n, text) for n, text in enumerate([*QUESTIONS, "more?", "and a longer question", "b"])]


@pytest.mark.parametrize("how", DECODINGS, ids=lambda one: one.name)
def test_a_batch_answers_as_each_prompt_alone(answerer, how):
    prompts = PROMPTS[2:5]
    together = answerer.answers(how, prompts, Mixing(), 0, 6)
    alone = [answerer.answers(how, [one], Mixing(), 0, 6)[0] for one in prompts]
    turned = answerer.answers(how, prompts[::-1], Mixing(), 0, 6)[::-1]
    assert together == alone == turned


def test_each_way_is_the_one_that_its_numbers_say(answerer):
    def say(name: str, **numbers) -> list[str]:
        return answerer.answers(BY_NAME[name], PROMPTS[:4], replace(Mixing(), **numbers), 0, 5)

    assert say("vl_sae", alpha_cd=0.0) == say("mask")
    assert say("mask", beta_cd=0.0) == say("regular")
    assert say("mask", beta_cd=1.0) == say("greedy")
    assert say("vl_sae", beta_cd=0.0) == say("shift")
    assert say("shift_greedy", alpha_cd=0.0) == say("greedy")
    assert say("vl_sae", alpha=0.0) == say("mask")
    assert say("reconstruction", beta=0.9) == say("vl_sae", beta=0.0)
    assert say("vcd", alpha_vcd=0.0, beta_vcd=0.0) == say("regular")
    assert say("vcd_masked", beta_cd=0.3) == say("vcd", beta_vcd=0.3)
    assert say("vcd", noise_step=0) != say("vcd", noise_step=999)
    assert len({tuple(say(one.name, alpha=4.0, alpha_cd=1.0)) for one in DECODINGS}) > 6
    assert answerer.answers(BY_NAME["regular"], PROMPTS[:4], Mixing(), 1, 5) != say("regular")
    assert answerer.answers(BY_NAME["greedy"], PROMPTS[:4], Mixing(), 1, 5) == say("greedy")


@torch.no_grad()
def test_controls_change_what_they_say_and_nothing_else(answerer):
    vision, text = torch.randn(2, 6, WIDTH, generator=torch.Generator().manual_seed(1))
    mixing = Mixing(alpha=0.5)
    own = text_shift(vision, text, answerer.dictionary, answerer.auxiliary, 0.5, 0.9)
    shifts = {kind: answerer._shift(kind, PROMPTS, mixing, 0)(vision, text)
              for kind in ("concepts", "reconstruction", "random", "auxiliary", "other_image")}  # fmt: skip
    torch.testing.assert_close(shifts["concepts"], own)
    torch.testing.assert_close(shifts["random"].norm(dim=1), own.norm(dim=1))
    assert torch.nn.functional.cosine_similarity(shifts["random"], own).abs().max() < 0.8
    through = answerer.auxiliary.decode(answerer.auxiliary.encode(vision, "vision"), "language")
    torch.testing.assert_close(shifts["auxiliary"], 0.5 * (through - text))
    torch.testing.assert_close(auxiliary_shift(vision, text, None, 0.5), 0.5 * (vision - text))
    assert not torch.allclose(shifts["other_image"], own)
    prompted = answerer.model.prompted(answerer._pictures([(one.row + 3) % 6 for one in PROMPTS]), ["x"] * 6)
    seen = {}
    with answerer.model.edit("language.2", lambda hidden: seen.setdefault("states", hidden)):
        answerer.model.module(**prompted.inputs)
    mask = prompted.image_mask[..., None]
    means = (seen["states"] * mask).sum(1) / mask.sum(1)
    expected = text_shift(means, text, answerer.dictionary, answerer.auxiliary, 0.5, 0.9)
    torch.testing.assert_close(shifts["other_image"], expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_noise_keeps_the_share_of_the_picture_that_the_process_leaves(llava):
    prompted = llava.prompted(pictures((32, 32), (32, 32)), ["a", "b"])
    noisy = NoisyPass(prompted.pixels_key, 500, [1, 2], 0).inputs(prompted.inputs)
    pixels = prompted.inputs[prompted.pixels_key]
    assert len(noisy["input_ids"]) == 4
    torch.testing.assert_close(noisy[prompted.pixels_key][:2], pixels)
    noise = (noisy[prompted.pixels_key][2:] - 0.744799**0.5 * pixels) / (1 - 0.744799) ** 0.5
    assert float(noise.std()) == pytest.approx(1, abs=0.05)
    alone = NoisyPass(prompted.pixels_key, 500, [2], 0)
    one = llava.prompted(pictures((32, 32), (32, 32))[1:], ["b"])
    torch.testing.assert_close(alone.inputs(one.inputs)[prompted.pixels_key][1:], noisy[prompted.pixels_key][3:])
    with pytest.raises(UserError, match="0…999"):
        NoisyPass(prompted.pixels_key, 1000, [1], 0)


def test_the_controls_of_the_specification():
    assert [one.control for one in decodings("core")] == ["R0", "R1", "R2", "R4", "R9"]
    assert sorted({one.control for one in decodings("full")}, key=lambda c: int(c[1:])) == [f"R{n}" for n in range(11)]
    assert seeds_of("core", None, 5) == [5]
    assert seeds_of("full", None, 5) == [5, 6, 7]
    with pytest.raises(UserError, match="spreads over seeds"):
        seeds_of("full", [0, 1], 0)
    with pytest.raises(UserError, match="different seeds"):
        seeds_of("core", [1, 1], 0)


def test_the_layer_is_the_dictionarys_and_another_is_refused(llava):
    both = ["vision.2", "language.2"]
    assert layer_number(llava, None, both, "input") == 2
    assert layer_number(llava, None, both, "output") == 3
    assert layer_number(llava, None, [], "input") == default_layer(llava) == 3
    with pytest.raises(UserError, match=r"vision\.2 and language\.2, and task\.layer=1"):
        layer_number(llava, 1, both, "input")
    with pytest.raises(UserError, match=r"reads vision\.embedding and language\.embedding"):
        layer_number(llava, None, ["vision.embedding", "language.embedding"], "input")
    with pytest.raises(UserError, match="the last"):
        layer_number(llava, 3, [], "output")
    with pytest.raises(UserError, match="0…3"):
        layer_number(llava, 4, [], "input")


# The task


def task(**given) -> Hallucination:
    small = {"question_tokens": 3, "caption_tokens": 4, "batch_size": 4, "question": "{question}"}
    made = Hallucination(**{"data": Shapes(n=5, size=32, cooccurrence=0.8), "layer": 2, **small, **given})
    made.work = Work(resamples=50, auxiliary=concepts()[1])
    return made


def test_before_is_the_strongest_decoding_and_after_the_method_beside_all(llava):
    one = task(controls="full", data=Shapes(n=3, size=32), settings=["random", "adversarial"], batch_size=32)
    before, after = one.evaluate(llava, None), one.evaluate(llava, concepts()[0])
    assert set(before.metrics) == {name for name in before.metrics if name in after.metrics}
    plain = ["regular", "greedy", "mask", "vcd", "vcd_masked"]
    best = max(after.metrics[f"f1/mean/{name}"].value for name in plain)
    assert before.metrics["f1/mean"].value == pytest.approx(best)
    assert after.metrics["f1/mean"].value == after.metrics["f1/mean/vl_sae"].value
    assert {"gain/pope/vl_sae_over_mask", "gain/pope/shift_greedy_over_greedy"} <= set(after.headline)
    assert any("effect of the concepts" in note for note in after.notes)
    assert any("the best in" in note for note in before.notes)
    tables = {table.name: table for table in after.tables}
    assert {"pope", "pope_f1", "pope_changes", "chair", "chair_changes", "cost"} <= set(tables)
    assert {row[0] for row in tables["pope"].rows} == {one.name for one in DECODINGS}
    asked = len(one._prompts("pope")) + len(one._prompts("chair"))
    assert len(one.work.items) == asked * sum(3 if how.sample else 1 for how in DECODINGS)
    assert one.answers_needed() == len(one.work.items)
    assert all(len(tables[name].pictures) == len(tables[name].rows) for name in ("pope_changes", "chair_changes"))


def test_the_same_batch_by_batch_and_after_an_interruption(llava, tmp_path):
    from vlsae.enhancement.items import Items

    small = {"data": Shapes(n=3, size=32), "settings": ["popular"]}
    whole, cut = task(batch_size=16, **small), task(batch_size=3, **small)
    whole.work.items, path = Items(tmp_path / "whole.jsonl"), tmp_path / "cut.jsonl"
    whole.evaluate(llava, None)
    expected = whole.evaluate(llava, concepts()[0])
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:17]) + lines[17][:20])
    cut.work.items = Items(path)
    cut.evaluate(llava, None)
    found = cut.evaluate(llava, concepts()[0])
    assert found.metrics == expected.metrics
    assert sorted(path.read_text().splitlines()) == sorted(line.strip() for line in lines)


def test_another_shift_changes_the_method_and_not_its_controls(llava):
    small = {"measures": ["pope"], "settings": ["random"], "data": Shapes(n=4, size=32), "batch_size": 16}
    one, two = task(**small, alpha=30.0, alpha_cd=1.0, beta_cd=0.0), task(**small, alpha_cd=0.0)
    for each in (one, two):
        each.evaluate(llava, concepts()[0])
    answers = [[i["answer"] for i in each.work.items.of("greedy", 0).values()] for each in (one, two)]
    assert answers[0] == answers[1]
    shifted = [[i["answer"] for i in each.work.items.of("shift_greedy", 0).values()] for each in (one, two)]
    assert shifted[0] != answers[0]
    assert shifted[1] == answers[0]


def test_wrong_settings_say_what_is_right(llava):
    with pytest.raises(UserError, match="no place for the question"):
        task(question="is there?")
    with pytest.raises(UserError, match="Nothing is measured"):
        task(measures=[])
    with pytest.raises(UserError, match="name no objects"):
        Hallucination(layer=2).evaluate(llava, None)
    captions = {"_target_": "vlsae.datasets.Captions", "path": "."}
    with pytest.raises(UserError, match="name no objects"):
        Hallucination.check({"data": captions})


SMALL = [
    "dataset.n=60", "train.epochs=2", "train.batch_size=16", "objective.k=4", "hardware.threads=1",
    "train.evaluate.bootstrap=20", "enhance.resamples=50", "task.data.n=4", "task.data.size=32", "dataset.size=32",
    "train.auxiliary_autoencoder.epochs=1", "train.evaluate.names=false", "task.caption_tokens=3",
    "task.question_tokens=2", "task.batch_size=32",
]  # fmt: skip


def test_the_command_from_training_to_report_and_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VLSAE_RUNS", str(tmp_path / "runs"))
    model = write_vlm(tmp_path / "model")
    command = ["enhance", "task=hallucination", "model=vlm", f"model.checkpoint=path:{model}", *SMALL]
    assert main([*command, "--dry-run"]) == 0
    assert main(command) == 0
    run = next((tmp_path / "runs" / "enhance").glob("*/v0001"))
    metrics = json.loads((run / "summary.json").read_text())["metrics"]
    assert {"before/f1/mean", "after/f1/mean", "difference/f1/mean", "difference/chair_i"} <= set(metrics)
    assert metrics["difference/f1/random"]["low"] is not None
    lines = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert {line["method"] for line in lines} == {one.name for one in decodings("core")}
    trained = next((tmp_path / "runs" / "train").glob("*/v0001"))
    facts = json.loads((trained / "dictionary" / "input.json").read_text())
    assert facts["sites"] == {"vision": "vision.3", "language": "language.3"}
    other = write_vlm(tmp_path / "other", seed=1)
    capsys.readouterr()
    named = ["enhance", "task=hallucination", "model=vlm", f"model.checkpoint=path:{other}", *SMALL]
    assert main([*named, "--run", str(trained)]) == 2
    said = capsys.readouterr().err
    assert "was trained on the model" in said
    assert main([*command, "--run", str(trained), "task.layer=1"]) == 2
    assert "language.3" in capsys.readouterr().err
    assert main(["enhance", "task=hallucination", f"answers={run / 'samples.jsonl'}", "enhance.resamples=20"]) == 0


def test_a_model_without_questions_is_refused_before_anything_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VLSAE_RUNS", str(tmp_path / "runs"))
    assert main(["enhance", "task=hallucination"]) == 2
    said = capsys.readouterr().err
    assert "CLIP answers no questions" in said
    assert "model=llava" in said
    assert not (tmp_path / "runs").exists()
