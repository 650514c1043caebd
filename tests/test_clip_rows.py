"""From pictures and texts to rows: the model's own transform and tokenizer, and which tokens are kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import ALL_TOKENS, CONTEXT, TEXTS, WORDS, batch_for, pictures, write_clip

from vlsae.errors import UserError
from vlsae.models import CLIP, TokenSelection
from vlsae.models.base import ROLES


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def plain(folder) -> CLIP:
    return CLIP(checkpoint=f"path:{folder}")


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
def test_pictures_of_the_models_size_take_a_short_way_to_the_same_bits(resize_mode, tmp_path):
    model = CLIP(checkpoint=f"path:{write_clip(tmp_path, preprocess={'resize_mode': resize_mode})}")
    images = pictures(5)
    fast = model.prepare(images).vision
    slow = model.prepare([Image.fromarray(image) for image in images]).vision
    assert fast.is_contiguous()
    assert torch.equal(fast, slow)
    assert torch.equal(model.prepare(images[:, ::-1]).vision, fast.flip(2))


def test_pictures_of_another_size_go_through_the_models_own_transform(plain, folder):
    import open_clip

    _, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    images = pictures(2, size=50)
    expected = torch.stack([transform(Image.fromarray(image)) for image in images])
    assert torch.equal(plain.prepare(images).vision, expected)
    grey = Image.fromarray(images[0]).convert("L")
    assert torch.equal(plain.prepare([grey]).vision[0], transform(grey))


@pytest.mark.parametrize(
    "images", [np.zeros((2, 8, 8), np.uint8), np.zeros((2, 3, 8, 8), np.uint8), np.zeros((2, 8, 8, 3))]
)
def test_an_array_that_is_no_picture_is_refused(images, plain):
    with pytest.raises(UserError, match="uint8"):
        plain.prepare(images)


def test_a_batch_holds_what_was_given(plain):
    assert plain.prepare(texts=TEXTS).vision is None
    assert plain.prepare(images=pictures()).language is None
    assert plain.prepare(images=pictures(), texts=[]).language is None
    assert plain.prepare(texts=TEXTS).language.shape == (3, CONTEXT)


def test_token_rows_leave_out_padding_and_what_the_tokenizer_added(plain):
    rows = plain.represent(batch_for(plain), ["language.2"], TokenSelection("tokens"))["language.2"]
    words = [WORDS[number] for number in rows.token.tolist()]
    assert words == " ".join(TEXTS).split()
    assert rows.position.tolist() == [1, 2, 3, 1, 2, 3, 4, 5, 6, 7, 1]
    assert rows.sample.tolist() == [0] * 3 + [1] * 7 + [2]
    assert {ROLES[number] for number in rows.role.tolist()} == {"text"}


def test_all_tokens_are_all_but_padding(plain):
    rows = plain.represent(batch_for(plain), ["language.2"], ALL_TOKENS)["language.2"]
    first = rows.sample == 0
    assert [WORDS[number] for number in rows.token[first].tolist()] == ["<bos>", "a", "red", "circle", "<eos>"]
    assert [ROLES[number] for number in rows.role[first].tolist()] == ["special", "text", "text", "text", "special"]


def test_image_rows_leave_out_the_class_token(plain):
    batch = batch_for(plain)
    rows = plain.represent(batch, ["vision.2"], TokenSelection("tokens"))["vision.2"]
    assert len(rows.values) == 3 * 16
    assert rows.position[:16].tolist() == list(range(1, 17))
    assert rows.token.unique().tolist() == [-1]
    assert {ROLES[number] for number in rows.role.tolist()} == {"image"}
    whole = plain.represent(batch, ["vision.2"], ALL_TOKENS)["vision.2"]
    assert len(whole.values) == 3 * 17
    assert ROLES[int(whole.role[0])] == "special"


def test_pooled_rows_are_the_named_tokens(plain):
    batch = batch_for(plain)
    whole = plain.represent(batch, ["vision.2", "language.2"], ALL_TOKENS)
    vision = whole["vision.2"].values.unflatten(0, (3, 17))
    by_text = [whole["language.2"].values[whole["language.2"].sample == number] for number in range(3)]
    expected = {
        ("vision.2", "default"): vision[:, 0],
        ("vision.2", "cls"): vision[:, 0],
        ("vision.2", "mean"): vision[:, 1:].mean(1),
        ("language.2", "default"): torch.stack([rows[-1] for rows in by_text]),
        ("language.2", "eot"): torch.stack([rows[-1] for rows in by_text]),
        ("language.2", "mean"): torch.stack([rows[1:-1].mean(0) for rows in by_text]),
    }
    for (site, pooling), values in expected.items():
        rows = plain.represent(batch, [site], TokenSelection(pooling))[site]
        torch.testing.assert_close(rows.values, values)
        assert rows.position.tolist() == [-1, -1, -1]
        assert rows.sample.tolist() == [0, 1, 2]


@pytest.mark.parametrize("pooling", ["default", "mean", "tokens"])
def test_rows_keep_no_hidden_states_alive(pooling, plain):
    rows = plain.represent(batch_for(plain), ["vision.2", "language.2"], TokenSelection(pooling))
    for found in rows.values():
        assert found.values.untyped_storage().nbytes() == found.values.nbytes


@pytest.mark.parametrize(
    ("site", "selection", "expected"),
    [
        ("language.2", TokenSelection("cls"), "needs a class token, and the language"),
        ("vision.2", TokenSelection("eot"), "needs an end-of-text token, and the vision"),
        ("vision.2", TokenSelection("meen"), "Did you mean mean"),
        ("vision.2", TokenSelection(include="some"), "content"),
        ("vision.22", TokenSelection(), "There is no site 'vision.22'"),
    ],
)
def test_a_wrong_selection_is_refused(site, selection, expected, plain):
    with pytest.raises(UserError, match=expected):
        plain.represent(batch_for(plain), [site], selection)


def test_what_the_batch_lacks_is_named(plain):
    with pytest.raises(UserError, match="the batch has no vision"):
        plain.represent(plain.prepare(texts=TEXTS), ["vision.2"])


def test_a_text_without_content_is_named(plain):
    batch = plain.prepare(texts=["a red circle", ""])
    with pytest.raises(UserError, match="Text 1 of the batch"):
        plain.represent(batch, ["language.2"], TokenSelection("mean"))
    assert len(plain.represent(batch, ["language.2"])["language.2"].values) == 2
