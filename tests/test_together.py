"""Trainings in turns on one reader: the numbers of each alone, and every batch read once."""

from __future__ import annotations

import pytest
import stores
import torch

from vlsae.commands.together import grouped, run_together, with_one_order
from vlsae.dictionaries import BatchTopK, TopK
from vlsae.representations import Reader
from vlsae.training import fit
from vlsae.training.together import Turns, shared


class Counted(Reader):
    """A reader that counts what it reads."""

    reads = 0

    def batch(self, step):
        Counted.reads += 1
        return super().batch(step)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return stores.opened(tmp_path_factory.mktemp("store") / "s", n=60)


def training(store, cls, seed, found):
    """Return a task that trains a dictionary with random draws in its loss and leaves its weights."""

    class Noisy(cls):
        kind = ""

        def loss(self, batch, step=0):
            loss = super().loss(batch, step)
            return loss._replace(total=loss.total * (1 + 0.1 * torch.rand(())))

    def task():
        torch.manual_seed(seed)
        dictionary = Noisy(stores.WIDTHS["vision.embedding"], 12, 3)
        sites = {"vision": "vision.embedding"}
        common = {"batch_size": 16, "seed": 0}
        readers = [
            shared(Counted(store, sites, split=split, **common), ("key", split)) for split in ("train", "validation")
        ]
        fit(dictionary, readers[0], validation=readers[1], epochs=3, lr=1e-2, seed=seed)
        found[cls.__name__, seed] = {name: x.clone() for name, x in dictionary.state_dict().items()}

    return task


def test_turns_change_no_number_and_read_each_batch_once(store):
    kinds = [(TopK, 0), (BatchTopK, 0), (TopK, 1)]
    alone, together = {}, {}
    Counted.reads = 0
    for cls, seed in kinds:
        training(store, cls, seed, alone)()
    reads = Counted.reads
    Counted.reads = 0
    Turns().run([training(store, cls, seed, together) for cls, seed in kinds])
    assert alone.keys() == together.keys()
    for name, state in alone.items():
        assert all(torch.equal(value, together[name][key]) for key, value in state.items()), name
    assert 0 < Counted.reads <= reads / len(kinds) + 2


def test_one_that_fails_stops_no_other(store):
    found = {}

    def broken():
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        Turns().run([broken, training(store, TopK, 0, found)])
    assert ("TopK", 0) in found


def test_jobs_that_differ_in_more_than_objective_and_seed_stay_apart():
    jobs = [
        ["objective=top_k", "seed=0", "train.epochs=2"],
        ["objective=vl_sae", "seed=1", "train.epochs=2"],
        ["objective.k=4", "train.epochs=3"],
        ["train.epochs=2", "objective.k=4", "seed=2"],
        ["dataset.seed=1", "train.epochs=2"],
    ]
    assert grouped(jobs, 8) == [[0, 1, 3], [2], [4]]
    assert grouped(jobs, 2) == [[0, 1], [3], [2], [4]]
    assert with_one_order(jobs, [0, 1])[1] == [*jobs[1], "train.order_seed=0"]
    assert with_one_order(jobs, [2])[2] == jobs[2]
    told = [[*words, "train.order_seed=7"] for words in jobs]
    assert with_one_order(told, [0, 1])[0] == told[0]
    with pytest.raises(ValueError, match="known from the start"):
        run_together(jobs, 2, lambda number, words: None, ["hydra/sweeper=optuna"])
