"""objective=visual_instruction: a language model that learns to answer about what a frozen vision tower sees.

Shapes: n sequences, s positions, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import Tensor

from vlsae.bounds import Range
from vlsae.errors import UserError
from vlsae.models.base import Batch
from vlsae.models.checkpoints import resolve
from vlsae.models.clip import BUNDLED as CLIP_FOLDER
from vlsae.models.lm_loading import build_module, build_processor, quiet, read_config
from vlsae.models.model_folder import CONFIG_NAME, IMAGE_TEXT, ModelFolder, read_json, resolve_folder
from vlsae.models.prompts import ANSWER
from vlsae.models.token_losses import token_losses
from vlsae.models.vlm import BUNDLED, VLM
from vlsae.training.objective import Loss, Objective

if TYPE_CHECKING:
    from vlsae.runs import Measure
    from vlsae.training.samples import SampleReader


class VisualInstruction(Objective):
    """A LLaVA under the cross-entropy of the answers alone (visual instruction tuning, arXiv 2304.08485).

    ``architecture`` is a folder with a ``config.json`` of transformers and a processor, or ``bundled``. Weights start
    from scratch, or as in the folder ``initial``; the vision tower's are those of the CLIP ``tower`` (``bundled`` or a
    folder of open_clip's), where one is named, as many blocks as the architecture has. ``train_tower`` lets it learn.
    A sample without an answer is a picture with its caption: ``prompt`` is asked, and the caption is the answer.
    """

    source = "samples"
    loss_unit = "nats"
    reads_answers = True
    module: Any

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
        files = _architecture(architecture)
        self.module = _module(files, initial)
        if tower is not None:
            _fill_tower(self.module, tower)
        self.module.get_submodule(_tower_path(self.module)).requires_grad_(train_tower)
        self.processor = build_processor(files, trust_remote_code=False)
        reader = VLM(checkpoint=str(files.folder), input="prompt_and_answer")
        reader.files, reader.processor = files, self.processor
        self._reader = reader
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
        return self._reader.prepare(images, prompts, answers=wanted)

    def loss(self, batch: Any, step: int = 0) -> Loss:
        """Return the mean of −ln p over the tokens of all answers and their ends."""
        return Loss(self.token_losses(batch).nanmean(), {})

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

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return matrices with decay; gains, biases and embeddings without; a frozen tower not at all."""
        embeddings = {id(parameter) for parameter in self.module.get_input_embeddings().parameters()}
        trained = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        decayed = [one for one in trained if one.ndim > 1 and id(one) not in embeddings]
        free = [one for one in trained if one.ndim <= 1 or id(one) in embeddings]
        return [{"params": decayed, "weight_decay": self.weight_decay}, {"params": free, "weight_decay": 0.0}]

    def optimizer(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        """Return AdamW."""
        return torch.optim.AdamW(groups, lr=lr, betas=(0.9, self.beta2))

    def held_out(self, reader: SampleReader) -> dict[str, Measure]:
        """Return how many held-out answers come out right, word for word."""
        from vlsae.learners.right_answers import right_answers

        return right_answers(self, reader)

    def product(self) -> VisualInstruction:
        """Return the trained model, which ``save_pretrained`` writes in transformers' format."""
        return self

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model for ``model=vlm model.checkpoint=path:FOLDER``: configuration, weights, processor."""
        with quiet():
            self.module.save_pretrained(folder)
        self.processor.save_pretrained(folder)


def _architecture(name: str) -> ModelFolder:
    """Return a folder of a configuration and a processor, which needs no weights."""
    folder = BUNDLED if name == "bundled" else Path(name.removeprefix("path:")).expanduser()
    if not (folder / CONFIG_NAME).is_file():
        return resolve_folder(name, BUNDLED)
    return ModelFolder(name, folder, read_json(folder / CONFIG_NAME), ())


def _module(files: ModelFolder, initial: str | None) -> Any:
    """Return the model with random weights, or those of a folder."""
    from transformers import AutoModelForImageTextToText

    if initial is not None:
        return build_module(
            resolve_folder(initial, BUNDLED),
            device="cpu",
            dtype="float32",
            quantisation="none",
            adapter=None,
            trust_remote_code=False,
            auto=IMAGE_TEXT,
        ).train()
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
