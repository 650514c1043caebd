"""What objectives that train a model of transformers share: where it starts, how it is optimised, how it is kept."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlsae.models.lm_loading import build_module, quiet
from vlsae.models.model_folder import CONFIG_NAME, ModelFolder, read_json, resolve_folder
from vlsae.training.objective import Loss, Objective


class TransformerObjective(Objective):
    """A model of transformers under the cross-entropy of tokens; shapes: n sequences, s positions.

    ``reader`` is its tokenizer or processor, which is kept beside the weights.
    """

    source = "samples"
    loss_unit = "nats"
    module: Any
    reader: Any
    weight_decay: float
    beta2: float

    @abstractmethod
    def token_losses(self, batch: Any) -> Tensor:
        """Return −ln p of each token ``(n, s)``, NaN where nothing is predicted."""

    def loss(self, batch: Any, step: int = 0) -> Loss:
        """Return the mean over all predicted tokens of −ln p."""
        return Loss(self.token_losses(batch).nanmean(), {})

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return matrices with decay; gains, biases and embeddings without; frozen ones not at all."""
        embeddings = {id(parameter) for parameter in self.module.get_input_embeddings().parameters()}
        trained = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        decayed = [one for one in trained if one.ndim > 1 and id(one) not in embeddings]
        free = [one for one in trained if one.ndim <= 1 or id(one) in embeddings]
        return [{"params": decayed, "weight_decay": self.weight_decay}, {"params": free, "weight_decay": 0.0}]

    def optimizer(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        """Return AdamW."""
        return torch.optim.AdamW(groups, lr=lr, betas=(0.9, self.beta2))

    def product(self) -> TransformerObjective:
        """Return the trained model, which ``save_pretrained`` writes in transformers' format."""
        return self

    def save_pretrained(self, folder: str | Path) -> None:
        """Write what ``model.checkpoint=path:FOLDER`` loads: configuration, weights, tokenizer or processor."""
        with quiet():
            self.module.save_pretrained(folder)
        self.reader.save_pretrained(folder)


def architecture_folder(name: str, bundled: Path) -> ModelFolder:
    """Return a folder of a configuration and a tokenizer or processor, which needs no weights."""
    folder = bundled if name == "bundled" else Path(name.removeprefix("path:")).expanduser()
    if not (folder / CONFIG_NAME).is_file():
        return resolve_folder(name, bundled)
    return ModelFolder(name, folder, read_json(folder / CONFIG_NAME), ())


def initial_module(initial: str, bundled: Path, **settings: Any) -> Any:
    """Return the model with the weights of a folder, to be trained on."""
    return build_module(
        resolve_folder(initial, bundled),
        device="cpu",
        dtype="float32",
        quantisation="none",
        adapter=None,
        trust_remote_code=False,
        **settings,
    ).train()
