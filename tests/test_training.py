"""The one training loop: schedule, steps, checkpoints, resuming, and what it refuses."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from vlsae.dictionaries import SAES, VLSAE, TopK
from vlsae.errors import UserError
from vlsae.training import Loss, Objective, build_optimizer, epoch_factors, fit, train_step
from vlsae.training.loop import validate

REFERENCE = [0.5, 1, 0.9619397662556434, 0.8535533905932737, 0.6913417161825449, 0.5]
REFERENCE += [0.3086582838174551, 0.14644660940672627, 0.03806023374435663, 0.0]


class Rows:
    """A reader of random paired rows, in an order of its own each epoch."""

    def __init__(self, n: int = 90, batch_size: int = 20, width: int = 8, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        centers = torch.randn(6, width, generator=generator)
        self.rows = {}
        for stream in ("vision", "language"):
            noise = 0.3 * torch.randn(n, width, generator=generator)
            self.rows[stream] = centers[torch.arange(n) % 6] + noise
        self.n, self.batch_size = n, batch_size

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.n / self.batch_size)

    def numbers(self, step: int) -> torch.Tensor:
        epoch, place = divmod(step, self.steps_per_epoch)
        order = torch.from_numpy(np.random.default_rng(epoch).permutation(self.n))
        return order[place * self.batch_size : (place + 1) * self.batch_size]

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        return {stream: x[self.numbers(step)] for stream, x in self.rows.items()}

    def describe(self, step: int, mask: np.ndarray) -> list[str]:
        return [f"sample-{number}" for number in self.numbers(step)[torch.from_numpy(mask)].tolist()]


class Noisy(Objective):
    """An objective that draws random numbers, so that a resumed run needs the generator's state."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def loss(self, batch, step: int = 0) -> Loss:
        x = batch["vision"]
        error = (self.layer(x + torch.randn(x.shape)) - x).square().mean()
        return Loss(error, {"loss/noisy": error})

    def after_step(self, step: int) -> None:
        self.seen += 1


def make(kind: str) -> Objective:
    torch.manual_seed(5)
    if kind == "noisy":
        return Noisy()
    if kind == "top_k":
        return TopK(8, 32, 4, dead_after=40)
    return VLSAE(8, 32, 4, input_norm="mean_norm", loss_balance="variance")


def state(objective: Objective) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in [*objective.named_parameters(), *objective.named_buffers()]}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


SETTINGS = {"epochs": 3, "lr": 1e-2, "checkpoint_every": 2, "log_every": 1, "seed": 7, "patience": 10}


class Stop(BaseException):
    """Stands for a kill."""


class TestSchedule:
    def test_reference_has_the_ten_factors_of_the_paper(self):
        assert epoch_factors("reference", 10) == pytest.approx(REFERENCE, abs=1e-9)
        assert epoch_factors("reference", 10)[-1] == 0

    def test_fixed_still_moves_in_the_last_epoch(self):
        factors = epoch_factors("fixed", 10)
        assert factors[:2] == [0.5, 1]
        assert factors[-1] == pytest.approx((1 + math.cos(math.pi * 8 / 9)) / 2)
        assert factors == sorted(factors[:1]) + sorted(factors[1:], reverse=True)

    def test_cosine_is_stepped_after_each_epoch(self):
        factors = epoch_factors("cosine", 50, warmup_epochs=0)
        assert factors == pytest.approx([(1 + math.cos(math.pi * e / 50)) / 2 for e in range(50)])

    @pytest.mark.parametrize("schedule", ["fixed", "reference", "cosine"])
    @pytest.mark.parametrize("epochs", [1, 2, 3, 7])
    @pytest.mark.parametrize("warmup", [0, 1, 2, 5])
    def test_any_length(self, schedule, epochs, warmup):
        factors = epoch_factors(schedule, epochs, warmup)
        assert len(factors) == epochs
        assert all(0 <= factor <= 1 for factor in factors)
        assert max(factors) == (1 if epochs >= warmup else epochs / warmup)

    def test_wrong_values_are_named(self):
        with pytest.raises(ValueError, match="schedule 'fixd'"):
            epoch_factors("fixd", 3)
        with pytest.raises(ValueError, match="epochs"):
            epoch_factors("fixed", 0)
        with pytest.raises(ValueError, match="warmup_epochs"):
            epoch_factors("fixed", 3, -1)
        with pytest.raises(ValueError, match="epochs must be an integer"):
            epoch_factors("fixed", 2.5)


class TestStep:
    def test_values_are_from_before_the_update(self):
        model, reader = SAES(8, 32, 4), Rows()
        before = model.loss(reader.batch(0))
        loss = train_step(model, reader.batch(0), build_optimizer(model, 1e-2))
        assert torch.equal(loss.total, before.total.detach())
        assert not loss.total.requires_grad
        assert not any(part.requires_grad for part in loss.parts.values())
        assert model.loss(reader.batch(0)).total < before.total

    def test_groups_scale_the_rate(self):
        class Scaled(SAES):
            def parameter_groups(self):
                return [
                    {"params": self.encoder.parameters(), "lr_scale": 0.1},
                    {"params": self.decoder.parameters(), "weight_decay": 0.5},
                ]

        optimizer = build_optimizer(Scaled(8, 32, 4), 1e-2)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-3, 1e-2])
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0, 0.5]

    def test_clipping_bounds_all_gradients_together(self):
        model, reader = SAES(8, 32, 4), Rows()
        train_step(model, reader.batch(0), build_optimizer(model, 0.0), clip=1e-3)
        norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
        assert norm.item() == pytest.approx(1e-3, rel=1e-5)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_a_batch_that_is_not_finite_leaves_everything_untouched(self, value):
        model, reader = make("top_k"), Rows()
        optimizer = build_optimizer(model, 1e-2)
        train_step(model, reader.batch(0), optimizer)
        before, moments = state(model), optimizer.state_dict()["state"]
        batch = reader.batch(1)
        batch["language"][4, 2] = value
        with pytest.raises(ValueError, match="not finite in language, row 4"):
            train_step(model, batch, optimizer, 1)
        assert_same(state(model), before)
        assert optimizer.state_dict()["state"] == moments

    def test_a_loss_or_gradient_that_is_not_finite_leaves_the_weights(self):
        class Broken(Noisy):
            def loss(self, batch, step=0):
                x = self.layer(batch["vision"])
                # The root of zero has a finite value and an infinite slope.
                total = (x - x.detach()).abs().sum().sqrt() if step else x.sum() * float("nan")
                return Loss(total, {})

        model = Broken()
        before = state(model)
        optimizer = build_optimizer(model, 1e-2)
        with pytest.raises(ValueError, match="loss at step 0 is nan"):
            train_step(model, Rows().batch(0), optimizer, 0)
        with pytest.raises(ValueError, match="gradient at step 1 is not finite"):
            train_step(model, Rows().batch(0), optimizer, 1)
        assert_same(state(model), before)

    @pytest.mark.parametrize("lr", [-1, float("nan"), float("inf")])
    def test_wrong_rates_are_refused(self, lr):
        with pytest.raises(ValueError, match="lr must"):
            build_optimizer(SAES(8, 32, 4), lr)


class TestFit:
    def test_what_is_logged(self):
        lines = []
        result = fit(
            make("vl_sae"),
            Rows(),
            validation=Rows(30, seed=1),
            epochs=3,
            lr=1e-2,
            log_every=4,
            log=lambda *line: lines.append(line),
        )
        assert [line[0] for line in lines if line[2] == "train"] == [1, 4, 5, 8, 10, 12, 15]
        assert [line[:2] for line in lines if line[2] == "validation"] == [(5, 1.0), (10, 2.0), (15, 3.0)]
        assert lines[0][3].keys() == {"loss", "loss/vision", "loss/language", "lr"}
        assert lines[0][3]["lr"] == pytest.approx(5e-3)
        assert result.steps == 15
        assert len(result.history) == 3
        assert result.best_loss == min(epoch["loss"] for epoch in result.history)

    def test_the_best_weights_are_left_in_the_objective(self, tmp_path):
        for folder in (None, tmp_path / "checkpoints"):
            model, validation = make("vl_sae"), Rows(30, seed=1)
            result = fit(model, Rows(), validation=validation, epochs=6, lr=0.3, run_directory=folder)
            assert result.best_epoch < 6
            assert validate(model, validation)["loss"] == pytest.approx(result.best_loss, rel=1e-6)

    def test_validation_is_weighted_by_rows(self):
        model = SAES(8, 32, 4)
        validation = Rows(50, 20)
        parts = validate(model, validation)
        whole = model.loss(validation.rows)
        assert parts["loss"] == pytest.approx(whole.total.item(), rel=1e-6)
        assert parts["loss/vision"] == pytest.approx(whole.parts["loss/vision"].item(), rel=1e-6)

    def test_validation_changes_no_random_state(self):
        model = Noisy()
        before = torch.get_rng_state()
        assert validate(model, Rows(), seed=3) == validate(model, Rows(), seed=3)
        assert torch.equal(torch.get_rng_state(), before)
        assert model.training

    def test_patience_ends_the_training(self):
        model = make("vl_sae")
        result = fit(model, Rows(), validation=Rows(30, seed=1), epochs=40, lr=0.5, patience=2)
        assert len(result.history) == result.best_epoch + 2 < 40

    @pytest.mark.parametrize("kind", ["vl_sae", "top_k", "noisy"])
    def test_two_runs_of_one_seed_are_equal_to_the_byte(self, kind, tmp_path):
        for folder in ("a", "b"):
            fit(make(kind), Rows(), validation=Rows(30, seed=1), run_directory=tmp_path / folder, **SETTINGS)
        names = sorted(path.name for path in (tmp_path / "a").iterdir())
        assert names == ["best.safetensors", "step-00000014.safetensors", "step-00000015.safetensors"]
        for name in names:
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()

    def test_samples_are_batches_of_model_inputs(self):
        @dataclass
        class Inputs:
            vision: torch.Tensor | None = None
            language: torch.Tensor | None = None

        class Pixels(Rows):
            def batch(self, step):
                rows = super().batch(step)
                return Inputs(
                    rows["vision"].reshape(-1, 2, 2, 2), torch.ones(len(rows["vision"]), 3, dtype=torch.int64)
                )

        class Learner(Noisy):
            source = "samples"

            def loss(self, batch, step=0):
                assert batch.language.dtype == torch.int64
                return super().loss({"vision": batch.vision.flatten(1)}, step)

        result = fit(Learner(), Pixels(), validation=Pixels(30), epochs=2, lr=1e-2)
        assert result.steps == 10
        bad = Pixels()
        bad.rows["vision"][17, 3] = float("nan")
        with pytest.raises(UserError, match="not finite in vision, row sample-17"):
            fit(Learner(), bad, epochs=1, lr=1e-2)

    def test_bfloat16_products(self):
        model = make("vl_sae")
        result = fit(model, Rows(), validation=Rows(30, seed=1), epochs=3, lr=1e-2, precision="bfloat16")
        assert result.history[-1]["loss"] < result.history[0]["loss"]
        assert model.encoder.dtype == torch.float32

    def test_progress_counts_steps(self):
        counts = []
        fit(make("noisy"), Rows(), epochs=2, lr=1e-2, progress=lambda amount, note: counts.append(amount))
        assert sum(counts) == 10


class TestResume:
    @pytest.mark.parametrize("kind", ["vl_sae", "top_k", "noisy"])
    @pytest.mark.parametrize("stop", range(1, 16))
    def test_a_run_stopped_after_any_step_comes_to_the_same_numbers(self, kind, stop, tmp_path):
        lines: dict[str, list] = {"whole": [], "stopped": []}
        resumed_from = []

        def log(name, stop_at=None):
            def write(step, epoch, split, values):
                lines[name].append((step, epoch, split, values))
                if step == stop_at:
                    raise Stop

            return write

        def on_resume(step):
            resumed_from.append(step)
            lines["stopped"] = [line for line in lines["stopped"] if line[0] <= step]

        readers = {"reader": Rows(), "validation": Rows(30, seed=1)}
        whole = make(kind)
        expected = fit(whole, **readers, log=log("whole"), run_directory=tmp_path / "whole", **SETTINGS)
        folder = tmp_path / "stopped"
        with pytest.raises(Stop):
            fit(make(kind), **readers, log=log("stopped", stop), run_directory=folder, **SETTINGS)
        again = make(kind)
        with torch.no_grad():
            for parameter in again.parameters():
                parameter.mul_(1.5)
        if not list(folder.glob("step-*")):
            again = make(kind)
        result = fit(
            again, **readers, log=log("stopped"), run_directory=folder, resume=True, on_resume=on_resume, **SETTINGS
        )
        assert result == expected
        assert_same(state(again), state(whole))
        assert lines["stopped"] == lines["whole"]
        for path in (tmp_path / "whole").iterdir():
            assert path.read_bytes() == (folder / path.name).read_bytes()

    def test_a_finished_run_is_not_trained_further(self, tmp_path):
        reader, validation = Rows(), Rows(30, seed=1)
        model = make("vl_sae")
        expected = fit(model, reader, validation=validation, run_directory=tmp_path, **SETTINGS)
        again, told = make("vl_sae"), []
        result = fit(
            again, reader, validation=validation, run_directory=tmp_path, resume=True, on_resume=told.append, **SETTINGS
        )
        assert result == expected
        assert told == []
        assert_same(state(again), state(model))

    def test_a_damaged_checkpoint_is_named_and_the_one_before_used(self, tmp_path, caplog):
        reader = Rows()
        whole = make("noisy")
        fit(whole, reader, run_directory=tmp_path / "whole", **SETTINGS)
        folder = tmp_path / "damaged"
        fit(make("noisy"), reader, run_directory=folder, **SETTINGS)
        last = folder / "step-00000015.safetensors"
        damaged = bytearray(last.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        last.write_bytes(damaged)
        told = []
        again = make("noisy")
        with caplog.at_level(logging.WARNING, "vlsae"):
            fit(again, reader, run_directory=folder, resume=True, on_resume=told.append, **SETTINGS)
        assert "step-00000015.safetensors is damaged" in caplog.text
        assert told == [14]
        assert_same(state(again), state(whole))

    def test_damage_to_every_checkpoint_is_an_error(self, tmp_path):
        fit(make("noisy"), Rows(), run_directory=tmp_path, **SETTINGS)
        for path in tmp_path.glob("step-*"):
            path.write_bytes(path.read_bytes()[:-7])
        with pytest.raises(
            UserError, match=r"Every checkpoint .* is damaged: step-00000015.safetensors, step-00000014"
        ):
            fit(make("noisy"), Rows(), run_directory=tmp_path, resume=True, **SETTINGS)

    def test_damage_to_the_best_weights_is_an_error(self, tmp_path):
        settings = {"validation": Rows(30, seed=1), "run_directory": tmp_path, **SETTINGS}
        fit(make("vl_sae"), Rows(), **settings)
        (tmp_path / "best.safetensors").write_bytes(b"nothing")
        with pytest.raises(UserError, match="best weights cannot be read"):
            fit(make("vl_sae"), Rows(), resume=True, **settings)

    def test_checkpoints_of_another_objective_are_refused(self, tmp_path):
        fit(make("noisy"), Rows(), run_directory=tmp_path, **SETTINGS)
        with pytest.raises(UserError, match="kind 'Noisy'; 'vl_sae' was expected"):
            fit(make("vl_sae"), Rows(), run_directory=tmp_path, resume=True, **SETTINGS)

    def test_checkpoints_of_another_size_are_refused(self, tmp_path):
        fit(SAES(8, 32, 4), Rows(), run_directory=tmp_path, **SETTINGS)
        with pytest.raises(UserError, match="other parameters"):
            fit(SAES(8, 16, 4), Rows(), run_directory=tmp_path, resume=True, **SETTINGS)

    def test_a_folder_with_checkpoints_is_not_trained_into_anew(self, tmp_path):
        fit(make("noisy"), Rows(), run_directory=tmp_path, **SETTINGS)
        with pytest.raises(UserError, match="already holds checkpoints"):
            fit(make("noisy"), Rows(), run_directory=tmp_path, **SETTINGS)

    def test_a_file_cut_while_it_was_written_does_no_harm(self, tmp_path):
        (tmp_path / ".step-00000002.safetensors.abc").write_bytes(b"cut")
        result = fit(make("noisy"), Rows(), run_directory=tmp_path, resume=True, **SETTINGS)
        assert result.steps == 15


class TestRefusals:
    def test_rows_that_are_not_finite_are_named_as_the_reader_names_them(self):
        reader = Rows()
        model = make("top_k")
        reader.rows["language"][31, 0] = float("nan")
        reader.rows["vision"][64, 0] = float("inf")
        with pytest.raises(UserError, match=r"values that are not finite in (vision|language), row sample-(31|64)\."):
            fit(model, reader, epochs=1, lr=1e-2)

    def test_rows_of_zeros_are_named_as_the_reader_names_them(self):
        reader = Rows()
        reader.rows["language"][31] = 0
        with pytest.raises(UserError, match=r"zeros.* in language, row sample-31"):
            fit(VLSAE(8, 32, 4), reader, epochs=1, lr=1e-2)

    def test_weights_of_the_step_before_are_kept(self):
        reader, model = Rows(), SAES(8, 32, 4)
        number = reader.numbers(3)[5].item()
        reader.rows["vision"][number, 2] = float("nan")
        seen = {}

        def log(step, epoch, split, values):
            seen.update(state(model))

        with pytest.raises(UserError, match=f"row sample-{number}"):
            fit(model, reader, epochs=1, lr=1e-2, log=log, log_every=1)
        assert_same(state(model), seen)

    def test_validation_rows_are_checked_too(self):
        validation = Rows(30)
        validation.rows["vision"][3, 3] = float("nan")
        with pytest.raises(UserError, match="row sample-3"):
            fit(VLSAE(8, 32, 4), Rows(), validation=validation, epochs=1, lr=1e-2)

    def test_no_rows(self):
        with pytest.raises(UserError, match="no row to train on"):
            fit(make("noisy"), Rows(0), epochs=1, lr=1e-2)
        assert fit(make("noisy"), Rows(), validation=Rows(0), epochs=1, lr=1e-2).best_loss is None

    @pytest.mark.parametrize("name", ["log_every", "checkpoint_every", "patience", "clip"])
    def test_numbers_must_be_above_zero(self, name):
        with pytest.raises(UserError, match=f"{name} must be above 0"):
            fit(make("noisy"), Rows(), epochs=1, lr=1e-2, **{name: 0})

    def test_unknown_precision(self):
        with pytest.raises(UserError, match="precision 'float8'"):
            fit(make("noisy"), Rows(), epochs=1, lr=1e-2, precision="float8")
