"""objective=next_token: a causal language model from scratch, trained to predict each token from those before it.

Shapes: b texts, s positions, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from torch import Tensor

from vlsae.bounds import Range
from vlsae.errors import UserError
from vlsae.learners.bits_per_byte import bits_per_byte
from vlsae.models.base import Batch
from vlsae.models.lm import BUNDLED
from vlsae.models.lm_loading import build_tokenizer, quiet, read_config
from vlsae.models.model_folder import CONFIG_NAME, ModelFolder, read_json, resolve_folder
from vlsae.models.prompts import Prompts
from vlsae.models.token_losses import token_losses
from vlsae.training.objective import Loss, Objective

if TYPE_CHECKING:
    from vlsae.runs import Measure
    from vlsae.training.samples import SampleReader

#: What transformers calls each named size.
_NAMES = {
    "model_width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "key_value_heads": "num_key_value_heads",
    "mlp_width": "intermediate_size",
    "context": "max_position_embeddings",
}

Size = Annotated[int, Range(1, None)] | None


class NextToken(Objective):
    """A causal language model of transformers under the cross-entropy of the next token.

    ``architecture`` is a folder with a ``config.json`` of transformers and a tokenizer, or ``bundled``; the named sizes
    change it, and ``context`` is the most tokens of one text. Weights start from scratch, or as in the folder
    ``initial``.
    """

    source = "samples"
    loss_unit = "nats"
    over_ranks: ClassVar[bool] = True
    module: Any

    def __init__(
        self,
        *,
        architecture: str = "bundled",
        initial: str | None = None,
        model_width: Size = None,
        layers: Size = None,
        heads: Size = None,
        key_value_heads: Size = None,
        mlp_width: Size = None,
        context: Size = None,
        weight_decay: Annotated[float, Range(0, None)] = 0.1,
        beta2: Annotated[float, Range(0, 1)] = 0.95,
    ) -> None:
        super().__init__()
        files = _architecture(architecture)
        sizes = {
            "model_width": model_width,
            "layers": layers,
            "heads": heads,
            "key_value_heads": key_value_heads,
            "mlp_width": mlp_width,
            "context": context,
        }
        self.tokenizer = build_tokenizer(files, trust_remote_code=False)
        self.module = _module(files, sizes, initial)
        self._prompts = Prompts(
            self.tokenizer, chat=False, answers=False, limit=self.module.config.max_position_embeddings
        )
        self.weight_decay, self.beta2 = weight_decay, beta2

    def prepare(self, images: Any = None, texts: Sequence[str] | None = None) -> Batch:
        """Tokenize texts as the trained model will; images are not looked at."""
        if not texts:
            raise UserError("objective=next_token learns from texts, and these samples have none.")
        return self._prompts(texts)[0]

    def loss(self, batch: Any, step: int = 0) -> Loss:
        """Return the mean over all predicted tokens of −ln p, for token ids ``(b, s)``."""
        return Loss(self.token_losses(batch).nanmean(), {})

    def token_losses(self, batch: Any) -> Tensor:
        """Return −ln p of each token ``(b, s)``, NaN where nothing is predicted."""
        # Texts are padded on the right, which a causal model never reads; without a mask its attention is faster.
        scores = self.module(input_ids=batch.language, use_cache=False).logits
        return token_losses(scores, batch.language, batch.mask)

    def loss_weight(self, batch: Any) -> float | None:
        """Return the number of tokens that are predicted."""
        return float(batch.mask[:, 1:].sum())

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return matrices with decay; gains, biases and embeddings without."""
        embeddings = {id(parameter) for parameter in self.module.get_input_embeddings().parameters()}
        trained = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        decayed = [one for one in trained if one.ndim > 1 and id(one) not in embeddings]
        free = [one for one in trained if one.ndim <= 1 or id(one) in embeddings]
        return [{"params": decayed, "weight_decay": self.weight_decay}, {"params": free, "weight_decay": 0.0}]

    def optimizer(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        """Return AdamW."""
        return torch.optim.AdamW(groups, lr=lr, betas=(0.9, self.beta2))

    def held_out(self, reader: SampleReader) -> dict[str, Measure]:
        """Return bits per byte on held-out texts."""
        return {"bits_per_byte": bits_per_byte(self, reader)}

    def product(self) -> NextToken:
        """Return the trained model, which ``save_pretrained`` writes in transformers' format."""
        return self

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model for ``model=lm model.checkpoint=path:FOLDER``: configuration, weights, tokenizer."""
        with quiet():
            self.module.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def _architecture(name: str) -> ModelFolder:
    """Return a folder of a configuration and a tokenizer, which needs no weights."""
    folder = BUNDLED if name == "bundled" else Path(name.removeprefix("path:")).expanduser()
    if not (folder / CONFIG_NAME).is_file():
        return resolve_folder(name, BUNDLED)
    return ModelFolder(name, folder, read_json(folder / CONFIG_NAME), ())


def _module(files: ModelFolder, sizes: Mapping[str, int | None], initial: str | None) -> Any:
    """Return the model with random weights, or those of a folder."""
    from transformers import AutoModelForCausalLM

    from vlsae.models.lm_loading import build_module

    if initial is not None:
        changed = [name for name, value in sizes.items() if value is not None]
        if changed:
            raise UserError(
                f"objective.initial={initial} has its own sizes, and objective.{changed[0]} is set.", "Leave one out."
            )
        return build_module(
            resolve_folder(initial, BUNDLED),
            device="cpu",
            dtype="float32",
            quantisation="none",
            adapter=None,
            trust_remote_code=False,
        ).train()
    config = read_config(files, trust_remote_code=False)
    for name, value in sizes.items():
        if value is not None:
            setattr(config, _NAMES[name], value)
    heads, own = config.num_attention_heads, sizes["model_width"] is not None or sizes["heads"] is not None
    # Rotary positions turn the dimensions of a head in pairs.
    if own and config.hidden_size % (2 * heads):
        raise UserError(f"objective.model_width={config.hidden_size} must be a multiple of twice the {heads} heads.")
    if own:
        config.head_dim = config.hidden_size // heads
    config.dtype = "float32"
    return AutoModelForCausalLM.from_config(config)
