"""Several datasets as one: rows, images, names, blocks."""

from __future__ import annotations

import numpy as np
import pytest

from vlsae.datasets import Shapes
from vlsae.datasets.base import sample_splits
from vlsae.datasets.mixture import Mixture
from vlsae.errors import UserError


def test_rows_of_the_parts_stand_one_after_the_other() -> None:
    parts = [Shapes(n=6), Shapes(n=10, twins=True), Shapes(n=4, seed=2)]
    mixture = Mixture(parts=parts)
    assert len(mixture) == len(mixture.table) == 20
    assert mixture.block == 2
    assert len(set(mixture.table["sample_id"])) == 20
    assert mixture.table["texts"][6:16] == parts[1].table["texts"][:]
    assert mixture.table["group"][6] == mixture.table["group"][7]
    rows = [19, 0, 7, 6, 15]
    wanted = [parts[2].images([3]), parts[0].images([0]), parts[1].images([1, 0, 9])]
    assert np.array_equal(mixture.images(rows), np.concatenate(wanted))
    assert mixture.digest() != Mixture(parts=parts[::-1]).digest()
    assert mixture.skipped == []


def test_a_split_parts_no_block_of_any_part() -> None:
    mixture = Mixture(parts=[Shapes(n=300), Shapes(n=300, seed=1, twins=True), Shapes(n=300, seed=2, crossed=12)])
    assert mixture.block == 12
    splits = np.array(sample_splits(mixture, len(mixture), {"validation": 0.3}))
    assert set(splits) == {"train", "validation"}
    blocks = splits.reshape(-1, 12)
    assert (blocks == blocks[:, :1]).all()


def test_images_of_several_sizes_come_as_a_list() -> None:
    mixture = Mixture(parts=[Shapes(n=2), Shapes(n=2, size=32)])
    assert [image.shape for image in mixture.images([0, 3])] == [(64, 64, 3), (32, 32, 3)]


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="empty"):
        Mixture(parts=[])
    with pytest.raises(UserError, match=r"parts\[0\] has 3 rows"):
        Mixture(parts=[Shapes(n=3), Shapes(n=4, twins=True)])
