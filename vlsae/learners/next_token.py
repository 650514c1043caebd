"""objective=next_token: a causal language model from scratch, trained to predict each token from those before it.

Shapes: b texts, s positions, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from torch import Tensor

from vlsae.bounds import Range
from vlsae.errors import UserError
from vlsae.learners.bits_per_byte import bits_per_byte
from vlsae.learners.transformer import TransformerObjective, architecture_folder, initial_module
from vlsae.models.base import Batch
from vlsae.models.lm import BUNDLED
from vlsae.models.lm_loading import build_tokenizer, read_config
from vlsae.models.model_folder import ModelFolder
from vlsae.models.prompts import Prompts
from vlsae.models.token_losses import token_losses

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


class NextToken(TransformerObjective):
    """A causal language model of transformers under the cross-entropy of the next token.

    ``architecture`` is a folder with a ``config.json`` of transformers and a tokenizer, or ``bundled``; the named sizes
    change it, and ``context`` is the most tokens of one text. Weights start from scratch, or as in the folder
    ``initial``.
    """

    over_ranks: ClassVar[bool] = True

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
        files = architecture_folder(architecture, BUNDLED)
        sizes = {
            "model_width": model_width,
            "layers": layers,
            "heads": heads,
            "key_value_heads": key_value_heads,
            "mlp_width": mlp_width,
            "context": context,
        }
        self.tokenizer = self.reader = build_tokenizer(files, trust_remote_code=False)
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

    def token_losses(self, batch: Any) -> Tensor:
        """Return −ln p of each token ``(b, s)``, NaN where nothing is predicted."""
        # Texts are padded on the right, which a causal model never reads; without a mask its attention is faster.
        scores = self.module(input_ids=batch.language, use_cache=False).logits
        return token_losses(scores, batch.language, batch.mask)

    def loss_weight(self, batch: Any) -> float | None:
        """Return the number of tokens that are predicted."""
        return float(batch.mask[:, 1:].sum())

    def held_out(self, reader: SampleReader) -> dict[str, Measure]:
        """Return bits per byte on held-out texts."""
        return {"bits_per_byte": bits_per_byte(self, reader)}


def _module(files: ModelFolder, sizes: Mapping[str, int | None], initial: str | None) -> Any:
    """Return the model with random weights, or those of a folder."""
    from transformers import AutoModelForCausalLM

    if initial is not None:
        changed = [name for name, value in sizes.items() if value is not None]
        if changed:
            raise UserError(
                f"objective.initial={initial} has its own sizes, and objective.{changed[0]} is set.", "Leave one out."
            )
        return initial_module(initial, BUNDLED)
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
