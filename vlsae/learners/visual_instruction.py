"""objective=visual_instruction: a language model that learns to answer about what a frozen vision tower sees.

Shapes: n sequences, s positions, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import Tensor

from vlsae.bounds import Range
from vlsae.errors import UserError
from vlsae.learners.transformer import TransformerObjective, architecture_folder, initial_module
from vlsae.models.base import Batch
from vlsae.models.checkpoints import resolve
from vlsae.models.clip import BUNDLED as CLIP_FOLDER
from vlsae.models.lm_loading import build_processor, read_config
from vlsae.models.model_folder import IMAGE_TEXT, ModelFolder
from vlsae.models.prompts import ANSWER
from vlsae.models.token_losses import token_losses
from vlsae.models.vlm import BUNDLED, VLM

if TYPE_CHECKING:
    from vlsae.runs import Measure
    from vlsae.training.samples import SampleReader


class VisualInstruction(TransformerObjective):
    """A LLaVA under the cross-entropy of the answers alone (visual instruction tuning, arXiv 2304.08485).

    ``architecture`` is a folder with a ``config.json`` of transformers and a processor, or ``bundled``. Weights start
    from scratch, or as in the folder ``initial``; the vision tower's are those of the CLIP ``tower`` (``bundled`` or a
    folder of open_clip's), where one is named, as many blocks as the architecture has. ``train_tower`` lets it learn.
    A sample without an answer is a picture with its caption: ``prompt`` is asked, and the caption is the answer.
    """

    reads_answers = True

    def __init__(
        self,
        *,
        architecture: str = "bundled",
        initial: str | None = None,
        tower: str | None = None,
        train_tower: bool = False,
        prompt: str = "please describe this image in detail .",
        weight_decay: Annotated[float, Range(0, None)] = 0.1,
        beta2: Annotated[float, Range(0, 1)] = 0.95,
    ) -> None:
        super().__init__()
        files = architecture_folder(architecture, BUNDLED)
        self.module = _module(files, initial)
        if tower is not None:
            _fill_tower(self.module, tower)
        self.module.get_submodule(_tower_path(self.module)).requires_grad_(train_tower)
        self.processor = self.reader = build_processor(files, trust_remote_code=False)
        self._model = VLM(checkpoint=str(files.folder), input="prompt_and_answer")
        self._model.files, self._model.processor = files, self.processor
        self.prompt, self.weight_decay, self.beta2 = prompt, weight_decay, beta2

    def prepare(
        self, images: Any = None, texts: Sequence[str] | None = None, answers: Sequence[str | None] | None = None
    ) -> Batch:
        """Return the joint sequences of images, prompts and answers; a text without an answer is one itself."""
        if images is None or not texts:
            raise UserError("objective=visual_instruction learns from images with texts, and these samples lack one.")
        given = answers or [None] * len(texts)
        prompts = [self.prompt if answer is None else text for text, answer in zip(texts, given)]
        wanted = [text if answer is None else answer for text, answer in zip(texts, given)]
        return self._model.prepare(images, prompts, answers=wanted)

    def token_losses(self, batch: Any) -> Tensor:
        """Return −ln p ``(n, s)`` of an answer's tokens and of its end, NaN at all others."""
        return token_losses(self.scores(batch), batch.language, self.answered(batch))

    def scores(self, batch: Any) -> Tensor:
        """Return the scores of every next token ``(n, s, v)``."""
        return self.module(**batch.inputs, use_cache=False).logits

    def answered(self, batch: Any) -> Tensor:
        """Return which tokens ``(n, s)`` the model learns to say: an answer's, and the end of text behind it."""
        own = batch.role == ANSWER
        behind = torch.zeros_like(own)
        behind[:, 1:] = own[:, :-1]
        return own | (behind & batch.mask & (batch.language == self.processor.tokenizer.eos_token_id))

    def held_out(self, reader: SampleReader) -> dict[str, Measure]:
        """Return how many held-out answers come out right, word for word."""
        from vlsae.learners.right_answers import right_answers

        return right_answers(self, reader)


def _module(files: ModelFolder, initial: str | None) -> Any:
    """Return the model with random weights, or those of a folder."""
    from transformers import AutoModelForImageTextToText

    if initial is not None:
        return initial_module(initial, BUNDLED, auto=IMAGE_TEXT)
    config = read_config(files, trust_remote_code=False)
    config.dtype = "float32"
    return AutoModelForImageTextToText.from_config(config)


def _tower_path(module: Any) -> str:
    """Return the path of a model's vision tower."""
    names = ("vision_tower", "vision_model", "visual")
    paths = [name for name, _ in module.named_modules() if name.split(".")[-1] in names]
    if not paths:
        raise UserError(f"{type(module).__name__} has no vision tower.", "Use an architecture such as LLaVA's.")
    return min(paths, key=lambda path: path.count("."))


def _fill_tower(module: Any, tower: str) -> None:
    """Put the weights of a CLIP of open_clip into a model's vision tower.

    Raises:
        UserError: the architecture has another tower, with the first setting that differs.
    """
    from safetensors.torch import load_file

    from vlsae.models.open_clip_tower import vision_settings, vision_weights

    clip, config = resolve(tower, None, CLIP_FOLDER), module.config.vision_config
    layers = int(config.num_hidden_layers)
    for name, value in vision_settings(clip.config, layers).items():
        if getattr(config, name, value) != value:
            raise UserError(
                f"objective.tower={tower} has {name} {value}, and the architecture {getattr(config, name)}.",
                "Write the CLIP's own into vision_config of the architecture's config.json.",
            )
    inner = module.get_submodule(_tower_path(module))
    inner = getattr(inner, "vision_model", inner)
    weights = {name: value.float() for name, value in load_file(clip.weights).items()}
    inner.load_state_dict(vision_weights(weights, layers))
