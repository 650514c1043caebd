"""The order of reading: pure, whole, mixed within windows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlsae.errors import UserError
from vlsae.representations.order import Order, epoch_order, sample_positions

sizes_of = st.lists(st.integers(0, 9), min_size=0, max_size=12)


@given(sizes_of, st.integers(0, 5), st.integers(0, 3), st.integers(1, 4), st.integers(1, 5))
@settings(max_examples=150, deadline=None)
def test_every_row_comes_once_and_the_order_is_a_function_of_seed_and_epoch(sizes, seed, epoch, block, window):
    n = sum(sizes)
    order = epoch_order(n, seed, epoch, block, sizes, window)
    assert sorted(order.tolist()) == list(range(n))
    assert np.array_equal(order, epoch_order(n, seed, epoch, block, sizes, window))


@given(sizes_of, st.integers(1, 4), st.integers(1, 5), st.data())
@settings(max_examples=100, deadline=None)
def test_any_stretch_is_found_by_arithmetic(sizes, block, window, data):
    n = sum(sizes)
    start = data.draw(st.integers(0, n))
    stop = data.draw(st.integers(start, n))
    whole = epoch_order(n, 7, 2, block, sizes, window)
    assert np.array_equal(Order(sizes, 7, window=window, block=block).rows(2, start, stop), whole[start:stop])


def test_rows_leave_no_window_of_shards():
    sizes, window = [5, 6, 7, 8, 9], 2
    order = epoch_order(35, 3, 1, shard_sizes=sizes, window=window)
    shard = np.repeat(np.arange(5), sizes)[order]
    visited = Order(sizes, 3, window=window).shards(1)
    start = 0
    for number in range(0, 5, window):
        group = visited[number : number + window]
        length = sum(sizes[s] for s in group)
        assert set(shard[start : start + length]) == set(group.tolist())
        start += length


@pytest.mark.parametrize("n", [12, 13])
def test_blocks_stay_together_in_their_order(n):
    order = epoch_order(n, 0, 0, block=4)
    for first in range(0, n, 4):
        block = list(range(first, min(first + 4, n)))
        place = int(np.flatnonzero(order == first)[0])
        assert order[place : place + len(block)].tolist() == block


def test_epochs_seeds_and_streams_differ():
    base = Order([50, 50], 0).rows(0, 0, 100)
    for other in (Order([50, 50], 0).rows(1, 0, 100), Order([50, 50], 1).rows(0, 0, 100)):
        assert not np.array_equal(base, other)
    assert not np.array_equal(base, Order([50, 50], 0, salt=1).rows(0, 0, 100))


def test_shards_are_permuted_evenly():
    first = np.bincount([Order([1] * 6, 0, window=1).shards(epoch)[0] for epoch in range(3000)], minlength=6)
    assert first.min() > 400
    assert first.max() < 600


def test_without_shuffle_rows_come_as_they_lie():
    assert Order([3, 4], 0, shuffle=False).rows(5, 0, 7).tolist() == list(range(7))


def test_the_order_is_the_same_on_every_version():
    # Written down once: a later version of numpy, or of this file, must not change what a resumed training reads.
    assert epoch_order(10, 0, 0).tolist() == GOLDEN_PLAIN
    assert epoch_order(10, 5, 3, 2, [4, 3, 3], 2).tolist() == GOLDEN_BLOCKS


def test_settings_out_of_range_are_refused():
    with pytest.raises(UserError, match=r"shard_sizes add up to 5; expected n = 6"):
        epoch_order(6, 0, 0, shard_sizes=[2, 3])
    with pytest.raises(UserError, match=r"block must be at least 1; got 0"):
        epoch_order(6, 0, 0, block=0)
    with pytest.raises(UserError, match=r"window must be at least 1; got -1"):
        Order([6], 0, window=-1)


@given(st.integers(0, 300), st.integers(1, 300), st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_drawn_positions_are_distinct_and_repeat(n, count, seed):
    drawn = sample_positions(n, count, seed)
    assert len(drawn) == min(n, count)
    assert (np.diff(drawn) > 0).all()
    assert not len(drawn) or (drawn[0] >= 0 and drawn[-1] < n)
    assert np.array_equal(drawn, sample_positions(n, count, seed))


GOLDEN_PLAIN = [6, 8, 2, 4, 9, 0, 5, 3, 7, 1]
GOLDEN_BLOCKS = [4, 5, 9, 7, 8, 6, 0, 1, 2, 3]
