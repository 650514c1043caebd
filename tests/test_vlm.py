"""model=vlm: joint sequences of the original model, image spans, roles, padding, edits, and refusals."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_vlm import LAYERS, TEXTS, WIDTH, original, pictures, write_vlm

from vlsae.cli import main
from vlsae.datasets import Shapes
from vlsae.errors import MissingFile, UserError
from vlsae.models import VLM, TokenSelection
from vlsae.models.base import ROLES
from vlsae.models.vlm_structure import decoder_path
from vlsae.representations import Store
from vlsae.testing import check

ALL = TokenSelection(pooling="tokens", include="all")
WHOLE = TokenSelection(pooling="mean", include="all")
SIZES = ((40, 32), (30, 60), (64, 24))
FAMILIES = ("llava", "qwen")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {family: write_vlm(tmp_path_factory.mktemp(family), family) for family in FAMILIES}


@pytest.fixture(scope="module")
def models(folders):
    return {family: VLM(checkpoint=f"path:{folder}") for family, folder in folders.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_contract(folders, family):
    check(VLM, checkpoint=f"path:{folders[family]}")


@pytest.mark.parametrize("family", FAMILIES)
def test_each_site_is_what_a_hook_on_the_original_module_sees(folders, models, family):
    model, truth = models[family], original(folders[family])
    batch = model.prepare(pictures(*SIZES), TEXTS)
    seen: dict[str, torch.Tensor] = {}
    blocks = truth.model.language_model.layers

    def keep(name):
        def after(module, args, output):
            seen[name] = output[0] if isinstance(output, tuple) else output

        return after

    def before(module, args, kwargs):
        seen["0"] = args[0] if args else kwargs["hidden_states"]

    blocks[0].register_forward_pre_hook(before, with_kwargs=True)
    for number, block in enumerate(blocks):
        block.register_forward_hook(keep(str(number + 1)))
        block.self_attn.register_forward_hook(keep(f"{number + 1}.attention"))
        block.mlp.register_forward_hook(keep(f"{number + 1}.mlp"))
    truth.model.language_model.norm.register_forward_hook(keep("embedding"))
    with torch.no_grad():
        truth(**batch.inputs)
    assert len(model.sites()) == 2 * len(seen) == 2 * (3 * LAYERS + 2)
    rows = model.represent(batch, list(model.sites()), ALL)
    for site, found in rows.items():
        stream, _, layer = site.partition(".")
        torch.testing.assert_close(found.values, seen[layer][batch.image if stream == "vision" else batch.words])
    pooled = model.represent(batch, ["vision.2", "language.2"], WHOLE)
    for stream, mask in (("vision", batch.image), ("language", batch.words)):
        for number in range(3):
            expected = seen["2"][number, mask[number]].mean(0)
            torch.testing.assert_close(pooled[f"{stream}.2"].values[number], expected)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_an_item_has_the_same_rows_alone_and_in_a_batch(tmp_path, family, side):
    model = VLM(checkpoint=f"path:{write_vlm(tmp_path / family, family, side=side)}")
    model.load(dtype="float64")
    sites = ["vision.0", "language.0", f"vision.{LAYERS}", f"language.{LAYERS}", "language.embedding"]
    images = pictures(*SIZES)
    together = model.represent(model.prepare(images, TEXTS), sites, WHOLE)
    for number in range(3):
        alone = model.represent(model.prepare(images[number : number + 1], TEXTS[number : number + 1]), sites, WHOLE)
        for site in sites:
            # Rotary angles are float32 whatever the weights are.
            torch.testing.assert_close(
                alone[site].values[0], together[site].values[number].double(), rtol=1e-5, atol=1e-6, check_dtype=False
            )


@pytest.mark.parametrize("family", FAMILIES)
def test_an_images_rows_do_not_depend_on_its_text(models, family):
    model, images = models[family], pictures(*SIZES)
    bare = model.represent(model.prepare(images), ["vision.3"])["vision.3"].values
    told = model.represent(model.prepare(images, TEXTS), ["vision.3"])["vision.3"].values
    torch.testing.assert_close(bare, told, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_several_texts_of_an_image_and_none(models, family):
    model, images = models[family], pictures(*SIZES)
    batch = model.prepare(images, TEXTS, owners=[2, 0, 2])
    rows = model.represent(batch, ["vision.2", "language.2"])
    assert rows["vision.2"].sample.tolist() == rows["language.2"].sample.tolist() == [0, 1, 2]
    for number, owner in enumerate((2, 0, 2)):
        alone = model.represent(model.prepare([images[owner]], [TEXTS[number]]), ["vision.2", "language.2"])
        torch.testing.assert_close(
            alone["language.2"].values[0], rows["language.2"].values[number], rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(alone["vision.2"].values[0], rows["vision.2"].values[owner], rtol=1e-4, atol=1e-5)
    unseen = model.represent(model.prepare([images[1]], [TEXTS[1]]), ["language.2"])["language.2"].values
    assert not torch.allclose(unseen[0], rows["language.2"].values[1], atol=1e-3)


def test_the_image_span_follows_the_images_size(models):
    batch = models["qwen"].prepare(pictures((64, 64), (16, 16), (64, 16)), TEXTS)
    assert batch.image.sum(1).tolist() == [64, 4, 16]
    rows = models["qwen"].represent(batch, ["vision.1"], ALL)["vision.1"]
    assert np.bincount(rows.sample).tolist() == [64, 4, 16]
    assert set(rows.token.tolist()) == {-1}
    assert {ROLES[role] for role in rows.role.tolist()} == {"image"}
    assert models["llava"].prepare(pictures((64, 64)), ["x"]).image.sum().item() == 16


@pytest.mark.parametrize(
    ("family", "behind"),
    [("llava", "\n{} ASSISTANT:"), ("qwen", "<|vision_end|>{}<|im_end|>\n<|im_start|>assistant\n")],
)
def test_roles_behind_the_image(models, family, behind):
    model = models[family]
    batch = model.prepare(pictures(*SIZES), TEXTS)
    for number, text in enumerate(TEXTS):
        ids, role = batch.language[number], batch.role[number]
        assert model.tokenizer.decode(ids[role == ROLES.index("text")]) == text
        assert model.tokenizer.decode(ids[batch.words[number]]) == behind.format(text)
    content = model.represent(batch, ["language.1"], TokenSelection(pooling="tokens"))["language.1"]
    assert np.bincount(content.sample).tolist() == [len(text.encode()) for text in TEXTS]


def test_the_system_prompt_counts_where_all_words_do(folders):
    model = VLM(checkpoint=f"path:{folders['qwen']}", span="words")
    batch = model.prepare(pictures(SIZES[0]), TEXTS[:1])
    words = model.tokenizer.decode(batch.language[0][batch.words[0]])
    assert words == "system\nYou see.\nuser\na red circle\nassistant\n"
    assert model.digest() != VLM(checkpoint=f"path:{folders['qwen']}").digest()


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_follow_their_question(folders, family):
    model = VLM(checkpoint=f"path:{folders[family]}", input="prompt_and_answer")
    batch = model.prepare(pictures(*SIZES), TEXTS, answers=["no", "yes .", "a ring"])
    for number, answer in enumerate(["no", "yes .", "a ring"]):
        own = batch.language[number][batch.role[number] == ROLES.index("answer")]
        assert model.tokenizer.decode(own) == answer
    rows = model.represent(batch, ["language.3"], TokenSelection(pooling="tokens", include="answer"))["language.3"]
    assert np.bincount(rows.sample).tolist() == [2, 5, 6]
    losses = model.losses(batch)
    assert torch.isnan(losses[batch.image]).all()
    assert torch.isfinite(losses[batch.role == ROLES.index("answer")]).all()
    with pytest.raises(UserError, match="has no answers"):
        model.prepare(pictures(*SIZES), TEXTS)


def test_texts_without_images_are_read_alone(models):
    model = models["llava"]
    batch = model.prepare(texts=TEXTS)
    assert not batch.image.any()
    assert model.tokenizer.decode(batch.language[0][batch.role[0] == ROLES.index("text")]) == TEXTS[0]
    assert model.represent(batch, ["language.2"])["language.2"].values.shape == (3, WIDTH)
    with pytest.raises(UserError, match="the batch has no images"):
        model.represent(batch, ["vision.2"])


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_are_padded_on_the_left_and_continue_as_they_do_alone(models, family):
    model, images = models[family], pictures(*SIZES)
    prompted = model.prompted(images, TEXTS)
    assert prompted.pixels_key == "pixel_values"
    assert prompted.inputs["attention_mask"][:, -1].all()
    assert prompted.text_mask[:, -1].all()
    assert not (prompted.text_mask & prompted.image_mask).any()
    words = {"max_new_tokens": 4, "do_sample": False}
    together = model.module.generate(**prompted.inputs, **words)[:, -4:]
    for number in range(3):
        alone = model.prompted(images[number : number + 1], TEXTS[number : number + 1])
        assert torch.equal(model.module.generate(**alone.inputs, **words)[0, -4:], together[number])
        assert alone.image_mask.sum() == prompted.image_mask[number].sum()
        assert alone.text_mask.sum() == prompted.text_mask[number].sum()
    assert [type(block) for block in model.blocks] == [type(model.blocks[0])] * LAYERS


@pytest.mark.parametrize("family", FAMILIES)
def test_an_edit_changes_what_runs_behind_it(models, family):
    model = models[family]
    batch = model.prepare(pictures(*SIZES), TEXTS)
    plain, scores = model.represent(batch, ["vision.1", "language.3"], WHOLE), model.logits(batch)
    with model.edit("language.2", lambda hidden: hidden + 1):
        edited, moved = model.represent(batch, ["vision.1", "language.3"], WHOLE), model.logits(batch)
    assert torch.equal(plain["vision.1"].values, edited["vision.1"].values)
    assert not torch.allclose(plain["language.3"].values, edited["language.3"].values)
    assert not torch.allclose(scores, moved)
    assert torch.equal(model.logits(batch), scores)
    with pytest.raises(UserError, match="output"), model.edit("language.embedding", lambda hidden: hidden):
        pass


@pytest.mark.parametrize("side", ["right", "left"])
def test_longer_texts_are_cut_and_counted(folders, side):
    whole = VLM(checkpoint=f"path:{folders['qwen']}").prepare(pictures(SIZES[0]), ["abcdefgh"])
    limit = whole.language.shape[1] - 3
    model = VLM(checkpoint=f"path:{folders['qwen']}", max_length=limit, truncation=side)
    batch = model.prepare(pictures(SIZES[0]), ["abcdefgh"])
    assert batch.language.shape[1] == limit
    text = model.tokenizer.decode(batch.language[0][batch.role[0] == ROLES.index("text")])
    assert text == {"right": "abcde", "left": "defgh"}[side]
    assert model.input_counts() == {"truncated": 1}
    with pytest.raises(UserError, match="shorter than an image"):
        VLM(checkpoint=f"path:{folders['qwen']}", max_length=20).prepare(pictures(SIZES[0]), ["abcdefgh"])
    with pytest.raises(UserError, match="longer than the limit"):
        VLM(checkpoint=f"path:{folders['qwen']}", max_length=limit, truncation="error").prepare(
            pictures(SIZES[0]), ["abcdefgh"]
        )


def test_nothing_is_loaded_for_sites_and_digest(folders):
    model = VLM(checkpoint=f"path:{folders['llava']}")
    assert model.digest() == VLM(checkpoint=f"path:{folders['llava']}").digest()
    assert model.sites()
    assert model._module is None


def test_wrong_input_is_refused(folders, models, tmp_path):
    model = models["llava"]
    with pytest.raises(UserError, match="which stands for an image"):
        model.prepare(pictures(SIZES[0]), ["an <image> here"])
    with pytest.raises(UserError, match="2 texts and 3 images"):
        model.prepare(pictures(*SIZES), TEXTS[:2])
    with pytest.raises(UserError, match="site"):
        model.represent(model.prepare(pictures(*SIZES), TEXTS), ["vision.9"])
    with pytest.raises(UserError, match="neither images nor texts"):
        model.represent(model.prepare(), ["vision.1"])
    with pytest.raises(UserError, match="chat_template=always"):
        VLM(checkpoint=f"path:{folders['llava']}", chat_template="always").prepare(pictures(SIZES[0]), ["x"])
    with pytest.raises(UserError, match="span"):
        VLM(span="everything")
    with pytest.raises(MissingFile):
        VLM(checkpoint=f"path:{tmp_path / 'nothing'}").digest()
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingFile, match=r"config\.json"):
        VLM(checkpoint=f"path:{tmp_path / 'empty'}").sites()
    for cut, expected in (("processor_config.json", "processor|images are prepared"), ("tokenizer.json", "processor")):
        folder = write_vlm(tmp_path / cut)
        os.remove(folder / cut)
        with pytest.raises(UserError, match=expected):
            VLM(checkpoint=f"path:{folder}").prepare(pictures(SIZES[0]), ["x"])


def test_models_whose_image_is_not_in_their_sequence_are_refused():
    for facts, why in (
        ({"is_encoder_decoder": True}, "an encoder"),
        ({"cross_attention_layers": [3]}, "cross-attention"),
        ({"model_type": "paligemma"}, "both directions"),
    ):
        config = SimpleNamespace(**{"model_type": "x", **facts})
        config.get_text_config = lambda config=config: config
        with pytest.raises(UserError, match=why):
            decoder_path(SimpleNamespace(config=config))


def test_pictures_alone_are_extracted(folders, tmp_path):
    words = [
        f"model.checkpoint=path:{folders['llava']}",
        "dataset.n=6",
        f"runs_dir={tmp_path}",
        "extract.sites=vision.2",
    ]
    assert main(["extract", "model=vlm", *words]) == 0
    store = Store.open(tmp_path / "extract/vlm-shapes/v0001/representations")
    assert list(store.sites) == ["vision.2"]
    assert store.row_table("vision").num_rows == 6


def test_extract_and_train_end_to_end(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("VLSAE_RUNS", str(tmp_path))
    words = [
        *("model=vlm", f"model.checkpoint=path:{folders['llava']}", "dataset=shapes", "dataset.n=24", "hardware=cpu"),
        *("dataset.detail=each", "extract.batch_size=12", "extract.dtype=float32", "extract.tokens.include=all"),
        *("train.sites=2", "objective.n_concepts=32", "objective.k=4", "train.epochs=2", "train.evaluate.names=false"),
        *("train.auxiliary_autoencoder.epochs=2", "train.auxiliary_autoencoder.width=16", "train.evaluate.bootstrap=9"),
    ]
    assert main(["train", *words]) == 0
    store = Store.open(tmp_path / "extract/vlm-shapes/v0001/representations")
    texts = len(store.samples["texts"][0])
    assert store.row_table("vision").num_rows == 24
    assert store.row_table("language").num_rows == len(store.pairs) == 24 * texts
    model = VLM(checkpoint=f"path:{folders['llava']}")
    data = Shapes(n=24, detail="each")
    batch = model.prepare(data.images([3]), [data.table[3]["texts"][1]])
    alone = model.represent(batch, ["vision.2", "language.2"], WHOLE)
    rows = {stream: store.read(f"{stream}.2") for stream in ("vision", "language")}
    torch.testing.assert_close(alone["vision.2"].values[0], rows["vision"][3], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alone["language.2"].values[0], rows["language"][3 * texts + 1], rtol=1e-4, atol=1e-5)
    run = tmp_path / "train/vlm-shapes-vl_sae/v0001"
    facts = json.loads((run / "dictionary/config.json").read_text())
    assert facts["width"] == 16
    assert (run / "auxiliary/model.safetensors").is_file()
    summary = json.loads((run / "summary.json").read_text())["metrics"]
    assert {"explained_variance/vision", "explained_variance/language", "consistency"} <= set(summary)
