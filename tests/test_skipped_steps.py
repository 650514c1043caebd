"""Batches that are not finite: skipped and counted, few of them, and never at the cost of a checkpoint."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from vlsae.errors import UserError
from vlsae.training import Loss, Objective, fit
from vlsae.training.rows import NotFinite

STEPS = 2000


class Line(Objective):
    """Learns one number; the loss is not finite at the steps of ``bad``, nor the gradient at those of ``steep``."""

    def __init__(self, bad: set[int] = frozenset(), steep: set[int] = frozenset()) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.bad, self.steep = bad, steep

    def loss(self, batch, step: int = 0) -> Loss:
        error = (self.layer(batch["vision"]) - 1).square().mean()
        if step in self.steep:
            error = error + (self.layer.weight - self.layer.weight.detach()).abs().sum().sqrt()
        return Loss(error * (float("nan") if step in self.bad else 1), {"loss/vision": error})


class Ones:
    """Steps of one row each; ``broken`` steps hold a row that is not finite."""

    def __init__(self, steps: int = STEPS, broken: set[int] = frozenset()) -> None:
        self.steps_per_epoch, self.broken = steps, broken

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        return {"vision": torch.full((1, 1), float("inf") if step in self.broken else 1.0)}

    def describe(self, step: int, mask) -> list[str]:
        return [f"sample-{step}"]


def trained(tmp_path, reader=None, *, bad=frozenset(), steep=frozenset(), **settings):
    torch.manual_seed(0)
    line = Line(set(bad), set(steep))
    result = fit(line, reader or Ones(), epochs=1, lr=1e-2, run_directory=tmp_path, log_every=1000, **settings)
    return line, result


def test_single_batches_are_skipped_counted_and_named(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        line, result = trained(tmp_path, Ones(broken={40}), steep={1200})
    assert result.skipped == 2
    assert result.steps == STEPS
    assert torch.isfinite(line.layer.weight).all()
    messages = [record.message for record in caplog.records]
    assert "row sample-40" in messages[0]
    assert "step 1200 is skipped, 2 of at most 2: The gradient at step 1200" in messages[1]


def test_a_skipped_step_changes_neither_weights_nor_moments(tmp_path):
    seen = {}

    class Watched(Line):
        def loss(self, batch, step=0):
            seen[step] = self.layer.weight.item()
            return super().loss(batch, step)

    torch.manual_seed(0)
    fit(Watched({6}), Ones(1000), epochs=1, lr=1e-2, log_every=1000)
    assert seen[6] == seen[7] != seen[8]


def test_more_than_a_thousandth_stops_the_training(tmp_path):
    with pytest.raises(NotFinite, match="at most 2 may be skipped"):
        trained(tmp_path, bad={10, 20, 30})


def test_three_running_stop_the_training(tmp_path):
    with pytest.raises(NotFinite, match=r"the 3\. of all and the 3\. running"):
        trained(tmp_path, bad={10, 11, 12})


def test_in_a_short_training_the_first_stops_it(tmp_path):
    with pytest.raises(NotFinite, match="at most 0 may be skipped"):
        trained(tmp_path, Ones(100), bad={10})


def test_no_checkpoint_is_written_while_steps_are_skipped(tmp_path):
    with pytest.raises(NotFinite):
        trained(tmp_path, bad={998, 999, 1000}, checkpoint_every=333)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == [
        "step-00000333.safetensors",
        "step-00000666.safetensors",
    ]


def test_the_count_goes_on_after_a_resumption(tmp_path):
    class Stop(Exception):
        pass

    def stop(amount, note):
        done.append(amount)
        if len(done) == 700:
            raise Stop

    done = []
    with pytest.raises(Stop):
        trained(tmp_path, bad={10}, checkpoint_every=500, progress=stop)
    with pytest.raises(NotFinite, match=r"the 3\. of all"):
        trained(tmp_path, bad={600, 700}, resume=True)


def test_weights_that_are_not_finite_are_never_a_checkpoint(tmp_path):
    class Leaping(Line):
        def after_step(self, step):
            if step == 79:
                self.layer.weight.fill_(float("nan"))

    with pytest.raises(UserError, match=r"parameter layer\.weight is not finite; no checkpoint"):
        fit(Leaping(), Ones(100), epochs=1, lr=1e-2, run_directory=tmp_path, checkpoint_every=20, log_every=50)
    assert sorted(path.name for path in tmp_path.glob("step-*"))[-1] == "step-00000060.safetensors"
