"""Checkpoints from which a training goes on to the same numbers as one that was never stopped.

A checkpoint is one safetensors file with parameters, buffers, optimiser and random state, and a header with kind,
schema, digest, step and validation history. The last two are kept, and the best beside them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlsae import ranks
from vlsae.errors import UserError
from vlsae.training import weight_files
from vlsae.training.objective import Objective

logger = logging.getLogger(__name__)

SCHEMA = 1
KEPT = 2
BEST = "best.safetensors"


@dataclass
class State:
    """How far a training is: steps done, validation values of each epoch, the best, and epochs without a better one.

    ``skipped`` steps had a batch that was not finite, the last ``skipped_running`` of them without one between.
    """

    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int | None = None
    best_loss: float | None = None
    waited: int = 0
    skipped: int = 0
    skipped_running: int = 0


class Checkpoints:
    """The checkpoints of one training in a folder; without a folder only the best weights are kept, in memory.

    Of several ranks the first alone writes; all of them read, and any number of ranks goes on from any checkpoint.
    """

    def __init__(self, folder: Path | None, objective: Objective, optimizer: torch.optim.Optimizer) -> None:
        self.folder = folder
        self._objective, self._optimizer = objective, optimizer
        self._best: dict[str, Tensor] = {}

    def numbered(self) -> list[Path]:
        """Return the files of steps, latest first."""
        if self.folder is None or not self.folder.is_dir():
            return []
        files = [path for path in self.folder.iterdir() if re.fullmatch(r"step-\d+\.safetensors", path.name)]
        return sorted(files, key=lambda path: int(path.stem.removeprefix("step-")), reverse=True)

    def save(self, state: State) -> None:
        """Write the checkpoint of a step and remove those no longer kept.

        Raises ``UserError``, the earlier ones left, where a parameter is not finite.
        """
        broken = [name for name, value in self._objective.named_parameters() if not torch.isfinite(value).all()]
        if broken:
            raise UserError(
                f"After step {state.step} the parameter {broken[0]} is not finite; no checkpoint is written over those "
                "before it.",
                "Lower the learning rate or set clip.",
            )
        if self.folder is None or not ranks.is_first():
            return
        optimizer_tensors, optimizer_values = _optimizer_state(self._optimizer)
        tensors = {**self._weights(), **optimizer_tensors, **_random_state(self._device)}
        header = {**self._header(), "state": asdict(state), "optimizer": optimizer_values}
        weight_files.write(self.folder / f"step-{state.step:08d}.safetensors", tensors, header)
        for path in self.numbered()[KEPT:]:
            path.unlink()

    def save_best(self, epoch: int) -> None:
        """Keep the present weights as the best."""
        if self.folder is None:
            self._best = {name: tensor.clone() for name, tensor in self._weights().items()}
        elif ranks.is_first():
            weight_files.write(self.folder / BEST, self._weights(), {**self._header(), "epoch": epoch})

    def load_best(self) -> None:
        """Put the best weights into the objective, once rank 0 has written them."""
        ranks.barrier()
        if self.folder is None:
            tensors = self._best
        else:
            try:
                tensors, header, _ = weight_files.read(self.folder / BEST)
            except (weight_files.DamagedFile, FileNotFoundError) as error:
                raise UserError(f"The best weights cannot be read: {error}", "Train anew.") from error
            self._check(self.folder / BEST, header)
        self._put_weights(tensors, BEST)

    def restore(self) -> State | None:
        """Put the latest whole checkpoint into objective, optimiser and random state; None where there is none.

        A damaged file is named in the log and the one before it is used. Raises ``ValueError`` where all are damaged
        or a checkpoint belongs to another objective.
        """
        # Rank 0 removes what is damaged; the others read what is left.
        state = self._restored() if ranks.is_first() else None
        ranks.barrier()
        return state if ranks.is_first() else self._restored()

    def _restored(self) -> State | None:
        damaged: list[Path] = []
        for path in self.numbered():
            try:
                tensors, header, _ = weight_files.read(path)
            except weight_files.DamagedFile as error:
                logger.warning("%s; going on from the checkpoint before it", error)
                damaged.append(path)
                continue
            state = self._put(path, tensors, header)
            for useless in damaged:
                useless.unlink()
            return state
        if damaged:
            names = ", ".join(path.name for path in damaged)
            raise UserError(f"Every checkpoint in {self.folder} is damaged: {names}.", "Train anew.")
        return None

    @property
    def _device(self) -> torch.device:
        return next(self._objective.parameters()).device

    def _header(self) -> dict[str, Any]:
        kind = getattr(self._objective, "kind", "") or type(self._objective).__name__
        return {"kind": kind, "schema": SCHEMA}

    def _check(self, path: Path, header: Mapping[str, Any]) -> None:
        for name, expected in self._header().items():
            if header.get(name) != expected:
                raise UserError(f"{path} has {name} {header.get(name)!r}; {expected!r} was expected.")

    def _weights(self) -> dict[str, Tensor]:
        parameters = {f"parameter/{name}": value.detach() for name, value in self._objective.named_parameters()}
        return parameters | {f"buffer/{name}": value.detach() for name, value in self._objective.named_buffers()}

    def _put_weights(self, tensors: Mapping[str, Tensor], name: str) -> None:
        own = self._weights()
        given = {key: value for key, value in tensors.items() if key.startswith(("parameter/", "buffer/"))}
        if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in given.items()}:
            raise UserError(f"{name} holds other parameters than {type(self._objective).__name__} has.")
        with torch.no_grad():
            for key, value in given.items():
                own[key].copy_(value)

    def _put(self, path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> State:
        self._check(path, header)
        self._put_weights(tensors, path.name)
        values: dict[int, dict[str, Any]] = {int(n): dict(v) for n, v in header["optimizer"].items()}
        parameters = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        for key, tensor in tensors.items():
            if key.startswith("optimizer/"):
                _, number, name = key.split("/", 2)
                values.setdefault(int(number), {})[name] = _laid_out(tensor, parameters[int(number)])
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": values, "param_groups": groups})
        torch.set_rng_state(tensors["random/cpu"])
        if "random/cuda" in tensors and self._device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random/cuda"], self._device)
        return State(**header["state"])


def _optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    tensors: dict[str, Tensor] = {}
    values: dict[str, dict[str, Any]] = {}
    for number, entries in optimizer.state_dict()["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{number}/{name}"] = value
            else:
                values.setdefault(str(number), {})[name] = value
    return tensors, values


def _laid_out(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return an optimiser's tensor in its parameter's memory layout, which fused optimisers take for granted."""
    return torch.empty_like(parameter).copy_(tensor) if tensor.shape == parameter.shape else tensor


def _random_state(device: torch.device) -> dict[str, Tensor]:
    states = {"random/cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["random/cuda"] = torch.cuda.get_rng_state(device)
    return states
