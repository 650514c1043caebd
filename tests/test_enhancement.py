"""Zero-shot scores, token shift and decoding against the published code's numbers; POPE and CHAIR."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from vlsae.dictionaries import VLSAE
from vlsae.enhancement import (
    chair_mentions,
    chair_scores,
    mix_logits,
    pope_scores,
    token_shift,
    vcd_logits,
    vcd_noise_schedule,
    zero_shot_scores,
)
from vlsae.enhancement.hallucination import mix_codes

GOLDEN = Path(__file__).parent / "golden" / "vlsae"
MIXES = [(0.8, 0.9), (0.7, 0.9), (1.0, 0.0), (1.0, 1.0), (0.0, 0.9)]
SYNONYMS = {
    "dog": "dog", "puppy": "dog", "hot dog": "hot dog", "wine glass": "wine glass", "bus": "bus", "knife": "knife",
    "person": "person", "man": "person", "children": "person", "child": "person", "tennis racket": "tennis racket",
    "skis": "skis", "table": "dining table", "dining table": "dining table",
}  # fmt: skip


@pytest.fixture(scope="module")
def zero_shot():
    golden = {name: torch.from_numpy(value) for name, value in np.load(GOLDEN / "zeroshot.npz").items()}
    dictionary = VLSAE(32, 128, int(golden["meta/K"]))
    with torch.no_grad():
        dictionary.encoder.copy_(golden["in/encoder"])
    return golden, dictionary.eval()


@torch.no_grad()
@pytest.mark.parametrize("ensemble", ["prototype", "meanact"])
def test_zero_shot_scores_and_predictions_match_for_every_alpha(zero_shot, ensemble):
    golden, dictionary = zero_shot
    for number, alpha in enumerate(golden["out/alphas"].tolist()):
        scores = zero_shot_scores(dictionary, golden["in/x_v"], golden["in/x_t"], alpha, ensemble)
        expected = golden["out/cos_x"] + alpha * golden[f"out/cos_h_{ensemble}"]
        torch.testing.assert_close(scores, expected, atol=2e-6 * (1 + alpha), rtol=0)
        assert scores.argmax(1).tolist() == golden[f"out/pred_{ensemble}"][number].tolist()
    if ensemble == "prototype":
        scores = zero_shot_scores(dictionary, golden["in/x_v"], golden["in/x_t"], 0.5)
        torch.testing.assert_close(scores, golden["out/score_prototype_alpha0.5"], atol=2e-6, rtol=0)


def test_zero_shot_refuses_wrong_arguments(zero_shot):
    golden, dictionary = zero_shot
    with pytest.raises(ValueError, match="ensemble"):
        zero_shot_scores(dictionary, golden["in/x_v"], golden["in/x_t"], 1.0, "mean")
    with pytest.raises(ValueError, match="prompts has shape"):
        zero_shot_scores(dictionary, golden["in/x_v"], golden["in/x_t"][:, 0], 1.0)


class Linear:
    """The auxiliary autoencoder of the golden file: four linear maps."""

    def __init__(self, golden):
        self.golden = golden

    def encode(self, x, stream):
        return self._map(x, "vision_projection" if stream == "vision" else "text_projection")

    def decode(self, e, stream):
        return self._map(e, "vision_decoder" if stream == "vision" else "text_decoder")

    def _map(self, x, name):
        return x @ self.golden[f"aux/{name}.weight"].T + self.golden[f"aux/{name}.bias"]


@pytest.fixture(scope="module")
def shift():
    golden = {name: torch.from_numpy(value) for name, value in np.load(GOLDEN / "hallucination.npz").items()}
    dictionary = VLSAE(24, 96, int(golden["meta/K"]))
    dictionary.load_state_dict({n.removeprefix("sae/"): t for n, t in golden.items() if n.startswith("sae/")})
    images = torch.zeros(1, 30, dtype=torch.bool)
    images[0, golden["in/vis_indices"].long()] = True
    texts = torch.arange(30)[None] > golden["in/vis_indices"].max()
    return golden, dictionary.eval(), Linear(golden), images, texts


@torch.no_grad()
@pytest.mark.parametrize(("alpha", "beta"), MIXES)
def test_token_shift_matches_and_copies_other_tokens(shift, alpha, beta):
    golden, dictionary, autoencoder, images, texts = shift
    hidden = golden["in/hidden"]
    moved = token_shift(hidden, images, texts, dictionary, autoencoder, alpha, beta)
    torch.testing.assert_close(moved, golden[f"a{alpha}_b{beta}/hidden_out"], atol=1e-5, rtol=0)
    assert torch.equal(moved[~texts], hidden[~texts])
    mixed = mix_codes(golden["mid/h_l"], golden["mid/h_v"], beta)
    torch.testing.assert_close(mixed, golden[f"a{alpha}_b{beta}/h_mix"], atol=1e-6, rtol=0)
    active, k = int((mixed != 0).sum()), dictionary.k
    assert active == k if beta in (0.0, 1.0) else k <= active <= 2 * k
    expected = (1 - alpha) * golden["mid/mean_l"] + alpha * golden[f"a{alpha}_b{beta}/recon_text"]
    torch.testing.assert_close(moved[0, texts[0]].mean(0)[None], expected, atol=1e-5, rtol=0)
    if alpha == 0:
        assert torch.equal(moved, hidden)


@torch.no_grad()
def test_token_shift_in_a_batch_is_each_sequence_alone(shift):
    golden, dictionary, autoencoder, images, texts = shift
    two = torch.cat([golden["in/hidden"], golden["in/hidden"].flip(2)])
    masks = images.expand(2, -1), texts.expand(2, -1).clone()
    masks[1][1, -4:] = False
    moved = token_shift(two, *masks, dictionary, autoencoder, 0.8, 0.9, mix="additive")
    alone = token_shift(two[1:], masks[0][1:], masks[1][1:], dictionary, autoencoder, 0.8, 0.9, mix="additive")
    torch.testing.assert_close(moved[1:], alone)
    missing = mix_codes(torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 1.0]]), 0.5, "replace_missing")
    assert missing.tolist() == [[0.5, 2.0]]


def test_token_shift_refuses_masks_that_select_nothing(shift):
    golden, dictionary, autoencoder, images, texts = shift
    with pytest.raises(ValueError, match="text_mask selects no token"):
        token_shift(golden["in/hidden"], images, texts & False, dictionary, autoencoder, 0.8, 0.9)
    with pytest.raises(ValueError, match="same token"):
        token_shift(golden["in/hidden"], images, images, dictionary, autoencoder, 0.8, 0.9)
    with pytest.raises(ValueError, match="mix"):
        token_shift(golden["in/hidden"], images, texts, dictionary, autoencoder, 0.8, 0.9, mix="convexx")


@pytest.mark.parametrize(("name", "function"), [("vlsae", mix_logits), ("vcd", vcd_logits)])
def test_decoding_matches_with_equal_masks(shift, name, function):
    golden = shift[0]
    for key in [key for key in golden if key.startswith(f"logits/{name}_")]:
        alpha, beta = (float(part[1:]) for part in key.split("_")[1:])
        got = function(golden["logits/clean"], golden["logits/other"], alpha, beta)
        torch.testing.assert_close(got, golden[key], atol=1e-5, rtol=0)
        assert torch.equal(got > -math.inf, golden[f"logits/kept_b{beta}"])


def test_the_mask_keeps_the_clean_argmax_and_one_token_where_it_is_sure():
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(10_000, 30, generator=generator) * 4
    mixed = mix_logits(clean, clean.flip(0), 0.6, 0.8)
    kept = mixed > -math.inf
    assert kept.gather(1, clean.argmax(1, keepdim=True)).all()
    sure = clean.softmax(1).max(1).values > 0.5556
    assert sure.any()
    assert (kept[sure].sum(1) == 1).all()
    assert torch.equal(mix_logits(clean, clean.flip(0), 0.0, 0.8)[kept], clean[kept])
    assert torch.equal(mix_logits(clean, clean, 0.0, 0.0), clean)


def test_noise_schedule(shift):
    alpha_bar = vcd_noise_schedule()
    torch.testing.assert_close(alpha_bar, shift[0]["vcd/alpha_bar"], atol=1e-6, rtol=0)
    assert float(alpha_bar[500]) == pytest.approx(0.744799, abs=1e-5)


def test_pope_parsers_on_the_worked_example():
    labels = ["yes", "yes", "no", "no", "no", "yes"]
    answers = ["Yes", "No, there is not", "I don't know", "Yes.", "no", "maybe"]
    reference = pope_scores(answers, labels, parser="reference")
    assert [reference[name] for name in ("tp", "fn", "tn", "fp")] == [1, 2, 2, 1]
    assert reference["accuracy"] == 0.5
    word = pope_scores(answers, labels)
    assert [word[name] for name in ("tp", "fn", "tn", "fp", "unparsed", "n")] == [1, 2, 1, 1, 2, 6]
    assert word["accuracy"] == pytest.approx(1 / 3)
    for scores in (reference, word):
        assert scores["f1"] == pytest.approx(0.4)
        assert scores["precision"] == 0.5
        assert scores["recall"] == scores["yes_ratio"] == pytest.approx(1 / 3)


def test_pope_refuses_other_labels_and_warns_of_empty_ratios():
    with pytest.raises(ValueError, match="label 1 is 'perhaps'"):
        pope_scores(["yes", "no"], ["yes", "perhaps"])
    with pytest.warns(UserWarning, match="precision"):
        assert pope_scores(["no"], ["yes"])["f1"] == 0


def test_chair_on_the_worked_example():
    truth = [{"dog", "frisbee"}, {"car"}, {"person", "bench"}]
    scores = chair_scores([["dog", "dog", "cat"], ["car"], []], truth)
    assert scores["chair_i"] == 0.25
    assert scores["chair_s"] == pytest.approx(1 / 3)
    assert scores["recall"] == pytest.approx(0.4)
    assert scores["mean_mentions"] == pytest.approx(4 / 3)
    assert math.isnan(chair_scores([[]], [set()])["chair_i"])


@pytest.mark.parametrize(
    ("caption", "mentions"),
    [
        ("A puppy eats a hot dog.", ["dog", "hot dog"]),
        ("Two hot dogs, three dogs", ["hot dog", "dog"]),
        ("wine glasses beside knives on buses", ["wine glass", "knife", "bus"]),
        ("The men's dog and a child's Tennis Racket", ["person", "dog", "person", "tennis racket"]),
        ("children on skis at a dining table", ["person", "skis", "dining table"]),
        ("hotdog doghouse", []),
        ("", []),
    ],
)
def test_chair_mentions(caption, mentions):
    assert chair_mentions(caption, SYNONYMS) == mentions


@pytest.mark.shared_data
def test_chair_agrees_with_the_standalone_metric(shared_data):
    folder = shared_data / "chair"
    maps = json.loads((folder / "word_maps.json").read_text())
    synonyms = {word: name for word, name in maps["inverse_synonyms"].items() if word}
    synonyms |= {phrase: synonyms.get(name, name) for phrase, name in maps["double_words"].items() if name in synonyms}
    reference = json.loads((folder / "reference_outputs.json").read_text())
    mentions, truth = [], []
    for sentence in reference["sentences"]:
        found = chair_mentions(sentence["caption"], synonyms)
        assert found == sentence["mscoco_generated_words"]
        mentions.append(found)
        truth.append(set(sentence["mscoco_gt_words"]))
    scores = chair_scores(mentions, truth)
    overall = reference["overall_metrics"]
    assert scores["chair_s"] == overall["CHAIRs"]
    assert scores["chair_i"] == overall["CHAIRi"]
    assert scores["recall"] == pytest.approx(overall["Recall"])


@pytest.mark.parametrize("mixed", [mix_logits, vcd_logits])
def test_a_pass_without_a_say_leaves_the_clean_logits(mixed):
    clean = torch.tensor([[2.0, 1.9, -3.0]])
    other = torch.tensor([[-torch.inf, 0.0, 0.0]])
    assert mixed(clean, other, 0.0, 0.5).tolist() == [[2.0, pytest.approx(1.9), -torch.inf]]
    with pytest.raises(ValueError, match="NaN or inf in the other pass, row 0"):
        mixed(clean, other * torch.nan, 0.6, 0.5)
    with pytest.raises(ValueError, match="alpha must be a finite number"):
        mixed(clean, other, torch.nan, 0.5)
