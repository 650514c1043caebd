"""Answering prompts about pictures by any way of decoding, each prompt as if it were alone.

b prompts, d width.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vlsae.enhancement.decoding import Rule, decode, number_of, uniforms_of
from vlsae.enhancement.hallucination import text_shift
from vlsae.enhancement.noisy_pass import NoisyPass
from vlsae.enhancement.shifted_pass import Shift, second_pass
from vlsae.errors import UserError

if TYPE_CHECKING:
    from vlsae.datasets.base import Dataset
    from vlsae.enhancement.decodings import Decoding
    from vlsae.models.vlm import VLM, Prompted

#: The paper's layer, as a share of the depth: the input of block 30 of 32.
DEPTH = 30 / 32


@dataclass(frozen=True)
class Prompt:
    """A text on the picture of a row of the data; ``id`` names it wherever it is answered."""

    id: str
    row: int
    text: str


@dataclass(frozen=True)
class Mixing:
    """The numbers of the decodings, as the paper names them.

    ``alpha``: weight of the shift; ``beta``: of the image's concepts, by ``mix``; ``alpha_cd``, ``beta_cd``: weight of
    the shifted pass and share of the best token's probability below which tokens are left out; ``alpha_vcd``,
    ``beta_vcd``: VCD's; ``noise_step``: how noisy its picture is.
    """

    alpha: float = 0.8
    beta: float = 0.9
    mix: str = "convex"
    alpha_cd: float = 0.6
    beta_cd: float = 0.8
    alpha_vcd: float = 1.0
    beta_vcd: float = 0.1
    noise_step: int = 500


@dataclass
class Spent:
    """Seconds and answers of a way of decoding, in this process.

    ``chosen``: tokens with those that end an answer; ``open``: those of which the mask left more than one.
    """

    seconds: float = 0.0
    answers: int = 0
    tokens: int = 0
    chosen: int = 0
    open: int = 0


@dataclass
class Answerer:
    """A vision-language model that answers, with the dictionary and auxiliary autoencoder that shift its text tokens.

    ``layer``: the block at whose input they are shifted, counted from 0; the number of blocks means the last one's
    output. ``cache``: ``exact``, ``off`` or ``frozen_delta`` (:func:`vlsae.enhancement.shifted_pass.second_pass`).
    """

    model: VLM
    data: Dataset
    dictionary: Any = None
    auxiliary: Any = None
    layer: int = 0
    cache: str = "exact"
    spent: dict[str, Spent] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part in (self.dictionary, self.auxiliary):
            if part is not None:
                part.eval().to(self.model.module.device)

    def answers(self, how: Decoding, prompts: Sequence[Prompt], mixing: Mixing, seed: int, most: int) -> list[str]:
        """Return the answer to each prompt, of at most ``most`` tokens, with what is drawn fixed by ids and seed."""
        start = time.perf_counter()
        prompted = self.model.prompted(self._pictures([one.row for one in prompts]), [one.text for one in prompts])
        decoded = decode(
            self.model.module,
            prompted.inputs,
            rule_of(how, mixing),
            uniforms_of([one.id for one in prompts], seed, most),
            second=self._second(how, prompts, prompted, mixing, seed),
            end=end_tokens(self.model),
            padding=_padding(self.model),
        )
        spent = self.spent.setdefault(how.name, Spent())
        spent.seconds += time.perf_counter() - start
        spent.answers += len(prompts)
        spent.tokens += sum(map(len, decoded.tokens))
        spent.chosen += decoded.chosen
        spent.open += decoded.open
        return [str(self.model.tokenizer.decode(one, skip_special_tokens=True)).strip() for one in decoded.tokens]

    def _pictures(self, rows: Sequence[int]) -> list[Any]:
        """Return the pictures of rows, each decoded once."""
        from PIL import Image

        once = list(dict.fromkeys(rows))
        found = dict(zip(once, self.data.images(once)))
        return [one if isinstance(one, Image.Image) else Image.fromarray(one) for one in (found[row] for row in rows)]

    def _second(self, how: Decoding, prompts: Sequence[Prompt], prompted: Prompted, mixing: Mixing, seed: int) -> Any:
        if how.second is None:
            return None
        if how.second == "noise":
            numbers = [number_of(one.id) for one in prompts]
            return NoisyPass(prompted.pixels_key, mixing.noise_step, numbers, seed)
        if self.dictionary is None:
            raise UserError(f"{how.name} shifts by concepts, and there is no dictionary.", "Give one: --run RUN")
        shift = self._shift(how.second, prompts, mixing, seed)
        return second_pass(self.cache, self.model.blocks, self.layer, prompted.image_mask, prompted.text_mask, shift)

    def _shift(self, kind: str, prompts: Sequence[Prompt], mixing: Mixing, seed: int) -> Shift:
        beta = 0.0 if kind == "reconstruction" else mixing.beta

        def concepts(vision: Tensor, text: Tensor) -> Tensor:
            return text_shift(vision, text, self.dictionary, self.auxiliary, mixing.alpha, beta, mixing.mix)

        if kind == "random":
            directions = self._directions(prompts, seed)
            return lambda vision, text: directions * concepts(vision, text).norm(dim=1, keepdim=True)
        if kind == "other_image":
            others = self._image_means(prompts)
            return lambda vision, text: concepts(others, text)
        if kind == "auxiliary":
            return lambda vision, text: auxiliary_shift(vision, text, self.auxiliary, mixing.alpha)
        return concepts

    def _directions(self, prompts: Sequence[Prompt], seed: int) -> Tensor:
        """Return a random direction of length 1 for each prompt ``(b, d)``, its own by id and seed."""
        width = self.model.sites()[f"language.{self.layer}"].width
        drawn = [torch.randn(width, generator=_generator(one.id, seed)) for one in prompts]
        return torch.nn.functional.normalize(torch.stack(drawn), dim=1).to(self.model.module.device)

    def _image_means(self, prompts: Sequence[Prompt]) -> Tensor:
        """Return the mean of the image tokens ``(b, d)`` of another picture for each prompt, the same one each time."""
        from vlsae.models.base import TokenSelection

        total = len(self.data)
        if total < 2:
            raise UserError("The control other_image needs a second picture, and the data have one.", "Take more data.")
        pictures = self._pictures([(one.row + total // 2) % total for one in prompts])
        batch = self.model.prepare(pictures, [one.text for one in prompts])
        site = f"vision.{self.layer}"
        return self.model.represent(batch, [site], TokenSelection("mean", "all"))[site].values.float()


def rule_of(how: Decoding, mixing: Mixing) -> Rule:
    """Return how the next token is chosen."""
    beta = {None: 0.0, "own": mixing.beta_cd, "vcd": mixing.beta_vcd}[how.mask]
    if how.second == "noise":
        return Rule(how.sample, mixing.alpha_vcd, beta, "contrast")
    return Rule(how.sample, 0.0 if how.second is None else mixing.alpha_cd, beta)


def auxiliary_shift(vision: Tensor, text: Tensor, auxiliary: Any, alpha: float) -> Tensor:
    """Return the shift by the image's mean through the auxiliary autoencoder, no concept in between: ``(b, d)``.

    Without an auxiliary autoencoder the image's mean itself.
    """
    there = vision if auxiliary is None else auxiliary.decode(auxiliary.encode(vision, "vision"), "language")
    return alpha * (there - text)


def layer_number(model: VLM, layer: int | None, sites: Sequence[str], site: str) -> int:
    """Return the block at whose input text tokens are shifted: the dictionary's layer, or the one behind (``output``).

    ``sites``: where the dictionary was trained, if that is known; else ``layer``, and without one that share of the
    depth which the paper's is. Raises :class:`~vlsae.errors.UserError` for a dictionary of another layer, or of none.
    """
    own = _layer_of(sites) if sites else None
    if own is not None and layer is not None and own != layer:
        raise UserError(
            f"The dictionary reads {' and '.join(sites)}, and task.layer={layer}.",
            f"Leave task.layer out, or train a dictionary there: train.sites=[vision.{layer},language.{layer}]",
        )
    found = own if own is not None else default_layer(model) if layer is None else layer
    if not 0 <= found <= depth_of(model):
        raise UserError(f"task.layer={found}; the model has layers 0…{depth_of(model)}.", "Choose one of them.")
    if site == "output" and found == depth_of(model):
        raise UserError(f"Behind layer {found}, the last, no block is left for task.site=output.", "Use site=input.")
    return found + (site == "output")


def default_layer(model: VLM) -> int:
    """Return the layer that lies as deep as the paper's."""
    return round(DEPTH * depth_of(model))


def depth_of(model: VLM) -> int:
    """Return how many blocks the decoder has."""
    numbers = [name.split(".")[1] for name in model.sites() if name.startswith("language.") and name.count(".") == 1]
    return max(int(number) for number in numbers if number.isdigit())


def end_tokens(model: VLM) -> list[int]:
    """Return the tokens that end an answer, as the model's generation settings say, else its tokenizer."""
    found = model.module.generation_config.eos_token_id
    found = model.tokenizer.eos_token_id if found is None else found
    if found is None:
        raise UserError("The model names no token that ends an answer.", "Give its tokenizer an eos_token.")
    return list(found) if isinstance(found, (list, tuple)) else [int(found)]


def _padding(model: VLM) -> int:
    found = model.tokenizer.pad_token_id
    return end_tokens(model)[0] if found is None else int(found)


def _layer_of(sites: Sequence[str]) -> int:
    parts = [site.split(".") for site in sites]
    numbers = {part[1] for part in parts}
    fitting = {part[0] for part in parts} == {"vision", "language"} and len(numbers) == 1
    if not fitting or not all(len(part) == 2 and part[1].isdigit() for part in parts):
        raise UserError(
            f"The dictionary reads {' and '.join(sites)}; the shift needs vision and language of one layer.",
            "Train one there: train.sites=[vision.30,language.30]",
        )
    return int(numbers.pop())


def _generator(name: str, seed: int) -> torch.Generator:
    return torch.Generator().manual_seed((number_of(name) + seed) % 2**63)
