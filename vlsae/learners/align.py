"""objective=align: two towers from scratch, trained to agree on pairs of image and text (arXiv 2102.05918)."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from vlsae.bounds import OneOf, Range
from vlsae.errors import UserError
from vlsae.learners.architecture import Architecture, architecture_of
from vlsae.learners.contrast import PARAMETRISATIONS, REDUCTIONS, Temperature, align_loss, duplicate_rows
from vlsae.models.base import Batch
from vlsae.training.objective import Loss, Objective
from vlsae.training.parts import gathered

if TYPE_CHECKING:
    from vlsae.runs import Measure
    from vlsae.training.samples import SampleReader


class Align(Objective):
    """A CLIP of open_clip under ALIGN's loss: smoothed softmax in both directions with a learned temperature.

    ``architecture`` is a folder in open_clip's format, ``bundled``, or a name that open_clip knows; the named sizes
    change it. Weights start from scratch and the temperature at 1, or both as in the folder ``initial`` (T within its
    bounds). The temperature has a learning rate of its own (``temperature_lr_scale``) and no decay.
    ``mask_duplicates`` takes equal captions of a batch out of each other's negatives. ``every_text`` pairs an image
    with all of its captions: the first of each image against one another, the second, …, and the mean of their losses;
    an image is then encoded once for all. ``optimizer_name`` is ``adamw``, or ``lamb`` for batches of many thousands as
    in the paper.
    """

    source = "samples"
    loss_unit = "nats"
    over_ranks: ClassVar[bool] = True
    towers: Any

    def __init__(
        self,
        *,
        architecture: str = "bundled",
        initial: str | None = None,
        embed_dim: Annotated[int, Range(1, None)] | None = None,
        vision_width: Annotated[int, Range(1, None)] | None = None,
        vision_layers: Annotated[int, Range(1, None)] | None = None,
        patch_size: Annotated[int, Range(1, None)] | None = None,
        text_width: Annotated[int, Range(1, None)] | None = None,
        text_layers: Annotated[int, Range(1, None)] | None = None,
        temperature: Annotated[float, Range(0, None)] | None = None,
        parametrisation: Annotated[str, OneOf(*PARAMETRISATIONS)] = "log",
        temperature_min: Annotated[float, Range(0, None)] = 0.01,
        temperature_max: Annotated[float, Range(0, None)] = 10.0,
        temperature_lr_scale: Annotated[float, Range(0, None)] = 10.0,
        label_smoothing: Annotated[float, Range(0, 1)] = 0.1,
        reduce: Annotated[str, OneOf(*REDUCTIONS)] = "mean",
        mask_duplicates: bool = True,
        every_text: bool = False,
        optimizer_name: Annotated[str, OneOf("adamw", "lamb")] = "adamw",
        weight_decay: Annotated[float, Range(0, None)] = 0.05,
        beta2: Annotated[float, Range(0, 1)] = 0.98,
    ) -> None:
        super().__init__()
        changes = {
            "embed_dim": embed_dim,
            "vision_width": vision_width,
            "vision_layers": vision_layers,
            "patch_size": patch_size,
            "text_width": text_width,
            "text_layers": text_layers,
        }
        self.architecture: Architecture = architecture_of(architecture, changes)
        self.towers = self.architecture.towers()
        if initial is not None:
            self.architecture.load(self.towers, Path(initial))
        # The loss reads its own temperature; the towers' scale is written when they are saved.
        self.towers.logit_scale.requires_grad_(False)
        if temperature is None:
            held = 1.0 if initial is None else math.exp(-float(self.towers.logit_scale))
            temperature = min(max(held, temperature_min), temperature_max)
        self.temperature = Temperature(temperature, parametrisation, temperature_min, temperature_max)
        self.temperature_lr_scale = temperature_lr_scale
        self.label_smoothing, self.reduce, self.mask_duplicates = label_smoothing, reduce, mask_duplicates
        self.every_text = every_text
        self.optimizer_name, self.weight_decay, self.beta2 = optimizer_name, weight_decay, beta2

    def prepare(self, images: Any = None, texts: Sequence[str] | None = None) -> Batch:
        """Preprocess images and tokenize texts as the trained model will."""
        pixels = None if images is None else self._pixels(images)
        return Batch(pixels, None if texts is None else self._tokenizer(list(texts)))

    @cached_property
    def _pixels(self) -> Any:
        return self.architecture.pixels()

    @cached_property
    def _tokenizer(self) -> Any:
        return self.architecture.tokenizer()

    def loss(self, batch: Batch | Mapping[str, Tensor], step: int = 0) -> Loss:
        """Return the loss of a batch of n pixels ``(n, 3, height, width)`` and their token rows.

        These are ``(n, length)``, or ``(n, texts, length)`` with several texts an image.
        """
        vision, language = _streams(batch)
        image = self.towers.encode_image(vision)
        temperature = self.temperature()
        columns = language[:, None] if language.ndim == 2 else language
        # Texts of one factor repeat within a batch: each is encoded once.
        ids, place = torch.unique(columns.flatten(0, 1), dim=0, return_inverse=True)
        texts, places = encode_text(self.towers, ids), place.reshape(columns.shape[:2])
        each = zip(places.T, columns.unbind(1))
        losses = [self._column_loss(image, texts[own], rows, temperature) for own, rows in each]
        return Loss(torch.stack(losses).mean(), {"temperature": temperature.detach()})

    def _column_loss(self, image: Tensor, text: Tensor, ids: Tensor, temperature: Tensor) -> Tensor:
        duplicates = duplicate_rows(gathered(ids)) if self.mask_duplicates else None
        return align_loss(
            gathered(image),
            gathered(text),
            temperature,
            label_smoothing=self.label_smoothing,
            reduce=self.reduce,
            duplicates=duplicates,
        )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return matrices with decay; gains, biases, positions and embeddings without; the temperature by itself."""
        decayed: list[Tensor] = []
        free: list[Tensor] = []
        for name, parameter in self.towers.named_parameters():
            if parameter.requires_grad:
                whole = parameter.ndim < 2 or name.endswith(("embedding.weight", "embedding"))
                (free if whole else decayed).append(parameter)
        return [
            {"params": decayed, "weight_decay": self.weight_decay},
            {"params": free, "weight_decay": 0.0},
            {"params": [self.temperature.parameter], "weight_decay": 0.0, "lr_scale": self.temperature_lr_scale},
        ]

    def optimizer(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        """Return AdamW, or LAMB as in the paper."""
        if self.optimizer_name == "lamb":
            from timm.optim import Lamb

            return Lamb(groups, lr=lr)
        return torch.optim.AdamW(groups, lr=lr, betas=(0.9, self.beta2))

    def after_step(self, step: int) -> None:
        """Keep the temperature between its bounds."""
        self.temperature.clamp()

    def held_out(self, reader: SampleReader) -> dict[str, Measure]:
        """Return retrieval both ways among held-out pairs."""
        from vlsae.learners.retrieval import retrieval

        return retrieval(self, reader)

    def product(self) -> Align:
        """Return the trained towers, which ``save_pretrained`` writes in open_clip's format."""
        return self

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write the towers for ``model.checkpoint=path:FOLDER``: configuration, weights, tokenizer."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with torch.no_grad():
            self.towers.logit_scale.fill_(-math.log(self.temperature().item()))
        weights = {name: value.to(dtype).contiguous() for name, value in self.towers.state_dict().items()}
        save_file(weights, folder / "model.safetensors")
        facts = {"model_cfg": self.architecture.config, "preprocess_cfg": self.architecture.preprocess}
        (folder / "open_clip_config.json").write_text(json.dumps(facts, indent=2) + "\n")
        for path in self.architecture.tokenizer_files:
            if path.parent.resolve() != folder.resolve():
                shutil.copyfile(path, folder / path.name)


def encode_text(towers: Any, ids: Tensor) -> Tensor:
    """Return the towers' text embeddings ``(n, d)`` of token rows ``(n, length)``, without their common padding.

    A causal tower that pools at the end token never looks behind it, so columns that are padding in every row can be
    left out; the embeddings are the same and cost less. Other towers read the whole rows.
    """
    pool = getattr(towers, "text_pool_type", None)
    if pool not in ("argmax", "eos") or getattr(towers, "attn_mask", None) is None:
        return towers.encode_text(ids)
    ends = ids.argmax(-1) if pool == "argmax" else (ids == towers.text_eos_id).int().argmax(-1)
    length = int(ends.max()) + 1
    cast = towers.transformer.get_cast_dtype()
    x = towers.token_embedding(ids[:, :length]).to(cast) + towers.positional_embedding[:length].to(cast)
    x = towers.transformer(x, attn_mask=towers.attn_mask[:length, :length])
    x = towers.ln_final(x)[torch.arange(len(ids), device=ids.device), ends]
    projection = towers.text_projection
    if projection is None:
        return x
    return projection(x) if isinstance(projection, nn.Linear) else x @ projection


def _streams(batch: Batch | Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    vision, language = (
        (batch.get("vision"), batch.get("language")) if isinstance(batch, Mapping) else (batch.vision, batch.language)
    )
    if vision is None or language is None:
        raise UserError("objective=align learns from pairs, and the batch lacks a stream.", "Use a dataset with both.")
    if len(vision) != len(language):
        raise UserError(f"objective=align needs one text an image; got {len(vision)} images, {len(language)} texts.")
    return vision, language
