"""Steering, retrieval, debiasing and explanation: their mathematics, their controls, and mistakes in their settings."""

from __future__ import annotations

import csv
import json

import datasets as hf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file, save_file
from tiny_clip import write_clip
from tiny_lm import write_lm

from vlsae.cli import main
from vlsae.datasets import Shapes
from vlsae.dictionaries import VLSAE, AuxiliaryAutoencoder
from vlsae.enhancement.caption_output import CaptionOutput
from vlsae.enhancement.concept_reference import Directions, attribute, numbered, read_directions
from vlsae.enhancement.continuations import WRITTEN
from vlsae.enhancement.dose_response import Dose, Response, curve_of, more_at_damage
from vlsae.enhancement.steering import Edit, along, concept_change, random_directions, steered
from vlsae.enhancement.task import Work
from vlsae.enhancement.tasks.debias import Debias, planted
from vlsae.enhancement.tasks.explain import Explain, Known, pairs_of, percentile, warned
from vlsae.enhancement.tasks.retrieval import Retrieval, _ranks, read_query
from vlsae.enhancement.tasks.steering import Steering, _effect, _verdict
from vlsae.enhancement.tasks.zero_shot import ZeroShot
from vlsae.enhancement.text_output import in_rows
from vlsae.errors import UserError
from vlsae.models import CLIP, LM, TokenSelection
from vlsae.representations import Store
from vlsae.statistics import Interval


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> CLIP:
    return CLIP(checkpoint=f"path:{write_clip(tmp_path_factory.mktemp('clip'))}")


def dictionary(width: int = 16, seed: int = 0) -> VLSAE:
    torch.manual_seed(seed)
    return VLSAE(width, 64, 8).eval()


SITE = "vision.embedding"


def rows(n: int = 40, width: int = 16, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


# Steering


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.sampled_from(["vision", "language"]), st.booleans())
@torch.no_grad()
def test_an_edit_of_nothing_is_the_identity_bit_for_bit(seed, stream, through):
    torch.manual_seed(seed)
    auxiliary = AuxiliaryAutoencoder(16, 16, 16).eval() if through else None
    x = rows(seed=seed)
    assert torch.equal(steered(dictionary(seed=seed), x, stream, lambda code: code, auxiliary), x)


@torch.no_grad()
def test_edits_move_rows_by_the_decoded_difference_alone():
    own, x = dictionary(), rows()
    code = own.encode(x, "vision").to_dense()
    concept = int(code.count_nonzero(dim=0).argmax())
    has = code[:, concept] > 0
    moved = concept_change(own, "vision", Edit("remove", concept, 1.0), 1.0)(x)
    column = own.vision_decoder.weight[:, concept]
    torch.testing.assert_close(x - moved, code[:, [concept]] * column, atol=1e-5, rtol=0)
    assert torch.equal(moved[~has], x[~has])
    raised = concept_change(own, "vision", Edit("raise", concept, 0.5), 2.0)(x)
    torch.testing.assert_close(raised - x, column.expand_as(x), atol=1e-5, rtol=0)


def test_what_each_action_does_to_a_code():
    code = torch.tensor([[1.0, 0.0, 2.0], [0.2, 3.0, 0.0]])
    assert Edit("raise", 0, 0.5).apply(code, 2.0)[:, 0].tolist() == pytest.approx([2.0, 1.2])
    assert Edit("lower", 0, 0.5).apply(code, 1.0)[:, 0].tolist() == pytest.approx([0.5, 0.0])
    assert Edit("remove", 2, 0.5).apply(code, 0.25)[:, 2].tolist() == pytest.approx([1.5, 0.0])
    swapped = Edit("swap", 0, 0.5, 1).apply(code, 7.0)
    torch.testing.assert_close(swapped, torch.tensor([[0.0, 1.0, 2.0], [0.0, 3.2, 0.0]]))
    assert code[0, 0] == 1
    with pytest.raises(UserError, match="second concept"):
        Edit("swap", 0, 0.5)
    with pytest.raises(UserError, match="Did you mean raise"):
        Edit("rise", 0, 0.5)


@torch.no_grad()
def test_controls_move_rows_as_far_as_the_concept():
    own, x = dictionary(), rows()
    change = concept_change(own, "vision", Edit("lower", 3, 0.6), 1.0)
    for direction in random_directions(16, 2, seed=0):
        moved = along(direction, change)(x)
        torch.testing.assert_close((moved - x).norm(dim=1), (change(x) - x).norm(dim=1), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_direction_is_a_dictionary_of_one_concept(tmp_path):
    vector = np.arange(1, 17, dtype=np.float32)
    np.save(tmp_path / "red.npy", vector)
    np.save(tmp_path / "wrong.npy", np.zeros(16))
    (tmp_path / "red.json").write_text(json.dumps(vector.tolist()))
    one = read_directions([str(tmp_path / "red.npy")], SITE, 16)
    assert torch.equal(one.vectors, read_directions([str(tmp_path / "red.json")], SITE, 16).vectors)
    x = rows()
    gone = concept_change(one, "vision", Edit("remove", 0, 1.0), 1.0)(x)
    torch.testing.assert_close(gone @ one.vectors[0], torch.zeros(len(x)), atol=1e-5, rtol=0)
    with pytest.raises(UserError, match="16 finite numbers"):
        read_directions([str(tmp_path / "wrong.npy")], SITE, 16)
    with pytest.raises(FileNotFoundError, match="no file of a direction"):
        read_directions([str(tmp_path / "blue.npy")], SITE, 16)
    (tmp_path / "bad.safetensors").write_bytes(b"no tensors")
    for wrong, words in (("bad.safetensors", "holds no direction"), ("red.npy#1", "holds one direction")):
        with pytest.raises(UserError, match=words):
            read_directions([str(tmp_path / wrong)], SITE, 16)


def probe_file(folder, width: int = 16, site: str = "vision.1") -> str:
    """Write directions as a probe's run holds them: a factor's, and a target of three classes."""
    generator = np.random.default_rng(3)
    tensors = {
        f"{site}/{target}/{part}": generator.normal(size=size).astype(np.float32)
        for target, classes in (("color=red", 1), ("shape", 3))
        for part, size in (("weight", (classes, width)), ("bias", (classes,)))
    }
    save_file(tensors, folder / "directions.safetensors")
    return str(folder / "directions.safetensors")


def test_a_direction_of_a_probe_is_named_in_its_file(tmp_path):
    file = probe_file(tmp_path)
    one = read_directions([f"{file}#vision.1/color=red", f"{file}#vision.1/shape/2"], "vision.1", 16)
    assert one.factors == ["color=red", None]
    expected = load_file(file)["vision.1/shape/weight"][2]
    torch.testing.assert_close(one.vectors[1], torch.from_numpy(expected / np.linalg.norm(expected)))
    x = rows()
    swapped = concept_change(one, "vision", Edit("swap", 0, 1.0, 1), 1.0)(x)
    moved = (x @ one.vectors[0])[:, None] * (one.vectors[1] - one.vectors[0])
    torch.testing.assert_close(swapped, x + moved, atol=1e-5, rtol=0)
    for name, words in (
        ("", "holds 4 tensors"),
        ("#vision.1/color=rad", "color=red"),
        ("#vision.1/shape", "has 3 directions"),
        ("#vision.1/shape/3", "has 3 directions"),
    ):
        with pytest.raises(UserError, match=words):
            read_directions([file + name], "vision.1", 16)
    with pytest.raises(UserError, match=r"is a direction of vision\.1; the dictionary reads vision\.2"):
        read_directions([f"{file}#vision.1/color=red"], "vision.2", 16)


def test_the_divergence_splits_by_the_chain_rule():
    images, captions = rows(6), rows(10, seed=2)
    wanted = np.arange(10) < 4
    output = CaptionOutput(images, captions, wanted, scale=5.0)
    moved = rows(6, seed=3)
    response = output.respond(lambda x: moved)
    clean, after = (torch.log_softmax(5 * torch.nn.functional.normalize(x, dim=1) @ torch.nn.functional.normalize(
        captions, dim=1).T, dim=1).double() for x in (images, moved))  # fmt: skip
    whole = (clean.exp() * (clean - after)).sum(dim=1).numpy()
    p, q = (log[:, :4].exp().sum(dim=1).numpy() for log in (clean, after))
    between = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    np.testing.assert_allclose(response.damage + between, whole, atol=1e-5)
    np.testing.assert_allclose(response.wanted, q - p, atol=1e-6)
    still = output.respond(lambda x: x)
    assert still.wanted.tolist() == [0] * 6
    assert still.damage.tolist() == [0] * 6
    with pytest.raises(UserError, match="0 captions have what is wanted"):
        CaptionOutput(images, captions, wanted & False, scale=5.0)


def test_wanted_effect_at_a_damage_lies_between_strengths():
    found = [Dose("concept", s, Response(np.array([w]), np.array([d]))) for s, w, d in
             ((0, 0.0, 0.0), (1, 0.2, 0.05), (2, 0.4, 0.15))]  # fmt: skip
    curve = curve_of(found, "concept", seed=0, resamples=5)
    assert curve.at(0.1).tolist() == pytest.approx([0.3] * 6)
    assert curve.at(9.0)[0] == pytest.approx(0.4)
    assert curve.reach == 0.15


@given(st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_methods_are_compared_at_a_damage_that_both_reach(seed):
    generator = np.random.default_rng(seed)
    slopes = generator.uniform(0.1, 1, 2)

    def curve(name: str, slope: float, most: float):
        strengths = np.linspace(0, most, 4)
        noise = generator.normal(0, 0.01, (50, 4))
        return curve_of([Dose(name, s, Response(slope * s + noise[:, i] * s, np.full(50, s))) for i, s in
                         enumerate(strengths)], name, seed=seed, resamples=100)  # fmt: skip

    own, other = curve("concept", slopes[0], 2.0), curve("random", slopes[1], 0.5)
    damage, gain = more_at_damage(own, other, 1.0)
    assert damage == 0.5
    assert gain.low < gain.estimate < gain.high
    assert gain.estimate == pytest.approx(0.5 * (slopes[0] - slopes[1]), abs=0.01)
    assert more_at_damage(own, own, 1.0)[1].estimate == 0


def test_a_verdict_tells_which_way_and_whether_at_all():
    assert _verdict(Interval(0.2, 0.05, 0.1, 0.3, np.array([])), "x", "nats") == (
        "the concept brings 0.2 (0.1 to 0.3 nats) more of what is wanted than x of equal norm."
    )
    assert "0.2 (0.1 to 0.3 nats) less" in _verdict(Interval(-0.2, 0.05, -0.3, -0.1, np.array([])), "x", "nats")
    assert _effect(Interval(0.2, 0.05, 0.1, 0.3, np.array([])), "nats") == (
        "the concept changes what is wanted by +0.2 (+0.1 to +0.3 nats)."
    )
    assert _effect(Interval(-0.2, 0.05, -0.3, -0.1, np.array([])), "nats").endswith(": it works against it.")
    assert _effect(Interval(0.2, 0.3, -0.1, 0.5, np.array([])), "nats").endswith(": no effect is shown.")
    assert "no difference" in _verdict(Interval(0.2, 0.3, -0.1, 0.5, np.array([])), "x", "nats")


def test_token_states_change_row_by_row():
    hidden = rows(12).reshape(3, 4, 16)
    assert in_rows(hidden, lambda x: x) is hidden
    torch.testing.assert_close(in_rows(hidden, lambda x: 2 * x), 2 * hidden)


def test_steering_a_factor_of_the_world(clip):
    task = Steering(data=Shapes(n=200), concept="color=red", strengths=[1.0, 4.0], randoms=2, texts=60)
    task.work = Work(resamples=20)
    result = task.evaluate(clip, dictionary())
    table = result.tables[0]
    assert {row[0] for row in table.rows} == {"concept", "random", "mean_difference"}
    zero = [row for row in table.rows if row[1] == 0]
    assert all(row[2] == 0 and row[5] == 0 for row in zero)
    assert set(result.headline) <= set(result.metrics)
    assert {item["method"] for item in task.work.items} == {"concept", "random", "mean_difference"}


@pytest.mark.parametrize(
    ("concept", "words"),
    [("color=rad", "color=red"), ("99", "has 0…63"), ("redness", "no concept 'redness'"), ("gone.npy", "no file")],
)
def test_a_concept_that_is_not_there_is_named(clip, concept, words):
    task = Steering(data=Shapes(n=60), concept=concept)
    task.work = Work(resamples=20)
    with pytest.raises(UserError, match=words):
        task.evaluate(clip, dictionary())


def test_a_dictionary_of_another_site_is_refused(clip):
    task = Steering(data=Shapes(n=60), concept=1)
    task.work = Work(sites={"vision": "vision.embedding", "language": "language.2"})
    with pytest.raises(UserError, match=r"trained on vision\.embedding and language\.2; this task works on vision"):
        task.evaluate(clip, dictionary())
    task.work = Work(sites={"vision": "vision.20"})
    with pytest.raises(UserError, match=r"reads vision\.20, which the model has not got"):
        task.evaluate(clip, dictionary())
    task.work = Work(sites={"vision": "vision.1"})
    with pytest.raises(UserError, match="reads no captions"):
        task.evaluate(clip, dictionary(clip.sites()["vision.1"].width))


@pytest.mark.parametrize("through", [False, True])
def test_a_layer_of_the_vision_tower_is_steered(clip, through):
    width, other = (clip.sites()[f"{stream}.1"].width for stream in ("vision", "language"))
    own = dictionary(width)
    task = Steering(data=Shapes(n=200), concept="color=red", strengths=[2.0], randoms=2, texts=40)
    task.work = Work(resamples=20, sites={"vision": "vision.1"})
    if through:
        auxiliary = AuxiliaryAutoencoder(width, other, width).eval()
        sites = {"vision": "vision.1", "language": "language.1"}
        task.work = Work(resamples=20, sites=sites, auxiliary=auxiliary)
    result = task.evaluate(clip, own)
    cells = {(row[0], row[1]): row for row in result.tables[0].rows}
    assert cells["concept", 0.0][2] == cells["concept", 0.0][5] == 0
    assert cells["concept", 2.0][5] > 0
    assert cells["random", 2.0][5] > 0
    assert "at vision.1" in result.notes[0]


def test_a_direction_of_a_probe_steers_at_its_layer(clip, tmp_path):
    width, other = (clip.sites()[f"{stream}.1"].width for stream in ("vision", "language"))
    file = probe_file(tmp_path, width)
    task = Steering(data=Shapes(n=200), concept=f"{file}#vision.1/color=red", strengths=[2.0], randoms=2, texts=40)
    # The autoencoder in front of the dictionary maps to another space than the probe's: it has no part in this.
    auxiliary = AuxiliaryAutoencoder(width, other, width).eval()
    task.work = Work(resamples=20, sites={"vision": "vision.1", "language": "language.1"}, auxiliary=auxiliary)
    cells = {(row[0], row[1]): row for row in task.evaluate(clip, dictionary(width)).tables[0].rows}
    assert cells["concept", 0.0][2] == cells["concept", 0.0][5] == 0
    assert cells["concept", 2.0][5] > 0
    for changes, words in (
        ({"concept": f"{file}#vision.1/shape/0"}, "Which captions have"),
        ({"action": "swap", "other": 3}, "a direction and a concept"),
    ):
        wrong = Steering(**{"data": Shapes(n=200), "concept": f"{file}#vision.1/color=red", "texts": 40, **changes})
        wrong.work = task.work
        with pytest.raises(UserError, match=words):
            wrong.evaluate(clip, dictionary(width))


@torch.no_grad()
def test_the_class_token_alone_moves_and_an_edit_of_nothing_nothing(clip):
    from vlsae.enhancement.layer_images import LayerImages, moved_tokens

    data = Shapes(n=6)
    places = LayerImages(clip, data, data.table["sample_id"], "vision.1")
    hidden = rows(12).reshape(3, 4, 16)
    moved = moved_tokens(hidden, hidden[:, 0], lambda x: 2 * x)
    torch.testing.assert_close(moved[:, 0], 2 * hidden[:, 0])
    assert torch.equal(moved[:, 1:], hidden[:, 1:])
    all_alike = moved_tokens(hidden, hidden.mean(1), lambda x: x + 1)
    torch.testing.assert_close(all_alike, hidden + 1)
    assert moved_tokens(hidden, hidden[:, 0], lambda x: x) is hidden
    assert torch.equal(places.embeddings(lambda x: x), places.embeddings(None))
    assert not torch.equal(places.embeddings(lambda x: x + 1), places.embeddings(None))
    alone, among = places.take([4]).embeddings(lambda x: x + 1), places.embeddings(lambda x: x + 1)[4:5]
    torch.testing.assert_close(alone, among, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_images_as_they_are_pass_once_however_often_they_are_changed(clip, monkeypatch):
    from vlsae.enhancement.layer_images import LayerImages

    data, asked = Shapes(n=6), []
    own = clip.represent
    monkeypatch.setattr(
        clip, "represent", lambda batch, sites, tokens: asked.append(sites[0]) or own(batch, sites, tokens)
    )
    places = LayerImages(clip, data, data.table["sample_id"], "vision.1")
    first = places.embeddings(lambda x: x + 1)
    again = places.embeddings(lambda x: x + 2)
    assert asked == ["vision.1", "vision.embedding", "vision.embedding"]
    assert torch.equal(places.embeddings(lambda x: x + 1), first)
    assert not torch.equal(first, again)
    assert len(places.values()) == 6
    assert asked.count("vision.1") == 1


def test_names_and_attributes():
    concepts = [{"id": 4, "name": "Red things"}, {"id": 5, "name": None}]
    assert numbered("red things", dictionary(), concepts) == 4
    assert numbered("7", dictionary(), concepts) == 7
    assert numbered("blue", dictionary(), concepts) is None
    with pytest.raises(UserError, match="2 concepts are named 'red things': 4, 6"):
        numbered("red things", dictionary(), [*concepts, {"id": 6, "name": "red things"}])
    data = Shapes(n=50)
    red = attribute(data, data.table, "color=red")
    assert red.tolist() == [any(one["color"] == "red" for one in row["objects"]) for row in data.table]
    assert Directions(torch.ones(1, 4)).n_concepts == 1


# Mistakes

SINGLE = {"_target_": "vlsae.datasets.Shapes", "n": 60, "hard": True, "max_objects": 1}


@pytest.mark.parametrize(
    ("task", "wrong", "words"),
    [
        (ZeroShot, {"templates": [""]}, "A template is empty"),
        (ZeroShot, {"templates": ["a thing"]}, "no place for the class's name"),
        (ZeroShot, {"data": SINGLE, "prompts": "shapes", "classes": ["circle", "sqare"]}, "not in the data"),
        (ZeroShot, {"data": SINGLE, "label": "shap"}, "Did you mean shape"),
        (Steering, {"concept": "gone.npy"}, "no file of a direction"),
        (Steering, {"action": "swap"}, "needs a second concept"),
        (Retrieval, {"queries": ["red"]}, "cannot be read"),
        (Debias, {"data": SINGLE, "target": "shape=ring", "spurious": "shape=ring"}, "are both shape=ring"),
        (Debias, {"data": SINGLE, "target": "shape=rng", "spurious": "background=black"}, "Did you mean shape=ring"),
    ],
)
def test_mistakes_are_found_before_anything_is_made(task, wrong, words):
    with pytest.raises(UserError, match=words):
        task.check(wrong)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [("model=llava", "model=vlm has none"), ("train.sites=6", "was trained on vision.6 and language.6")],
)
def test_a_model_or_a_site_that_cannot_serve_makes_no_run(tmp_path, capsys, wrong, words):
    assert main(["enhance", "task=zero_shot", wrong, f"runs_dir={tmp_path}"]) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.rglob("manifest.json"))


# Steering a language model


@pytest.fixture(scope="module")
def language_model(tmp_path_factory) -> LM:
    return LM(checkpoint=f"path:{write_lm(tmp_path_factory.mktemp('lm'), 'llama')}")


SENTENCES = [
    f"The {a} {b} sat on the {c}." for a in ("old", "red", "big") for b in ("cat", "dog") for c in ("mat", "sea")
]


def language_task(**changes) -> Steering:
    columns = {
        "sample_id": [str(n) for n in range(len(SENTENCES))],
        "texts": [[text] for text in SENTENCES],
        "group": [str(n) for n in range(len(SENTENCES))],
        "split": ["validation"] * len(SENTENCES),
    }
    table = hf.Dataset.from_dict(columns)
    data = type("Texts", (), {"table": table, "__len__": lambda self: len(table)})()
    task = Steering(**{"data": data, "concept": 5, "strengths": [2.0], "randoms": 2, "texts": 3, **changes})
    task.work = Work(sites={"language": "language.2"}, resamples=20)
    return task


def often_active(model: LM, own: VLSAE) -> int:
    batch = model.prepare(None, SENTENCES)
    rows = model.represent(batch, ["language.2"], TokenSelection(pooling="tokens"))["language.2"].values
    return int((own.encode(rows.float(), "language").to_dense() > 0).sum(dim=0).argmax())


def test_a_language_model_is_steered_at_its_layer(language_model):
    own = dictionary(width=32)
    task = language_task(concept=often_active(language_model, own))
    result = task.evaluate(language_model, own)
    rows = {(row[0], row[1]): row for row in result.tables[0].rows}
    assert {method for method, _ in rows} == {"concept", "random", "mean_difference"}
    still = rows["concept", 0.0]
    assert still[2] == 0
    assert still[5] == pytest.approx(0, abs=1e-6)
    assert still[8] == 0
    assert rows["concept", 2.0][5] > 0
    assert "loss on neutral text" in result.tables[0].columns[8]
    assert Steering.wants_sites({}, LM) == ()
    texts = result.tables[1]
    assert texts.name == "continuations"
    ways = {row[1] for row in texts.rows}
    assert ways == {0.0, 1.0, 2.0}
    as_it_is = {row[0]: row[2] for row in texts.rows if row[1] == 0}
    assert any(row[2] != as_it_is[row[0]] for row in texts.rows)
    for beginning, written in as_it_is.items():
        batch = language_model.prepare(None, [beginning])
        found = language_model.module.generate(
            input_ids=batch.language, attention_mask=batch.mask.long(), max_new_tokens=WRITTEN, do_sample=False
        )
        own = found[0, batch.language.shape[1] :].tolist()
        assert language_model.tokenizer.decode(own, skip_special_tokens=True) == written
    # What was hooked is free again.
    batch = language_model.prepare(None, SENTENCES[:1])
    assert torch.equal(language_model.logits(batch), language_model.logits(batch))


def test_a_language_model_needs_a_dictionary_of_a_layer(language_model):
    task = language_task()
    task.work = Work(sites={"language": "language.embedding"})
    with pytest.raises(UserError, match="behind which no block runs"):
        task.evaluate(language_model, dictionary(width=32))


# Retrieval


def test_ties_and_equal_captions():
    similarity = torch.tensor([[1.0, 1.0, 0.0], [0.0, 2.0, 1.0], [3.0, 0.0, 3.0]])
    found = _ranks(similarity, np.eye(3, dtype=bool))
    assert found["text_of_image"].tolist() == [2, 1, 2]
    assert found["image_of_text"].tolist() == [2, 1, 1]
    same = np.eye(3, dtype=bool)
    same[0, 1] = same[1, 0] = True
    assert _ranks(similarity, same)["text_of_image"].tolist() == [1, 1, 2]


def test_queries_have_signs():
    assert read_query('+red -17 +"big dog"') == [(1, "red"), (-1, "17"), (1, "big dog")]
    for wrong in ("red", "+red blue", ""):
        with pytest.raises(UserError, match="cannot be read"):
            read_query(wrong)


def test_retrieval_and_search(clip):
    queries = ["+color=red -shape=star", "+color=red +shape=star"]
    task = Retrieval(data=Shapes(n=160), pool=60, controls=["dense"], alphas=[0.5], queries=queries)
    task.work = Work(resamples=20)
    before, after = task.evaluate(clip, None), task.evaluate(clip, dictionary())
    assert set(before.metrics) < set(after.metrics)
    assert len(before.scores["text_of_image/r1"]) == 60
    assert after.metrics["search/+color=red -shape=star/precision"].value is not None
    search = after.tables[1]
    assert [table.name for table in after.tables[1:]] == ["search_1", "search_2"]
    assert "(which finds color=red), −concept" in search.description
    assert len(search.pictures) == 10
    assert "with dense (α " in after.notes[0]
    assert [row[0] for row in search.rows] == list(range(1, 11))
    scores = [row[2] for row in search.rows]
    assert scores == sorted(scores, reverse=True)
    plain = Retrieval(data=Shapes(n=160), pool=60, alpha=0.0, controls=[])
    plain.work = Work(resamples=20)
    assert plain.evaluate(clip, dictionary()).metrics["text_of_image/r1"] == before.metrics["text_of_image/r1"]


# Debiasing


@pytest.fixture(scope="module")
def biased(clip) -> Debias:
    task = Debias(data=Shapes(n=900, cooccurrence=0.9), spurious="shape=circle", plant=None, counts=[1, 4], randoms=2)
    task.work = Work(resamples=20)
    return task


def test_the_worst_group_before_and_after(clip, biased):
    before, after = biased.evaluate(clip, None), biased.evaluate(clip, dictionary())
    data = biased._held
    parts = [set(part.tolist()) for part in (data.fitting, data.choosing, data.scored)]
    assert sum(map(len, parts)) == len(set.union(*parts))
    rows = {row[0]: row for row in after.tables[0].rows}
    assert set(rows) == {"clip", "concepts", "random_concepts", "mean_difference", "balanced_groups", "rows scored"}
    assert before.metrics["worst_group"].value == pytest.approx(min(rows["clip"][3:]))
    assert rows["clip"][2] == pytest.approx(before.metrics["accuracy"].value)
    assert len(after.replicates["worst_group"]) == 20
    assert after.metrics["removed"].value in (1, 4)


def test_a_bias_is_planted_by_leaving_out_rows():
    agree = np.random.default_rng(0).random(1000) < 0.6
    rows = np.arange(0, 1000, 2)
    kept = planted(rows, agree, 0.9, seed=0)
    assert set(kept) <= set(rows)
    assert set(rows[agree[rows]]) <= set(kept)
    assert agree[kept].mean() == pytest.approx(0.9, abs=0.005)
    assert planted(rows, agree, 0.5, seed=0).tolist() == rows.tolist()


def test_a_group_that_is_hardly_there_is_named(clip):
    task = Debias(data=Shapes(n=60))
    with pytest.raises(UserError, match=r"Of the group '.*' \d+ \w+ rows are there"):
        task.evaluate(clip, None)


# Explanation


@pytest.fixture
def trained(tmp_path, clip) -> Work:
    from vlsae.models.base import TokenSelection
    from vlsae.representations.extraction import extract_rows

    path = tmp_path / "representations"
    sites = ["vision.embedding", "language.embedding"]
    extract_rows(clip, Shapes(n=60), path, sites=sites, tokens=TokenSelection(), samples=60,
                 split={"seed": 0, "validation": 0.2, "test": 0.0}, dtype="float32")  # fmt: skip
    folder = tmp_path / "run"
    folder.mkdir()
    return Work(
        training=Store.open(path),
        sites={site.split(".")[0]: site for site in sites},
        concepts=[
            {"id": i, "name": f"thing {i}", "texts": [], "images": [], "mean_activation": 0.1} for i in range(64)
        ],
        folder=folder,
        resamples=20,
    )


def test_the_parts_of_a_pair_sum_to_its_cosine(clip, trained, tmp_path):
    for number in range(2):
        Image.fromarray(Shapes(n=2).images([number])[0]).save(tmp_path / f"{number}.png")
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "text"], ["0.png", "a red circle"], ["1.png", "a blue square"]])
    task = Explain(pairs=str(tmp_path / "pairs.csv"), mismatched=50)
    task.work = trained
    result = task.evaluate(clip, dictionary())
    content = json.loads((trained.folder / "explanation.json").read_text())
    assert len(content) == 2
    for one in content:
        assert sum(row["contribution"] for row in one["shared"]) == pytest.approx(one["cosine"], abs=1e-6)
        assert 0 <= one["percentile"] <= 100
        scores = [row["score"] for row in one["shared"]]
        assert scores == sorted(scores, reverse=True)
        assert all(row["image above median"] is row["contribution"] is None for row in one["text only"])
    assert {row[1] for row in result.tables[1].rows} <= {"shared", "image only", "text only"}
    assert (trained.folder / "concepts.jsonl").read_text().count("\n") > 0
    assert result.tables[1].rows[0][3].startswith("thing ")
    assert all(picture.startswith(b"\x89PNG") for picture in result.tables[0].pictures)
    assert len(result.tables[0].pictures) == 2
    assert result.notes[0].startswith("Pair 1: cosine of codes ")
    assert not any(word in " ".join(result.notes) for word in ("circle", "0.png", "thing"))  # A page may be redacted.
    assert f"above {content[0]['percentile']:.1f} % of 50 mismatched pairs" in result.notes[0]
    assert len(result.notes) == 3
    assert "hardly tells pairs that belong together" in result.notes[2]  # An untrained dictionary.


def test_a_dictionary_that_tells_pairs_apart_is_not_warned_of():
    def known(matched: list[float]) -> Known:
        return Known(np.zeros(1), 1, {}, {}, np.array([0.0, 0.1, 0.2]), np.array(matched))

    assert warned(known([0.3, 0.15])) == []
    assert warned(known([])) == []
    assert "0.000 and 0.100" in warned(known([0.0, 0.0]))[0]


def test_percentile_counts_ties_half():
    assert percentile(2.0, np.array([1.0, 2.0, 2.0, 3.0])) == 50
    assert percentile(2.0, np.array([])) is None


def test_an_image_that_is_none_is_refused_before_anything_is_made(tmp_path):
    (tmp_path / "cat.png").write_text("no picture")
    with pytest.raises(UserError, match=r"cat\.png: unreadable image"):
        Explain.check({"image": str(tmp_path / "cat.png"), "text": "a cat"})


def test_no_more_than_all_of_a_concept_is_taken_out():
    assert Steering(action="remove", strength=3.0).strengths == [0.0, 0.5, 1.0]
    assert Steering(action="swap", other=3, strengths=[0.2]).strengths == [0.0, 0.2, 1.0]
    assert Steering(strengths=[2.0]).strengths == [0.0, 1.0, 2.0]


def test_wrong_pairs_are_named(tmp_path):
    picture = tmp_path / "cat.png"
    Image.new("RGB", (8, 8)).save(picture)
    for image, text, words in ((None, "x", "no image"), (str(picture), None, "no text"), (str(picture), " ", "no text"),
                               (str(tmp_path / "dog.png"), "x", "there is no image")):  # fmt: skip
        with pytest.raises(UserError, match=words):
            pairs_of(image, text, None)
    file = tmp_path / "pairs.csv"
    for content, words in (("image,caption\n", "columns image, caption"), ("image,text\n", "no pairs"),
                           ("image,text\ncat.png,\n", "line 2.*empty"),
                           ("image,text\ndog.png,x\n", "line 2.*dog")):  # fmt: skip
        file.write_text(content)
        with pytest.raises(UserError, match=words):
            pairs_of(None, None, str(file))
    with pytest.raises(UserError, match="Both"):
        pairs_of(str(picture), "x", str(file))


def test_explaining_needs_the_rows_trained_on(clip, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "cat.png")
    with pytest.raises(UserError, match="rows that the dictionary was trained on"):
        Explain(image=str(tmp_path / "cat.png"), text="a red circle").evaluate(clip, dictionary())
