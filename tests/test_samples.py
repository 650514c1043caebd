"""The sample reader: what a step reads depends on seed and step alone."""

from __future__ import annotations

import gc
import threading
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from vlsae.datasets.base import Dataset
from vlsae.errors import UserError
from vlsae.models.base import Batch
from vlsae.training.samples import SampleReader


class Numbers(Dataset):
    """Images whose pixels are their row's number; two captions each; rows come in twins."""

    block = 2

    def __init__(self, n: int = 60, broken: int | None = None) -> None:
        self.n, self.broken = n, broken

    @property
    def table(self):
        import datasets

        rows = range(self.n)
        columns = {
            "sample_id": [f"s{i}" for i in rows],
            "texts": [[f"{i} a", f"{i} b"] for i in rows],
            "labels": [{} for _ in rows],
            "source": ["test"] * self.n,
            "group": [f"g{i // 2}" for i in rows],
        }
        return datasets.Dataset.from_dict(columns)

    @property
    def has_images(self) -> bool:
        return True

    def images(self, indices: Sequence[int]) -> np.ndarray:
        if self.broken in indices:
            raise UserError(f"row {self.broken} is broken")
        return np.stack([np.full((2, 2, 3), i, np.uint8) for i in indices])

    def digest(self) -> str:
        return "0" * 64


class Echo:
    """Keeps row numbers and captions readable."""

    def prepare(self, images=None, texts=None) -> Batch:
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
        return Batch(pixels, torch.tensor([[int(text.split()[0]), ord(text[-1])] for text in texts]))


def read(reader: SampleReader, steps: Sequence[int]) -> list[list[int]]:
    return [reader.batch(step).vision[:, 0, 0, 0].int().tolist() for step in steps]


def flat(batches: list[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


def test_an_epoch_reads_each_row_of_the_split_once_and_pairs_it_with_its_own_caption():
    dataset = Numbers()
    readers = [SampleReader(dataset, Echo(), batch_size=8, split=split) for split in ("train", "validation")]
    seen = [sorted(flat(read(reader, range(reader.steps_per_epoch)))) for reader in readers]
    assert sorted(seen[0] + seen[1]) == list(range(60))
    batch = readers[0].batch(0)
    assert batch.language[:, 0].tolist() == batch.vision[:, 0, 0, 0].int().tolist()


def test_every_text_of_an_image_comes_with_it_and_uneven_numbers_are_refused():
    batch = SampleReader(Numbers(), Echo(), batch_size=8, every_text=True).batch(1)
    assert batch.language.shape == (8, 2, 2)
    rows = batch.vision[:, 0, 0, 0].int().tolist()
    assert batch.language[:, :, 0].tolist() == [[row, row] for row in rows]
    assert batch.language[:, :, 1].tolist() == [[ord("a"), ord("b")]] * 8

    class Uneven(Numbers):
        @property
        def table(self):
            return super().table.map(lambda row: {"texts": row["texts"][: 1 + (row["sample_id"] > "s3")]})

    with pytest.raises(UserError, match="from 1 to 2 captions"):
        SampleReader(Uneven(), Echo(), batch_size=60, split_settings={"validation": 0.0}, every_text=True).batch(0)


def test_twins_share_a_batch():
    reader = SampleReader(Numbers(), Echo(), batch_size=8)
    for rows in read(reader, range(2 * reader.steps_per_epoch)):
        assert {row ^ 1 for row in rows} == set(rows)


def test_a_step_reads_the_same_after_a_jump_as_in_a_walk():
    walked = SampleReader(Numbers(), Echo(), batch_size=8, seed=3)
    jumped = SampleReader(Numbers(), Echo(), batch_size=8, seed=3)
    batches = [walked.batch(step) for step in range(9)]
    for step in (7, 2, 8):
        assert torch.equal(jumped.batch(step).vision, batches[step].vision)
        assert torch.equal(jumped.batch(step).language, batches[step].language)


def test_epochs_and_seeds_order_rows_differently_and_without_shuffling_they_come_as_they_lie():
    reader = SampleReader(Numbers(), Echo(), batch_size=8)
    length = reader.steps_per_epoch
    assert read(reader, range(length)) != read(reader, range(length, 2 * length))
    other = SampleReader(Numbers(), Echo(), batch_size=8, seed=1)
    assert read(reader, range(length)) != read(other, range(length))
    plain = SampleReader(Numbers(), Echo(), batch_size=8, shuffle=False)
    rows = flat(read(plain, range(length)))
    assert rows == sorted(rows)


def test_an_unreadable_image_is_raised_at_its_step_and_the_reader_goes_on_elsewhere():
    broken = int(SampleReader(Numbers(), Echo(), batch_size=8, shuffle=False).rows[20])
    reader = SampleReader(Numbers(broken=broken), Echo(), batch_size=8, shuffle=False)
    assert len(reader.batch(0).vision) == 8
    assert len(reader.batch(1).vision) == 8
    with pytest.raises(UserError, match=f"row {broken} is broken"):
        reader.batch(2)
    assert len(reader.batch(0).vision) == 8


def test_describe_names_samples_and_a_batch_that_splits_twins_is_refused():
    reader = SampleReader(Numbers(), Echo(), batch_size=8, shuffle=False)
    mask = np.zeros(8, bool)
    mask[1] = True
    assert reader.describe(0, mask) == [f"s{reader.rows[1]}"]
    with pytest.raises(UserError, match="batch_size=7"):
        SampleReader(Numbers(), Echo(), batch_size=7)


def test_a_reader_that_is_dropped_leaves_no_thread_behind():
    before = set(threading.enumerate())
    reader = SampleReader(Numbers(), Echo(), batch_size=8)
    reader.batch(0)
    started = set(threading.enumerate()) - before
    assert len(started) == 1
    del reader
    gc.collect()
    for thread in started:
        thread.join(5)
    assert not any(thread.is_alive() for thread in started)


def test_an_empty_split_and_a_sample_without_text_are_named():
    reader = SampleReader(Numbers(), Echo(), batch_size=8, split="test")
    assert reader.steps_per_epoch == 0
    with pytest.raises(UserError, match="no samples"):
        reader.batch(0)
    bare = Numbers()
    texts = [[] if row == 4 else ["4 a"] for row in range(60)]
    table = bare.table.remove_columns("texts").add_column("texts", texts)

    class Bare(Numbers):
        @property
        def table(self):
            return table

    reader = SampleReader(Bare(), Echo(), batch_size=60, shuffle=False, split_settings={"validation": 0.0})
    with pytest.raises(UserError, match="'s4' has no text"):
        reader.batch(0)
