"""model=lm: hidden states of the original model, roles of tokens, templates, padding, edits, and refusals."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from tiny_lm import CHAT, FAMILIES, LAYERS, TEXTS, WIDTH, original, write_lm

from vlsae.errors import MissingFile, UserError
from vlsae.models import LM, TokenSelection, expand_sites, lm_loading
from vlsae.models.base import ROLES
from vlsae.models.length_groups import length_groups
from vlsae.testing import check

ALL = TokenSelection(pooling="tokens", include="all")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {family: write_lm(tmp_path_factory.mktemp(family), family) for family in FAMILIES}


@pytest.fixture(scope="module")
def llama(folders):
    return LM(checkpoint=f"path:{folders['llama']}")


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_are_the_original_hidden_states(folders, family):
    model = LM(checkpoint=str(folders[family]))
    batch = model.prepare(texts=TEXTS)
    sites = [f"language.{layer}" for layer in range(LAYERS + 1)]
    rows = model.represent(batch, [*sites, "language.embedding"], ALL)
    with torch.no_grad():
        truth = original(folders[family])(
            input_ids=batch.language, attention_mask=batch.mask.long(), output_hidden_states=True
        ).hidden_states
    for layer in range(LAYERS):
        torch.testing.assert_close(rows[f"language.{layer}"].values, truth[layer][batch.mask])
    torch.testing.assert_close(rows["language.embedding"].values, truth[LAYERS][batch.mask])
    assert not torch.allclose(rows[f"language.{LAYERS}"].values, truth[LAYERS][batch.mask], atol=1e-3)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "qwen2"])
def test_contract(folders, family):
    check(LM, checkpoint=f"path:{folders[family]}")


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "qwen2", "phi", "gemma2"])
def test_parts_are_what_the_block_adds_up(folders, family):
    model = LM(checkpoint=str(folders[family]))
    assert {"language.2.attention", "language.2.mlp"} <= set(model.sites())
    if family in ("gpt2", "llama", "qwen2"):
        rows = model.represent(
            model.prepare(texts=TEXTS), ["language.1", "language.2.attention", "language.2.mlp", "language.2"], ALL
        )
        before, attention, mlp, after = (one.values for one in rows.values())
        torch.testing.assert_close(before + attention + mlp, after)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_text_has_the_same_row_alone_and_in_a_batch(folders, family, pooling):
    model = LM(checkpoint=str(folders[family]))
    model.load(dtype="float64")
    selection = TokenSelection(pooling=pooling)
    sites = ["language.0", f"language.{LAYERS}", "language.embedding"]
    # Gemma 2 takes its softmax in float32 whatever the weights are.
    close = {"rtol": 1e-4, "atol": 1e-4} if family == "gemma2" else {"rtol": 1e-10, "atol": 1e-11}
    together = model.represent(model.prepare(texts=TEXTS), sites, selection)
    for number, text in enumerate(TEXTS):
        alone = model.represent(model.prepare(texts=[text]), sites, selection)
        for site in sites:
            torch.testing.assert_close(alone[site].values[0], together[site].values[number], **close)


def test_a_tokenizer_that_pads_on_the_left_changes_nothing(tmp_path):
    right = LM(checkpoint=str(write_lm(tmp_path / "right")))
    left = LM(checkpoint=str(write_lm(tmp_path / "left", side="left")))
    for one, other in zip(
        *(model.represent(model.prepare(texts=TEXTS), ["language.2"], ALL).items() for model in (right, left))
    ):
        assert torch.equal(one[1].values, other[1].values)


def test_content_leaves_out_begin_and_first_position(llama, tmp_path):
    tokens = TokenSelection(pooling="tokens")
    rows = llama.represent(llama.prepare(texts=["abc", "de"]), ["language.1"], tokens)["language.1"]
    assert rows.position.tolist() == [1, 2, 3, 1, 2]
    assert {ROLES[role] for role in rows.role.tolist()} == {"text"}
    bare = LM(checkpoint=str(write_lm(tmp_path / "bare", bos=False)))
    rows = bare.represent(bare.prepare(texts=["abc"]), ["language.1"], tokens)["language.1"]
    assert rows.position.tolist() == [1, 2]
    rows = bare.represent(bare.prepare(texts=["abc"]), ["language.1"], ALL)["language.1"]
    assert rows.position.tolist() == [0, 1, 2]
    with pytest.raises(UserError, match="Text 1 of the batch has no content token"):
        bare.represent(bare.prepare(texts=["abc", "a"]), ["language.1"])


def test_pooling_reads_the_tokens_it_names(llama):
    batch = llama.prepare(texts=TEXTS)
    every = llama.represent(batch, ["language.2"], ALL)["language.2"]
    for pooling in ("last", "default", "eot", "mean"):
        found = llama.represent(batch, ["language.2"], TokenSelection(pooling=pooling))["language.2"]
        assert found.position.tolist() == [-1] * 3
        for number in range(3):
            own = every.values[every.sample == number]
            expected = own[1:].mean(0) if pooling == "mean" else own[-1]
            torch.testing.assert_close(found.values[number], expected)
    with pytest.raises(UserError, match="class token"):
        llama.represent(batch, ["language.2"], TokenSelection(pooling="cls"))


def chat_roles(model, texts, answers=None):
    batch = model.prepare(texts=texts, answers=answers)
    pieces = []
    for ids, roles, mask in zip(batch.language, batch.role, batch.mask):
        found: dict[str, str] = {}
        for role in ("special", "text", "answer"):
            chosen = ids[(roles == ROLES.index(role)) & mask]
            found[role] = model.tokenizer.decode(chosen)
        pieces.append(found)
    return pieces


def test_a_chat_models_template_is_used_and_its_tokens_are_special(tmp_path):
    folder = write_lm(tmp_path / "chat", chat=CHAT)
    model = LM(checkpoint=str(folder))
    assert model.uses_chat_template
    found = chat_roles(model, ["user", "  What is é? "])
    assert [one["text"] for one in found] == ["user", "What is é?"]
    assert found[0]["special"] == "<s>[user] </s>\n[assistant] "
    batch = model.prepare(texts=["user"])
    assert model.tokenizer.decode(batch.language[0]) == "<s>[user] user</s>\n[assistant] "
    last = model.represent(batch, ["language.2"], TokenSelection(pooling="last"))["language.2"].values
    end = model.represent(batch, ["language.2"], TokenSelection(pooling="last", include="all"))["language.2"].values
    every = model.represent(batch, ["language.2"], ALL)["language.2"]
    assert torch.equal(end[0], every.values[-1])
    text = every.role == ROLES.index("text")
    assert torch.equal(last[0], every.values[text][-1])
    never = LM(checkpoint=str(folder), chat_template="never")
    assert never.tokenizer.decode(never.prepare(texts=["user"]).language[0]) == "<s>user"


def test_a_template_that_is_missing_or_changes_with_its_text_is_refused(tmp_path, llama):
    with pytest.raises(UserError, match="chat_template=always"):
        LM(checkpoint=llama.checkpoint, chat_template="always").prepare(texts=["a"])
    shifty = "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"
    with pytest.raises(UserError, match="template changes with its text"):
        LM(checkpoint=str(write_lm(tmp_path / "shifty", chat=shifty))).prepare(texts=["a"])
    broken = "{{ raise_exception('no users here') }}"
    with pytest.raises(UserError, match="no users here"):
        LM(checkpoint=str(write_lm(tmp_path / "broken", chat=broken))).prepare(texts=["a"])


@pytest.mark.parametrize("chat", [None, CHAT])
def test_answers_have_a_role_of_their_own(tmp_path, chat):
    folder = write_lm(tmp_path / "answers", chat=chat)
    model = LM(checkpoint=str(folder), input="prompt_and_answer")
    found = chat_roles(model, ["Hi there", "Hm"], ["Sure, here", "No"])
    assert [(one["text"], one["answer"]) for one in found] == [("Hi there", "Sure, here"), ("Hm", "No")]
    batch = model.prepare(texts=["Hi there"], answers=["Sure"])
    rows = model.represent(batch, ["language.1"], TokenSelection(pooling="tokens", include="answer"))["language.1"]
    assert {ROLES[role] for role in rows.role.tolist()} == {"answer"}
    assert len(rows.values) == len("Sure")
    with pytest.raises(UserError, match="has no answer"):
        model.prepare(texts=["a", "b"], answers=["x", None])
    with pytest.raises(UserError, match="dataset has no answers"):
        model.prepare(texts=["a"])
    prompt = LM(checkpoint=str(folder))
    with pytest.raises(UserError, match="no answer token"):
        prompt.represent(prompt.prepare(texts=["abc"]), ["language.1"], TokenSelection("mean", "answer"))


@pytest.mark.parametrize(("truncation", "expected"), [("right", "abcd"), ("left", "efgh")])
def test_long_texts_lose_content_and_are_counted(tmp_path, truncation, expected):
    folder = write_lm(tmp_path / "chat", chat="<s>{{ messages[0]['content'] }}!")
    model = LM(checkpoint=str(folder), max_length=6, truncation=truncation)
    batch = model.prepare(texts=["abcdefgh", "abc"])
    assert [model.tokenizer.decode(ids[mask]) for ids, mask in zip(batch.language, batch.mask)] == [
        f"<s>{expected}!",
        "<s>abc!",
    ]
    assert model.input_counts() == {"truncated": 1}


def test_limits_are_kept(tmp_path, llama):
    assert llama.limit == 128
    assert llama.prepare(texts=["x" * 500]).language.shape == (1, 128)
    with pytest.raises(UserError, match="takes 128 tokens"):
        LM(checkpoint=llama.checkpoint, max_length=129).prepare(texts=["a"])
    with pytest.raises(UserError, match="Text 1 of the batch has 10 tokens"):
        LM(checkpoint=llama.checkpoint, max_length=4, truncation="error").prepare(texts=["abc", "abcdefghi"])


def test_the_model_stops_behind_the_last_site(llama):
    called = []
    blocks = llama.module.model.layers
    handles = [
        block.register_forward_hook(lambda *_, number=number: called.append(number))
        for number, block in enumerate(blocks)
    ]
    handles.append(llama.module.lm_head.register_forward_hook(lambda *_: called.append("head")))
    try:
        llama.represent(llama.prepare(texts=TEXTS), ["language.1"])
        assert called == [0]
        called.clear()
        llama.represent(llama.prepare(texts=TEXTS), ["language.embedding"])
        assert called == [0, 1, 2]
    finally:
        for handle in handles:
            handle.remove()


def test_an_edit_reaches_later_layers_and_the_logits(llama):
    batch = llama.prepare(texts=TEXTS)
    plain = llama.represent(batch, ["language.1", "language.2"], ALL)
    scores = llama.logits(batch)
    with llama.edit("language.1", lambda hidden: hidden + 1):
        changed = llama.represent(batch, ["language.2"], ALL)
        assert not torch.allclose(llama.logits(batch), scores)
    assert not torch.allclose(changed["language.2"].values, plain["language.2"].values)
    assert torch.equal(llama.logits(batch), scores)
    with pytest.raises(UserError, match="no block runs behind"):
        llama.edit("language.embedding", lambda hidden: hidden)


def test_losses_are_the_originals(llama, folders):
    batch = llama.prepare(texts=TEXTS)
    found = llama.losses(batch)
    assert torch.equal(found.isnan(), ~batch.mask | (torch.arange(batch.mask.shape[1]) == 0))
    truth = original(folders["llama"])
    for number, text in enumerate(TEXTS):
        ids = llama.prepare(texts=[text]).language
        with torch.no_grad():
            expected = truth(input_ids=ids, labels=ids).loss
        torch.testing.assert_close(found[number].nanmean(), expected, rtol=1e-5, atol=1e-5)


def test_the_digest_is_of_weights_and_settings(folders, tmp_path):
    digest = LM(checkpoint=f"path:{folders['llama']}").digest()
    copy = tmp_path / "copy"
    shutil.copytree(folders["llama"], copy)
    assert LM(checkpoint=f"path:{copy}").digest() == digest
    assert LM(checkpoint=f"path:{copy}", chat_template="never").digest() != digest
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    assert LM(checkpoint=f"path:{copy}").digest() != digest


def test_shards_are_one_model(folders, tmp_path):
    model = original(folders["llama"])
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(folders["llama"] / name, tmp_path / name)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    sharded, whole = LM(checkpoint=f"path:{tmp_path}"), LM(checkpoint=f"path:{folders['llama']}")
    batch = whole.prepare(texts=TEXTS)
    assert torch.equal(sharded.logits(batch), whole.logits(batch))
    shards[-1].unlink()
    with pytest.raises(MissingFile, match="a shard of its weights"):
        LM(checkpoint=f"path:{tmp_path}").digest()


def test_damaged_or_unfit_folders_are_named(folders, tmp_path):
    def copied(name):
        return shutil.copytree(folders["llama"], tmp_path / name)

    with pytest.raises(MissingFile, match=r"holds no config\.json"):
        LM(checkpoint=f"path:{tmp_path}").digest()
    bare = copied("bare")
    (bare / "model.safetensors").unlink()
    with pytest.raises(MissingFile, match="holds no weights"):
        LM(checkpoint=f"path:{bare}").digest()
    with pytest.raises(MissingFile, match="Did you mean"):
        LM(checkpoint=f"path:{tmp_path / 'bear'}").digest()
    with pytest.raises(UserError, match="means nothing"):
        LM(checkpoint="bundeld").digest()
    cut = copied("cut")
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(UserError, match=r"damaged|cannot be read"):
        LM(checkpoint=f"path:{cut}").load()
    other = copied("other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "num_hidden_layers": LAYERS + 1}))
    with pytest.raises(UserError, match="do not fit its configuration"):
        LM(checkpoint=f"path:{other}").load()
    (other / "config.json").write_text(json.dumps({**config, "model_type": "llamma"}))
    with pytest.raises(UserError, match=r"configuration of .* cannot be read"):
        LM(checkpoint=f"path:{other}").sites()
    mute = copied("mute")
    (mute / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer of .* cannot be read"):
        LM(checkpoint=f"path:{mute}").prepare(texts=["a"])


def test_code_of_a_checkpoint_is_not_run(folders, tmp_path):
    folder = shutil.copytree(folders["llama"], tmp_path / "foreign")
    config = json.loads((folder / "config.json").read_text())
    mark = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(mark)!r}, 'w')\n")
    auto = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": auto}))
    with pytest.raises(UserError, match="code of its own, which is not run"):
        LM(checkpoint=f"path:{folder}").load()
    assert not mark.exists()


def test_quantisation_needs_a_device_and_a_package_that_have_it(llama, monkeypatch):
    with pytest.raises(UserError, match="needs a CUDA device or a CPU"):
        LM(checkpoint=llama.checkpoint).load("mps", "float32", quantisation="4bit")
    monkeypatch.setattr(lm_loading, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"(?s)needs the package bitsandbytes.*vlsae\[quantised\]"):
        LM(checkpoint=llama.checkpoint).load("cpu", "float32", quantisation="4bit")
    with pytest.raises(UserError, match="quantisation"):
        LM(checkpoint=llama.checkpoint).load("cpu", "float32", quantisation="3bit")


@pytest.mark.parametrize(("quantisation", "most"), [("8bit", 0.02), ("4bit", 0.2)])
def test_quantised_weights_give_nearly_the_same(quantisation, most):
    values = []
    for words in ({}, {"quantisation": quantisation}):
        model = LM(checkpoint="bundled")
        model.load("cpu", "float32", **words)
        batch = model.prepare(texts=["Once there was a king.", "The sea was calm that day, and they set out."])
        values.append(model.represent(batch, ["language.6"], TokenSelection(pooling="mean"))["language.6"].values)
    apart = (values[1] - values[0]).norm() / values[0].norm()
    assert 0 < apart < most


def test_an_adapter_changes_the_model_in_place(folders, tmp_path, llama):
    import peft

    torch.manual_seed(1)
    settings = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(original(folders["llama"]), settings).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    model = LM(checkpoint=llama.checkpoint, adapter=str(tmp_path / "adapter"))
    batch = model.prepare(texts=TEXTS)
    with torch.no_grad():
        expected = adapted(input_ids=batch.language, attention_mask=batch.mask.long()).logits
    torch.testing.assert_close(model.logits(batch), expected)
    assert not torch.allclose(model.logits(batch), llama.logits(batch))
    assert model.sites() == llama.sites()
    assert model.digest() != llama.digest()
    with pytest.raises(MissingFile, match=r"adapter_config.json"):
        LM(checkpoint=llama.checkpoint, adapter=str(tmp_path)).digest()


def test_sites_by_words(llama):
    assert expand_sites(llama, "all") == [*(f"language.{layer}" for layer in range(LAYERS + 1)), "language.embedding"]
    assert expand_sites(llama, "last") == [f"language.{LAYERS}"]
    assert llama.sites()["language.2.mlp"].width == WIDTH


@pytest.mark.shared_data
def test_a_real_model_tells_a_story(shared_data):
    model = LM(checkpoint=str(shared_data / "stories260k"))
    batch = model.prepare(texts=["Once upon a time, there was a little girl named Lily."])
    scores = model.logits(batch)
    followed = (scores[0, :-1].argmax(-1) == batch.language[0, 1:]).float().mean()
    assert followed > 0.5
    assert model.losses(batch).nanmean() < 1.5
    assert list(model.sites())[-2] == "language.5"


def test_a_filled_cache_serves_the_hub_offline(folders, tmp_path, monkeypatch):
    from huggingface_hub import constants
    from test_checkpoints import fill_cache

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="cannot be reached"):
        LM(checkpoint="hub:org/name").digest()
    fill_cache(tmp_path / "hub", "org/name", {path.name: path for path in folders["llama"].iterdir()})
    cached, local = LM(checkpoint="hub:org/name"), LM(checkpoint=f"path:{folders['llama']}")
    assert cached.digest() == local.digest()
    batch = cached.prepare(texts=TEXTS)
    assert torch.equal(cached.logits(batch), local.logits(batch))


@pytest.mark.parametrize("selection", [TokenSelection(), TokenSelection("mean"), TokenSelection("tokens", "all")])
def test_groups_of_like_length_give_the_same_rows(llama, selection):
    texts = [("word " * (1 + number * 7 % 23)).strip() for number in range(60)]
    batch = llama.prepare(texts=texts)
    sites = ["language.1", "language.embedding"]
    whole, grouped = llama.represent(batch, sites, selection), llama.represent_in_groups(batch, sites, selection)
    for site in sites:
        torch.testing.assert_close(grouped[site].values, whole[site].values, rtol=1e-4, atol=1e-4)
        for name in ("sample", "position", "token", "role"):
            one, other = getattr(whole[site], name), getattr(grouped[site], name)
            assert (one is None and other is None) or torch.equal(one, other)


def test_groups_hold_texts_of_like_length():
    lengths = torch.tensor([5, 100, 6] * 20)
    groups = length_groups(lengths)
    assert sorted(torch.cat(groups).tolist()) == list(range(60))
    assert [sorted(set(lengths[group].tolist())) for group in groups] == [[5, 6], [100]]
    assert len(length_groups(torch.tensor([1, 50, 100]))) == 1


def test_a_text_without_content_is_named_by_its_place_in_the_batch(tmp_path):
    bare = LM(checkpoint=str(write_lm(tmp_path / "bare", bos=False)))
    with pytest.raises(UserError, match="Text 20 of the batch"):
        bare.represent_in_groups(bare.prepare(texts=["some words"] * 20 + ["a"]), ["language.1"])
