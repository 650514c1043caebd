"""CLIP: every site is what a hook on the original module sees, and no more of the model runs than is asked for."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tiny_clip import (
    ALL_TOKENS,
    CONTEXT,
    LAYERS,
    WORDS,
    batch_for,
    hooked,
    original,
    pictures,
    tiny_config,
    write_clip,
    write_tokenizer,
)

from vlsae.errors import UserError
from vlsae.models import CLIP, TokenSelection

#: Every kind of tower and model class that open_clip builds, small.
KINDS = {
    "plain": {},
    "custom_text": {"custom_text": True},
    "quick_gelu": {"quick_gelu": True},
    "custom_blocks": {"vision": {"qk_norm": True}, "text": {"scale_fc": True}},
    "average_pooled": {"vision": {"pool_type": "avg"}},
    "layer_scale": {"vision": {"ls_init_value": 0.5}},
    "bidirectional": {"custom_text": True, "text": {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}},
    "end_token": {"text": {"pool_type": "eos", "eos_id": WORDS.index("<eos>")}},
    "timm": {
        "vision_cfg": {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear", "image_size": 160}
    },
    "resnet": {"vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8}},
    "coca": {
        "custom_text": True,
        "multimodal_cfg": {"context_length": CONTEXT, "vocab_size": len(WORDS), "width": 24, "heads": 2, "layers": 1},
        "vision": {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text": {"embed_cls": True, "output_tokens": True},
    },
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each kind, written when it is first asked for."""
    root, written = tmp_path_factory.mktemp("kinds"), {}

    def folder(kind: str) -> Path:
        if kind not in written:
            changes = json.loads(json.dumps(KINDS[kind]))
            written[kind] = write_clip(root / kind, **changes)
        return written[kind]

    return folder


@pytest.fixture(scope="module")
def plain(folders) -> CLIP:
    model = CLIP(checkpoint=f"path:{folders('plain')}")
    model.load()
    return model


@contextmanager
def counted(model: torch.nn.Module, counts: dict[str, int]):
    """Count how often each block runs."""
    handles = []
    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1].isdigit() and "resblocks" in name:

            def count(module, args, name=name):
                counts[name] = counts.get(name, 0) + 1

            handles.append(module.register_forward_pre_hook(count))
    yield
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalize", [False, True])
def test_the_embedding_is_exactly_what_the_model_encodes(kind, normalize, folders):
    model = CLIP(checkpoint=f"path:{folders(kind)}", normalize=normalize)
    batch = batch_for(model)
    rows = model.represent(batch, ["vision.embedding", "language.embedding"])
    reference = original(folders(kind))
    with torch.no_grad():
        assert torch.equal(rows["vision.embedding"].values, reference.encode_image(batch.vision, normalize=normalize))
        assert torch.equal(
            rows["language.embedding"].values, reference.encode_text(batch.language, normalize=normalize)
        )
    assert rows["vision.embedding"].sample.tolist() == [0, 1, 2]
    assert rows["vision.embedding"].position.tolist() == [-1, -1, -1]


@pytest.mark.parametrize("kind", KINDS)
def test_each_site_is_what_a_hook_on_the_original_module_sees(kind, folders):
    model = CLIP(checkpoint=f"path:{folders(kind)}")
    batch, reference = batch_for(model), original(folders(kind))
    sites = {name: site for name, site in model.sites().items() if not name.endswith(".embedding")}
    assert ("vision.0" in sites) == (kind != "resnet")
    assert f"language.{LAYERS}" in sites
    together = model.represent(batch, sites, ALL_TOKENS)
    for name, site in sites.items():
        seen: list[torch.Tensor] = []
        with torch.no_grad(), hooked(reference, site.module, seen):
            if name.startswith("vision"):
                reference.encode_image(batch.vision, normalize=False)
            else:
                reference.encode_text(batch.language, normalize=False)
        alone = model.represent(batch, [name], ALL_TOKENS)[name]
        assert seen[0].shape[-1] == site.width == alone.values.shape[-1]
        assert torch.equal(alone.values, seen[0][alone.sample, alone.position])
        assert torch.equal(alone.values, together[name].values)


@pytest.mark.parametrize("kind", ["plain", "custom_text", "timm"])
def test_layers_are_those_of_forward_intermediates(kind, folders):
    model = CLIP(checkpoint=f"path:{folders(kind)}")
    batch, reference = batch_for(model), original(folders(kind))
    layers = model.towers["vision"].layers
    with torch.no_grad():
        expected = reference.forward_intermediates(
            image=batch.vision,
            text=batch.language,
            normalize=False,
            image_output_fmt="NLC",
            image_output_extra_tokens=True,
        )
    prefix = expected["image_intermediates_prefix"]
    for number in range(layers):
        rows = model.represent(batch, [f"vision.{number + 1}"], ALL_TOKENS)[f"vision.{number + 1}"]
        whole = torch.cat([prefix[number], expected["image_intermediates"][number]], dim=1)
        assert torch.equal(rows.values, whole.flatten(0, 1))
    for number in range(LAYERS):
        rows = model.represent(batch, [f"language.{number + 1}"], ALL_TOKENS)[f"language.{number + 1}"]
        assert torch.equal(rows.values, expected["text_intermediates"][number][rows.sample, rows.position])
    rows = model.represent(batch, ["vision.1", "vision.embedding"])
    assert torch.equal(rows["vision.embedding"].values, expected["image_features"])


def test_a_tower_whose_blocks_run_sequence_first_gives_the_same_sites(folders):
    model, swapped = (CLIP(checkpoint=f"path:{folders('plain')}") for _ in range(2))
    transformer = swapped.module.visual.transformer
    transformer.batch_first = False
    for block in transformer.resblocks:
        block.attn.batch_first = False
    batch = batch_for(model)
    sites = [site for site in model.sites() if site.startswith("vision")]
    expected, found = (m.represent(batch, sites, ALL_TOKENS) for m in (model, swapped))
    for site in sites:
        torch.testing.assert_close(found[site].values, expected[site].values)
    with model.edit("vision.1", lambda x: x + torch.arange(17.0)[:, None]):
        expected = model.represent(batch, ["vision.embedding"])
    with swapped.edit("vision.1", lambda x: x + torch.arange(17.0)[:, None]):
        found = swapped.represent(batch, ["vision.embedding"])
    torch.testing.assert_close(found["vision.embedding"].values, expected["vision.embedding"].values)


@pytest.mark.parametrize(
    ("sites", "vision", "language"),
    [
        (["vision.2"], 2, 0),
        (["vision.0"], 1, 0),
        (["vision.2.attention"], 2, 0),
        (["language.1", "language.2"], 0, 2),
        (["vision.1", "language.embedding"], 1, LAYERS),
        (["language.0", "vision.embedding"], LAYERS, 1),
    ],
)
def test_nothing_runs_behind_the_last_site(sites, vision, language, plain):
    counts: dict[str, int] = {}
    with counted(plain.module, counts):
        plain.represent(batch_for(plain), sites)
    # The block whose input is read (layer 0) is called, and left before it does anything.
    assert sum(name.startswith("visual") for name in counts) == vision
    assert sum(not name.startswith("visual") for name in counts) == language
    assert set(counts.values()) == {1}


def test_the_first_block_does_nothing_where_its_input_is_read(plain):
    ran = []
    handle = plain.module.visual.transformer.resblocks[0].ln_1.register_forward_hook(lambda *_: ran.append(1))
    plain.represent(batch_for(plain), ["vision.0"])
    handle.remove()
    assert not ran


def test_no_hook_stays_behind(plain):
    batch = batch_for(plain)
    with pytest.raises(ZeroDivisionError), plain.edit("vision.1", lambda x: 1 / 0):
        plain.represent(batch, ["vision.embedding"])
    plain.represent(batch, plain.sites())
    for module in plain.module.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


@pytest.mark.parametrize("site", ["vision.0", "vision.2", "vision.2.attention", "language.1", "language.3.mlp"])
@pytest.mark.parametrize("same", [lambda x: x, torch.clone, lambda x: x + (x - x)])
def test_no_edit_is_the_exact_identity(site, same, plain):
    batch = batch_for(plain)
    embedding = f"{site.split('.')[0]}.embedding"
    before = plain.represent(batch, [embedding])[embedding].values
    with plain.edit(site, same):
        assert torch.equal(plain.represent(batch, [embedding])[embedding].values, before)


@pytest.mark.parametrize("site", ["vision.0", "vision.2", "language.0", "language.2"])
def test_an_edit_is_seen_behind_it_and_not_before_it(site, plain):
    batch = batch_for(plain)
    stream, layer = site.split(".")
    layers = [f"{stream}.{number}" for number in range(LAYERS + 1)]
    clean = plain.represent(batch, layers, ALL_TOKENS)
    shapes = []

    def add(hidden):
        shapes.append(tuple(hidden.shape))
        return hidden + 1

    with plain.edit(site, add):
        edited = plain.represent(batch, layers, ALL_TOKENS)
    assert shapes == [(3, 17, 32) if stream == "vision" else (3, CONTEXT, 24)]
    for number, name in enumerate(layers):
        assert torch.equal(clean[name].values, edited[name].values) == (number < int(layer))
    assert torch.equal(edited[site].values, clean[site].values + 1)


def test_edits_are_nested_and_end_with_their_context(plain):
    batch = batch_for(plain)
    read = lambda: plain.represent(batch, ["vision.3"])["vision.3"].values  # noqa: E731
    clean = read()
    with plain.edit("vision.3", lambda x: x * 2), plain.edit("vision.3", lambda x: x + 1):
        assert torch.equal(read(), clean * 2 + 1)
    assert torch.equal(read(), clean)


def test_an_edit_of_the_output_is_refused(plain):
    with pytest.raises(UserError, match="nothing runs behind"):
        plain.edit("vision.embedding", lambda x: x)
    with pytest.raises(UserError, match="Did you mean vision"):
        plain.edit("vision.33", lambda x: x)


@pytest.mark.parametrize(
    ("kind", "end"), [("plain", 4), ("end_token", 4), ("bidirectional", CONTEXT - 1), ("coca", CONTEXT)]
)
def test_the_summary_of_a_text_is_read_where_its_tower_reads_it(kind, end, folders):
    model = CLIP(checkpoint=f"path:{folders(kind)}")
    batch, reference, seen = batch_for(model), original(folders(kind)), []
    with torch.no_grad(), hooked(reference, model.sites()["language.3"].module, seen):
        reference.encode_text(batch.language, normalize=False)
    rows = model.represent(batch, ["language.3"])["language.3"]
    assert torch.equal(rows.values[0], seen[0][0, end])


def test_a_vision_tower_without_a_class_token_is_averaged_whole(tmp_path):
    # One register in front of the patches, and no class token.
    vision = {"timm_model_name": "test_vit3", "timm_pool": "avg", "timm_proj": "linear", "image_size": 160}
    model = CLIP(checkpoint=f"path:{write_clip(tmp_path, vision_cfg=vision)}")
    tower = model.towers["vision"]
    assert tower.class_index is None
    batch = batch_for(model)
    rows = model.represent(batch, ["vision.1"])["vision.1"]
    tokens = model.represent(batch, ["vision.1"], TokenSelection("tokens"))["vision.1"]
    assert tokens.position.min() == tower.prefix
    torch.testing.assert_close(rows.values, tokens.values.unflatten(0, (3, -1)).mean(1))
    with pytest.raises(UserError, match="needs a class token, and the vision"):
        model.represent(batch, ["vision.1"], TokenSelection("cls"))


def test_a_text_tower_of_transformers_has_its_sites(tmp_path):
    from transformers import RobertaConfig

    roberta = RobertaConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
        pad_token_id=0,
    )
    roberta.save_pretrained(tmp_path / "roberta")
    text = {"hf_model_name": str(tmp_path / "roberta"), "hf_tokenizer_name": "local", "context_length": CONTEXT}
    folder = tmp_path / "clip"
    description = {"model_cfg": tiny_config() | {"text_cfg": text}, "preprocess_cfg": {}}
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(description))
    write_tokenizer(folder)
    import open_clip
    from safetensors.torch import save_file

    made = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
    save_file(made.state_dict(), folder / "open_clip_model.safetensors")
    model = CLIP(checkpoint=f"path:{folder}")
    assert [site for site in model.sites() if site.startswith("language")] == [
        "language.0",
        "language.1",
        "language.2",
        "language.embedding",
    ]
    batch, reference, seen = batch_for(model), original(folder), []
    with torch.no_grad(), hooked(reference, model.sites()["language.1"].module, seen):
        features = reference.encode_text(batch.language, normalize=False)
    rows = model.represent(batch, ["language.1", "language.embedding"], ALL_TOKENS)
    assert torch.equal(rows["language.embedding"].values, features)
    found = rows["language.1"]
    assert torch.equal(found.values, seen[0][found.sample, found.position])
    assert found.position[found.sample == 0].tolist() == [0, 1, 2, 3, 4]


def test_construction_and_loading_check_their_arguments(folders):
    with pytest.raises(UserError, match="image_size"):
        CLIP(image_size=0)
    with pytest.raises(UserError, match="Did you mean bfloat16"):
        CLIP(checkpoint=f"path:{folders('plain')}").load(dtype="bfloat")


def test_another_image_size_interpolates_the_position_embeddings(folders):
    model = CLIP(checkpoint=f"path:{folders('plain')}", image_size=64)
    batch = model.prepare(pictures(size=64))
    assert batch.vision.shape[-1] == 64
    assert len(model.represent(batch, ["vision.1"], TokenSelection("tokens"))["vision.1"].values) == 3 * 64


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["plain", "timm"])
def test_half_precision_stays_near_full_precision(dtype, kind, folders):
    half, full = (CLIP(checkpoint=f"path:{folders(kind)}") for _ in range(2))
    half.load(dtype=dtype)
    batch = batch_for(full)
    sites = ["vision.1", "vision.embedding", "language.1", "language.embedding"]
    expected, found = full.represent(batch, sites), half.represent(batch, sites)
    for site in sites:
        assert found[site].values.dtype == getattr(torch, dtype)
        torch.testing.assert_close(found[site].values.float(), expected[site].values, rtol=0.1, atol=0.1)


@pytest.mark.slow
def test_a_full_size_vit_b_32_in_open_clips_own_format(tmp_path):
    import open_clip
    from open_clip.push_to_hf_hub import save_for_hf

    torch.manual_seed(0)
    reference = open_clip.create_model("ViT-B-32", load_weights=False).eval()

    class NoTokenizer:
        def save_pretrained(self, folder):
            """The model uses open_clip's built-in tokenizer."""

    save_for_hf(
        reference, NoTokenizer(), open_clip.get_model_config("ViT-B-32"), str(tmp_path), safe_serialization=True
    )
    model = CLIP(checkpoint=f"path:{tmp_path}")
    batch = model.prepare(pictures(2, size=224), ["a photo of a cat!", "two dogs"])
    sites = ["vision.0", "vision.6", "vision.embedding", "language.12.mlp", "language.embedding"]
    rows = model.represent(batch, sites)
    assert {site: rows[site].values.shape[1] for site in sites} == dict(zip(sites, (768, 768, 512, 512, 512)))
    seen: list[torch.Tensor] = []
    with torch.no_grad(), hooked(reference, "visual.transformer.resblocks.5", seen):
        assert torch.equal(rows["vision.embedding"].values, reference.encode_image(batch.vision))
        assert torch.equal(rows["language.embedding"].values, reference.encode_text(batch.language))
    assert torch.equal(rows["vision.6"].values, seen[0][:, 0])
    tokens = model.represent(batch, ["language.1"], TokenSelection("tokens"))["language.1"]
    assert open_clip.decode(tokens.token[tokens.sample == 0]).strip() == "a photo of a cat !"
