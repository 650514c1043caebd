"""The one training loop, for every objective."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from vlsae import ranks
from vlsae.errors import UserError, unknown
from vlsae.training.checkpoint import Checkpoints, State
from vlsae.training.gradients import Accumulation
from vlsae.training.objective import Loss, Objective
from vlsae.training.parts import merged
from vlsae.training.rows import InvalidRows, NotFinite, check_batch, count_rows, tensors, to_device
from vlsae.training.schedule import epoch_factors
from vlsae.training.step import build_optimizer, set_learning_rate, train_step

logger = logging.getLogger(__name__)

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}

#: Rows from which an objective sets what it measures before its first step.
INITIAL_ROWS = 8192

#: Batches that are not finite are skipped up to this share of a training's steps, and never so many running.
SKIPPED_SHARE, SKIPPED_RUNNING = 1e-3, 3

Log = Callable[[int, float, str, dict[str, float]], None]
Progress = Callable[[int, str], None]


class BatchReader(Protocol):
    """Batches by step number; ``describe`` names the rows of a batch where a mask is true.

    For several ranks also ``divided()``, a reader of this rank's part of each batch, and ``divides(step)``: False for a
    batch too small, which every rank reads whole.
    """

    @property
    def steps_per_epoch(self) -> int: ...

    def batch(self, step: int) -> Any: ...

    def describe(self, step: int, mask: Any) -> list[str]: ...


@dataclass(frozen=True)
class FitResult:
    """What a training came to: ``best_epoch`` counts from 1; ``history`` holds the validation values of each epoch.

    Without validation ``best_epoch`` is the last and ``best_loss`` None. ``skipped`` steps had a batch that was not
    finite and changed nothing.
    """

    steps: int
    best_epoch: int
    best_loss: float | None
    history: list[dict[str, float]]
    skipped: int = 0


def fit(
    objective: Objective,
    reader: BatchReader,
    *,
    epochs: int,
    lr: float,
    schedule: str = "fixed",
    warmup_epochs: int = 2,
    run_directory: Path | None = None,
    log: Log | None = None,
    validation: BatchReader | None = None,
    patience: int | None = None,
    checkpoint_every: int | None = None,
    log_every: int = 10,
    clip: float | None = None,
    seed: int = 0,
    resume: bool = False,
    precision: str = "float32",
    progress: Progress | None = None,
    on_resume: Callable[[int], None] | None = None,
    keep: Callable[[int], None] | None = None,
) -> FitResult:
    """Minimise an objective over ``epochs`` passes of a reader and leave the best weights in it.

    ``run_directory`` takes the checkpoints: every ``checkpoint_every`` steps and at each epoch's end; ``resume`` goes
    on from the latest and tells ``on_resume`` its step, 0 where there is none. ``log(step, epoch, split, values)`` gets
    every ``log_every``-th step and each epoch's validation means; steps are counted when done. Best is the lowest
    validation loss; ``patience`` epochs without a better one end the training. ``progress(steps, note)`` hears of steps
    done.
    ``keep(step)`` is called before the first step and after each, the weights as they then are.
    Of several ranks each takes a part of every batch; the first alone writes checkpoints and is to be given ``log``.

    A step whose batch, loss or gradient is not finite is skipped with a warning and counted. Raises
    :class:`NotFinite`, the weights as before the step, at more than ``SKIPPED_SHARE`` of all steps or at
    ``SKIPPED_RUNNING`` one after another; no checkpoint is written between them, so that the last good one stays.
    """
    factors = epoch_factors(schedule, epochs, warmup_epochs)
    _check_numbers(log_every=log_every, checkpoint_every=checkpoint_every, patience=patience, clip=clip)
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    length, validation, autocast = _length(reader), _with_rows(validation), PRECISIONS[precision]
    torch.manual_seed(seed)
    optimizer = build_optimizer(objective, lr)
    checkpoints = Checkpoints(run_directory, objective, optimizer)
    state = _begin(checkpoints, objective, reader, resume, epochs * length, on_resume)
    reader, validation = _shared_out(objective, reader, validation)
    told = _Told(log, progress, log_every, state.step)
    accumulation = Accumulation()
    objective.train()
    if keep is not None and state.step == 0:
        keep(0)
    while state.step < epochs * length and not _has_stopped(state, patience):
        rate, loss = lr * factors[state.step // length], None
        set_learning_rate(optimizer, rate)
        with _skipping(state, epochs * length):
            loss = _step(objective, reader, optimizer, state.step, clip, autocast, accumulation)
        state.step += 1
        if keep is not None:
            keep(state.step)
        epoch_ends = state.step % length == 0
        told.of_step(state.step, state.step / length, loss, rate, epoch_ends)
        if epoch_ends and validation is not None:
            means = validate(objective, validation, seed=seed, autocast=autocast, accumulation=accumulation)
            _judge(state, state.step // length, means, checkpoints)
            told.of_validation(state.step, float(state.step // length), means)
        due = epoch_ends or (checkpoint_every is not None and state.step % checkpoint_every == 0)
        if due and not state.skipped_running:
            checkpoints.save(state)
    if state.best_epoch is not None:
        checkpoints.load_best()
    best = state.best_epoch or state.step // length
    return FitResult(state.step, best, state.best_loss, state.history, state.skipped)


def validate(
    objective: Objective,
    reader: BatchReader,
    *,
    seed: int = 0,
    autocast: torch.dtype | None = None,
    accumulation: Accumulation | None = None,
) -> dict[str, float]:
    """Return the means over rows of the loss and its parts on one pass of a reader, without changing anything.

    Random draws within are the same at every call, and leave the generator as it was.
    """
    device = next(objective.parameters()).device
    accumulation = accumulation or Accumulation()
    was_training = objective.training
    objective.eval()
    sums: dict[str, float] = {}
    rows = 0
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
            torch.manual_seed(seed)
            for step in range(reader.steps_per_epoch):
                batch = to_device(reader.batch(step), device)
                with _named_rows(reader, step), _shared(reader, step):
                    check_batch(batch)
                    own, loss = count_rows(batch), accumulation.loss(objective, batch, step, autocast)
                    loss, n = merged(loss, objective.loss_weight(batch) or own, own)
                values = _values(loss)
                rows += n
                for name, value in values.items():
                    sums[name] = sums.get(name, 0.0) + n * value
    finally:
        objective.train(was_training)
    return {name: value / rows for name, value in sums.items()}


class _Told:
    """Tells ``log`` and ``progress`` of a training; a loss is read from its device only where it is logged."""

    def __init__(self, log: Log | None, progress: Progress | None, log_every: int, done: int) -> None:
        self._log, self._progress, self._log_every = log, progress, log_every
        self._note = ""
        if progress is not None and done:
            progress(done, self._note)

    def of_step(self, step: int, epoch: float, loss: Loss | None, rate: float, epoch_ends: bool) -> None:
        """Tell of a step that is done; one that was skipped has no loss."""
        if loss is not None and (step % self._log_every == 0 or epoch_ends or step == 1):
            values = _values(loss)
            self._note = f"loss {values['loss']:.4g}"
            if self._log is not None:
                self._log(step, epoch, "train", {**values, "lr": rate})
        if self._progress is not None:
            self._progress(1, self._note)

    def of_validation(self, step: int, epoch: float, means: dict[str, float]) -> None:
        """Tell of an epoch's validation."""
        if self._log is not None:
            self._log(step, epoch, "validation", means)


def _length(reader: BatchReader) -> int:
    """Return the steps of an epoch; ``UserError`` where there are none."""
    if reader.steps_per_epoch < 1:
        raise UserError("There is no row to train on.", "Check the split, the limit and the sites.")
    return reader.steps_per_epoch


def _with_rows(validation: BatchReader | None) -> BatchReader | None:
    """Return the reader of validation rows, None where it has none."""
    if validation is not None and validation.steps_per_epoch < 1:
        logger.warning("There is no validation row: the last weights count as the best.")
        return None
    return validation


@contextmanager
def _named_rows(reader: BatchReader, step: int) -> Iterator[None]:
    """Within the context, name rows at fault as the reader describes them."""
    try:
        yield
    except InvalidRows as error:
        names = reader.describe(step, error.mask.cpu().numpy())
        raise type(error)(error.what, error.stream, error.mask, list(names)) from error


def _begin(
    checkpoints: Checkpoints,
    objective: Objective,
    reader: BatchReader,
    resume: bool,
    total: int,
    on_resume: Callable[[int], None] | None,
) -> State:
    """Return the state to go on from: of the latest checkpoint, or of an objective that measured its first rows."""
    if not resume and checkpoints.numbered():
        raise UserError(
            f"{checkpoints.folder} already holds checkpoints.", "Resume from them, or name an empty folder."
        )
    state = checkpoints.restore() if resume else None
    done = 0 if state is None else state.step
    if resume and on_resume is not None and done < total:
        on_resume(done)
    if state is not None:
        return state
    initialize = getattr(objective, "initialize", None)
    if initialize is not None:
        rows = _first_rows(reader, next(objective.parameters()).device)
        with torch.no_grad():
            initialize(rows)
    return State()


def _first_rows(reader: BatchReader, device: torch.device) -> dict[str, Tensor]:
    batches: list[dict[str, Tensor]] = []
    rows = 0
    for step in range(reader.steps_per_epoch):
        batch = reader.batch(step)
        with _named_rows(reader, step):
            check_batch(batch)
        batches.append(tensors(batch))
        rows += count_rows(batch)
        if rows >= INITIAL_ROWS:
            break
    return {stream: torch.cat([batch[stream] for batch in batches]).to(device) for stream in batches[0]}


def _step(
    objective: Objective,
    reader: BatchReader,
    optimizer: torch.optim.Optimizer,
    step: int,
    clip: float | None,
    autocast: torch.dtype | None,
    accumulation: Accumulation,
) -> Loss:
    batch = to_device(reader.batch(step), next(objective.parameters()).device)
    with _named_rows(reader, step), _shared(reader, step):
        return train_step(objective, batch, optimizer, step, clip=clip, autocast=autocast, accumulation=accumulation)


@contextmanager
def _skipping(state: State, total: int) -> Iterator[None]:
    """Within the context, leave out a step whose values are not finite, where few of all steps are such."""
    try:
        yield
        state.skipped_running = 0
    except NotFinite as error:
        _skip(state, error, total)


def _skip(state: State, error: NotFinite, total: int) -> None:
    """Count a step that changed nothing; raise the error where too many are such, or too many running."""
    state.skipped += 1
    state.skipped_running += 1
    most = int(SKIPPED_SHARE * total)
    if state.skipped > most or state.skipped_running >= SKIPPED_RUNNING:
        raise NotFinite(
            f"{error.message} Of {total} steps at most {most} may be skipped for values that are not finite, and fewer "
            f"than {SKIPPED_RUNNING} running; this is the {state.skipped}. of all and the {state.skipped_running}. "
            "running.",
            error.mend,
        ) from error
    logger.warning("step %d is skipped, %d of at most %d: %s", state.step, state.skipped, most, error.message)


def _shared_out(objective: Objective, reader: Any, validation: Any) -> tuple[Any, Any]:
    """Bring all ranks to the first one's weights and return the readers of this rank's part of each batch.

    Raises ``UserError`` for a reader that has no parts.
    """
    if ranks.size() == 1:
        return reader, validation
    if not hasattr(reader, "divided"):
        raise UserError(f"{type(reader).__name__} cannot be read by several ranks.", "Use hardware.ranks=1.")
    ranks.broadcast([*objective.parameters(), *objective.buffers()])
    return reader.divided(), None if validation is None else validation.divided()


def _shared(reader: Any, step: int) -> AbstractContextManager[None]:
    return ranks.sharing(ranks.size() > 1 and reader.divides(step))


def _judge(state: State, epoch: int, means: dict[str, float], checkpoints: Checkpoints) -> None:
    """Write an epoch's validation into the state, and keep the weights where none were better."""
    loss = means["loss"]
    if loss != loss or loss == float("inf"):
        raise UserError(f"The validation loss after epoch {epoch} is {loss}.", "Lower the learning rate or set clip.")
    state.history.append({"epoch": epoch, "step": state.step, **means})
    if state.best_loss is None or loss < state.best_loss:
        state.best_epoch, state.best_loss, state.waited = epoch, loss, 0
        checkpoints.save_best(epoch)
    else:
        state.waited += 1


def _has_stopped(state: State, patience: int | None) -> bool:
    return patience is not None and state.waited >= patience


def _values(loss: Loss) -> dict[str, float]:
    return {"loss": loss.total.item(), **{name: value.item() for name, value in loss.parts.items()}}


def _check_numbers(**numbers: float | None) -> None:
    for name, value in numbers.items():
        if value is not None and not value > 0:
            raise UserError(f"{name} must be above 0; got {value}.")
