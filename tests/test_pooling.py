"""Pooling of hidden states, thumbnails, and norms by position."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vlsae.errors import UserError
from vlsae.representations import SiteInfo, Store, StoreWriter, pool, position_norms
from vlsae.representations.thumbnails import thumbnails

HIDDEN = torch.arange(24, dtype=torch.float32).reshape(2, 4, 3)
KEEP = torch.tensor([[False, True, True, False], [False, True, True, True]])


def test_class_token_is_read_where_it_stands():
    rows = pool(HIDDEN, KEEP, pooling="cls", class_index=0, sample_offset=5)
    assert torch.equal(rows.values, HIDDEN[:, 0])
    assert rows.sample.tolist() == [5, 6]
    assert rows.position.tolist() == [-1, -1]


def test_end_token_is_read_of_each_item():
    rows = pool(HIDDEN, KEEP, pooling="eot", end_index=torch.tensor([2, 3]))
    assert torch.equal(rows.values, torch.stack([HIDDEN[0, 2], HIDDEN[1, 3]]))


def test_mean_by_hand():
    rows = pool(HIDDEN, KEEP, pooling="mean")
    assert rows.values.tolist() == [[4.5, 5.5, 6.5], [18.0, 19.0, 20.0]]


def test_mean_ignores_what_lies_at_left_out_positions():
    hidden = HIDDEN.clone()
    hidden[~KEEP] = float("nan")
    assert torch.equal(pool(hidden, KEEP, pooling="mean").values, pool(HIDDEN, KEEP, pooling="mean").values)


def test_mean_of_half_precision_is_summed_in_single():
    hidden = torch.full((1, 3000, 1), 1.0, dtype=torch.float16)
    rows = pool(hidden, torch.ones(1, 3000, dtype=torch.bool), pooling="mean")
    assert rows.values.dtype == torch.float32
    assert rows.values.item() == 1.0


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 10), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_tokens_are_the_kept_positions_in_order(b, s, offset, random):
    keep = torch.tensor([[random.random() < 0.6 for _ in range(s)] for _ in range(b)])
    hidden = torch.randn(b, s, 2)
    rows = pool(hidden, keep, pooling="tokens", sample_offset=offset)
    expected = [(i, p) for i in range(b) for p in range(s) if keep[i, p]]
    assert [(i - offset, p) for i, p in zip(rows.sample.tolist(), rows.position.tolist())] == expected
    assert all(torch.equal(rows.values[r], hidden[i, p]) for r, (i, p) in enumerate(expected))


def test_pooling_passes_gradient_to_what_it_keeps():
    hidden = HIDDEN.clone().requires_grad_()
    pool(hidden, KEEP, pooling="mean").values.sum().backward()
    assert torch.equal(hidden.grad.sum(-1) > 0, KEEP)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pooling": "means"}, r"no pooling 'means'.\nDid you mean mean"),
        ({"pooling": "cls"}, r"needs class_index in 0…3; got None"),
        ({"pooling": "cls", "class_index": 4}, r"got 4"),
        ({"pooling": "eot"}, r"needs end_index of shape \(2,\); got None"),
        ({"pooling": "eot", "end_index": torch.tensor([0, 4])}, r"end_index must lie in 0…3; got \[0, 4\]"),
    ],
)
def test_what_cannot_be_pooled_is_named(settings, message):
    with pytest.raises(UserError, match=message):
        pool(HIDDEN, KEEP, **settings)


def test_shapes_are_checked():
    with pytest.raises(UserError, match=r"\(b, s, d\); got \(4, 3\)"):
        pool(HIDDEN[0], KEEP, pooling="mean")
    with pytest.raises(UserError, match=r"keep_mask must be boolean of shape \(2, 4\)"):
        pool(HIDDEN, KEEP.float(), pooling="mean")


def test_an_item_without_a_kept_token_is_named():
    keep = KEEP.clone()
    keep[1] = False
    with pytest.raises(UserError, match=r"Item 8 has no token to average"):
        pool(HIDDEN, keep, pooling="mean", sample_offset=7)


def test_small_pictures_keep_every_pixel():
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 48, 3), dtype=np.uint8)
    for image, data in zip(images, thumbnails(images)):
        assert data.startswith(b"\x89PNG")
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), image)


def test_large_pictures_become_small_jpegs_of_the_same_ratio():
    pictures = [Image.new("RGBA", (400, 100), (255, 0, 0, 255)), Image.new("L", (65, 1300)), Image.new("P", (90, 90))]
    small = [Image.open(io.BytesIO(data)) for data in thumbnails(pictures, side=64)]
    assert [picture.format for picture in small] == ["JPEG"] * 3
    assert [picture.size for picture in small] == [(64, 16), (3, 64), (64, 64)]
    assert np.asarray(small[0])[8, 32].tolist()[0] > 240
    assert pictures[0].size == (400, 100)


def test_sinks_are_found_by_position(tmp_path):
    generator = torch.Generator().manual_seed(0)
    n, positions = 40, 6
    position = np.tile(np.arange(positions), n)
    values = torch.randn(n * positions, 8, generator=generator)
    values[position == 2] *= 50
    table = {"sample": np.repeat(np.arange(n), positions), "item": 0 * position, "position": position}
    rows = pa.table({**table, "split": ["train"] * len(position)})
    writer = StoreWriter(tmp_path, sites={"vision.1": SiteInfo(8)}, shard_samples=n)
    samples = pa.table({"sample_id": [str(i) for i in range(n)]})
    writer.write_shard(0, samples=samples, rows={"vision": rows}, values={"vision.1": values})
    writer.finish()
    store = Store.open(tmp_path)
    norms = position_norms(store, "vision.1")
    lengths = store.read("vision.1").norm(dim=1).numpy()
    assert norms.positions.tolist() == list(range(positions))
    assert norms.counts.tolist() == [n] * positions
    assert norms.medians == pytest.approx([np.median(lengths[position == p]) for p in range(positions)])
    assert norms.sinks.tolist() == [2]
    assert norms.outliers == int((lengths > 10 * np.median(lengths)).sum())
    assert "vision.1" in norms.warning
    assert "positions 2)" in norms.warning
    part = position_norms(store, "vision.1", max_rows=50)
    assert part.counts.sum() == 48  # every fifth of 240 rows
    assert 2 in part.sinks


def test_rows_of_even_norms_raise_no_warning(tmp_path):
    import stores

    assert position_norms(stores.opened(tmp_path, tokens=True, n=8), "vision.1").warning is None
