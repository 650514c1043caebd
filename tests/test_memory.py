"""Where memory runs out: the same numbers in smaller pieces, said and noted, or an error with the mend."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_dictionaries import BOTH, D, make

from vlsae.dictionaries import SAED, SAES, VLSAE, TopK
from vlsae.dictionaries.dist_1dec import DistanceOneDecoder
from vlsae.dictionaries.random_enc import RandomEncoder
from vlsae.dictionaries.shared_lin_2dec import SharedLinear
from vlsae.errors import UserError
from vlsae.memory import Pieces, is_out_of_memory, shortage_told
from vlsae.training import Loss, build_optimizer, train_step
from vlsae.training.gradients import Accumulation, _weight

ROOT = Path(__file__).resolve().parent.parent

IN_PARTS = [VLSAE, SAED, SAES, SharedLinear, DistanceOneDecoder, RandomEncoder]


def too_large(kind: str) -> Exception:
    """What torch and Python say where memory runs out."""
    if kind == "cuda":
        return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    return (
        MemoryError() if kind == "python" else RuntimeError("[enforce fail] . DefaultCPUAllocator: not enough memory")
    )


def batch(rows: int = 11) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {stream: torch.randn(rows, D, generator=generator, dtype=torch.float64) for stream in BOTH}


def limited(cls, most: int, kind: str = "cuda"):
    """A class whose loss runs out of memory on more rows than ``most``."""

    class Limited(cls):
        def loss(self, rows, step=0):
            if len(rows["vision"]) > most:
                raise too_large(kind)
            return super().loss(rows, step)

        def loss_weight(self, rows):
            return super().loss_weight(rows)

    return Limited


@pytest.mark.parametrize("kind", ["cuda", "python", "cpu"])
def test_every_word_for_it_is_known(kind):
    assert is_out_of_memory(too_large(kind))
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))


def test_memory_of_the_machine_that_runs_out_is_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert is_out_of_memory(caught.value)


def test_the_page_of_faults_names_what_is_taken_in_parts_and_what_is_not():
    from vlsae.config import config_dir, target_class
    from vlsae.training import Objective

    text = (ROOT / "docs/faults.md").read_text(encoding="utf-8")
    rule = text[text.index("- A loss is taken in parts") : text.index("- A rank's loss")]
    named = [
        set(re.findall(r"`([a-z_0-9]+)`", part)) for part in re.split(r"The others stop|batch weighs\. `ica", rule)
    ]
    expected: list[set[str]] = [set(), set(), set()]
    for file in sorted((config_dir() / "objective").glob("*.yaml")):
        target = re.search(r"^_target_: (\S+)", file.read_text(encoding="utf-8"), re.MULTILINE)
        cls = target_class(target.group(1))
        place = (0 if _weighs(cls) else 1) if issubclass(cls, Objective) else 2
        expected[place].add(file.stem)
    assert [named[0], named[1], named[2] | {"ica"}] == expected


def _weighs(cls) -> bool:
    """Whether a class says what a batch weighs, as its loss is taken in parts."""
    own = object.__new__(cls)
    torch.nn.Module.__init__(own)
    rows = {stream: torch.ones(3, 2) for stream in BOTH}
    tokens = SimpleNamespace(mask=torch.ones(3, 2, dtype=torch.bool))
    weight = _weight(own, tokens if cls.source == "samples" else rows)
    return weight is not None


class TestPieces:
    def test_halves_until_it_fits_and_stays_there(self, caplog):
        pieces, tried, told = Pieces("extract.batch_size"), [], []

        def work(items):
            tried.append(len(items))
            if len(items) > 3:
                raise too_large("cuda")
            return list(items)

        with caplog.at_level(logging.WARNING), shortage_told(lambda: told.append(True)):
            found = pieces.run(list(range(10)), work)
            again = pieces.run(list(range(4)), work)
        assert [one for piece in found for one in piece] == list(range(10))
        assert [len(piece) for piece in again] == [2, 2]
        assert tried == [10, 5, 2, 2, 2, 2, 2, 2, 2]
        assert len(told) == 2
        assert "extract.batch_size=2" in caplog.text

    def test_one_item_too_large_is_an_error_with_a_mend(self):
        def work(items):
            raise too_large("python")

        with pytest.raises(UserError, match="single item"):
            Pieces("x").run([1, 2, 3], work)

    def test_another_error_is_left_as_it_is(self):
        with pytest.raises(KeyError):
            Pieces("x").run([1], lambda items: {}[items[0]])


class TestAccumulation:
    @pytest.mark.parametrize("cls", IN_PARTS)
    @pytest.mark.parametrize("most", [6, 3, 1])
    def test_the_gradient_is_that_of_the_whole_batch(self, cls, most):
        whole, cut = make(cls), make(limited(cls, most))
        loss = train_step(whole, batch(), build_optimizer(whole, 1e-2))
        accumulation, told = Accumulation(), []
        with shortage_told(lambda: told.append(True)):
            found = train_step(cut, batch(), build_optimizer(cut, 1e-2), accumulation=accumulation)
        assert accumulation.parts == {6: 2, 3: 4, 1: 11}[most]
        assert told
        torch.testing.assert_close(found.total, loss.total)
        assert found.parts.keys() == loss.parts.keys()
        for (name, one), other in zip(whole.named_parameters(), cut.parameters()):
            torch.testing.assert_close(one, other, msg=name)

    def test_the_number_of_parts_is_kept(self):
        dictionary, accumulation, told = make(limited(VLSAE, 6)), Accumulation(), []
        optimizer = build_optimizer(dictionary, 1e-2)
        with shortage_told(lambda: told.append(True)):
            for step in range(3):
                train_step(dictionary, batch(), optimizer, step, accumulation=accumulation)
        assert len(told) == 1

    def test_tokens_weigh_alike_however_texts_are_cut(self, tmp_path):
        from tiny_lm import write_lm

        from vlsae.learners.next_token import NextToken

        learner = NextToken(architecture=str(write_lm(tmp_path)))
        inputs = learner.prepare(None, ["a", "a longer text than the others", "b c", "d"])
        accumulation = Accumulation()
        whole = accumulation.backward(learner, inputs, 0)
        expected = {name: one.grad.clone() for name, one in learner.named_parameters()}
        learner.zero_grad()
        accumulation.parts = 3
        found = accumulation.backward(learner, inputs, 0)
        torch.testing.assert_close(found.total, whole.total)
        for name, parameter in learner.named_parameters():
            torch.testing.assert_close(parameter.grad, expected[name], atol=1e-6, rtol=1e-4)

    def test_a_loss_that_is_no_mean_stops_with_the_mend_and_the_weights_as_they_were(self):
        dictionary = make(limited(TopK, 6))
        before = {name: value.clone() for name, value in dictionary.state_dict().items()}
        with pytest.raises(UserError, match=r"no mean over rows.*\n.*train.batch_size"):
            train_step(dictionary, batch(), build_optimizer(dictionary, 1e-2))
        assert all(torch.equal(value, before[name]) for name, value in dictionary.state_dict().items())

    def test_streams_of_unequal_length_are_not_cut(self):
        dictionary, rows = make(limited(VLSAE, 2)), batch()
        rows["language"] = rows["language"][:5]
        with pytest.raises(UserError, match="cannot be taken in parts"):
            train_step(dictionary, rows, build_optimizer(dictionary, 1e-2))

    def test_an_own_loss_is_not_taken_for_a_mean(self):
        class Own(VLSAE):
            def loss(self, rows, step=0):
                if len(rows["vision"]) > 6:
                    raise too_large("cuda")
                loss = super().loss(rows, step)
                return Loss(loss.total.sqrt(), loss.parts)

        dictionary = make(Own)
        with pytest.raises(UserError, match="no mean over rows"):
            train_step(dictionary, batch(), build_optimizer(dictionary, 1e-2))

    def test_one_row_too_large(self):
        dictionary = make(limited(VLSAE, 0))
        with pytest.raises(UserError, match="on 1 rows of a batch"):
            train_step(dictionary, batch(), build_optimizer(dictionary, 1e-2))
