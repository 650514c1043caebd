"""Vision-language models of transformers: image and text in one sequence, read and edited at the decoder's blocks.

Shapes: b images, c texts, n sequences, s positions, d width, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from vlsae.bounds import OneOf, Range, conform
from vlsae.errors import UserError
from vlsae.models.base import Batch, Model, Rows, Site, TokenSelection
from vlsae.models.lm import LM, Input, Template, Truncation
from vlsae.models.model_folder import IMAGE_TEXT, ModelFolder, resolve_folder

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from torch import Tensor, nn

    from vlsae.models.positions import Positions
    from vlsae.models.vlm_prompts import JointBatch, JointPrompts

#: The folder of the small vision-language model that ships with the package.
BUNDLED = Path(__file__).parent.parent / "bundled" / "llava-v1"

STREAMS = ("vision", "language")

Span = Annotated[str, OneOf("after_image", "words")]


@dataclass(frozen=True)
class Prompted:
    """Prompts on their images, ready for ``module(**inputs)`` and padded on the left, so that tokens can be appended.

    ``image_mask`` and ``text_mask (b, s)`` tell which positions are the image's, and which lie behind it: question,
    separators and the tag of the assistant's turn. ``pixels_key`` names the preprocessed pixels among the inputs.
    """

    inputs: dict[str, Tensor]
    image_mask: Tensor
    text_mask: Tensor
    pixels_key: str


class VLM(LM):
    """A vision-language model of transformers that reads image and text in one sequence (image-text-to-text).

    At a decoder's site ``vision`` rows are those of the image's tokens and ``language`` rows those of the text behind
    it. ``span`` is what counts as the text's: everything ``after_image``, or all ``words`` of the sequence but special
    tokens, the system prompt's too. ``chat_template`` is the processor's own: ``auto`` where it has one; without it a
    LLaVA gets the conversation it was trained on and others the image, a line break and the text. The other settings
    are those of :class:`vlsae.models.lm.LM`.
    """

    joint = True
    auto: ClassVar[str] = IMAGE_TEXT

    def __init__(
        self,
        *,
        checkpoint: str = "bundled",
        adapter: str | None = None,
        chat_template: Template = "auto",
        input: Input = "prompt",
        span: Span = "after_image",
        max_length: Annotated[int, Range(2, None)] | None = None,
        truncation: Truncation = "right",
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(
            checkpoint=checkpoint,
            adapter=adapter,
            chat_template=chat_template,
            input=input,
            max_length=max_length,
            truncation=truncation,
            trust_remote_code=trust_remote_code,
        )
        conform("span", span, Span)
        self.span = span

    @cached_property
    def files(self) -> ModelFolder:
        """The checkpoint's files on this machine."""
        return resolve_folder(self.checkpoint, BUNDLED)

    @cached_property
    def processor(self) -> Any:
        """The model's own processor of images and texts."""
        from vlsae.models.lm_loading import build_processor

        return build_processor(self.files, self.trust_remote_code)

    @cached_property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    @cached_property
    def uses_chat_template(self) -> bool:
        """Whether texts are put into the processor's chat template; ``UserError`` where one is wanted and missing."""
        there = bool(getattr(self.processor, "chat_template", None))
        if self.chat_template == "always" and not there:
            raise UserError(f"model.chat_template=always, and {self.files.folder} has none.", "Use auto or never.")
        return there and self.chat_template != "never"

    @property
    def blocks(self) -> list[nn.Module]:
        """The decoder's blocks in their order."""
        from vlsae.models.blocks import block_path

        decoder = self.module.get_submodule(self._decoder)
        return list(decoder.get_submodule(block_path(decoder, self._layers)))

    @property
    def _layers(self) -> int:
        return int(self._structure.config.get_text_config().num_hidden_layers)

    @cached_property
    def _decoder(self) -> str:
        from vlsae.models.vlm_structure import decoder_path

        return decoder_path(self._structure)

    @cached_property
    def _sites(self) -> dict[str, Site]:
        from vlsae.models.blocks import language_sites

        return {
            name: site for stream in STREAMS for name, site in language_sites(self._structure, stream, self._decoder)
        }

    @cached_property
    def _joint(self) -> JointPrompts:
        from vlsae.models.vlm_prompts import JointPrompts
        from vlsae.models.vlm_structure import image_token_id, input_names

        llava = str(self._structure.config.model_type).startswith("llava")
        return JointPrompts(
            self.processor,
            image_token_id=image_token_id(self._structure.config, self.processor),
            keys=input_names(self._structure),
            template="chat" if self.uses_chat_template else "v1" if llava else "plain",
            answers=self.reads_answers,
            span=self.span,
            limit=self.limit,
            truncation=self.truncation,
        )

    def digest(self) -> str:
        """Return the SHA-256 of weights, configuration, processor, adapter and settings; nothing is loaded."""
        from vlsae.models.model_folder import adapter_files

        names = ("chat_template", "input", "span", "max_length", "truncation", "trust_remote_code")
        more = [] if self.adapter is None else adapter_files(self.adapter)
        return self.files.digest(*more, **{name: getattr(self, name) for name in names})

    def prepare(
        self,
        images: np.ndarray | Sequence[Image.Image] | None = None,
        texts: Sequence[str] | None = None,
        answers: Sequence[str | None] | None = None,
        owners: Sequence[int] | None = None,
    ) -> Batch:
        """Return the joint sequences of texts and their images; text i belongs to image ``owners[i]``, or to image i.

        An image without a text has a sequence of its own; texts without images are read alone.
        """
        from vlsae.models.vlm_prompts import JointBatch

        pictures = None if images is None or len(images) == 0 else _pictures(images)
        if pictures is None and not texts:
            return JointBatch()
        batch, truncated = self._joint(pictures, list(texts or ()), owners, answers)
        with self._counting:
            self._truncated += truncated
        return batch

    def prompted(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Prompted:
        """Return prompts on their images, one each, as inputs of the module on its device."""
        if self.reads_answers:
            raise UserError("model.input=prompt_and_answer, and these prompts are to be answered.", "Use input=prompt.")
        batch, _ = self._joint(_pictures(images), list(prompts), side="left")
        device = self.module.device
        inputs = self._inputs(batch)
        pixels = next(name for name in self.processor.image_processor.model_input_names if name in inputs)
        return Prompted(inputs, batch.image.to(device), batch.words.to(device), pixels)

    def represent(self, batch: Batch, sites: Iterable[str], tokens: TokenSelection | None = None) -> dict[str, Rows]:
        """Return the rows of each site, both streams' from one forward pass that ends at the last site.

        Values lie on the model's device, row numbers on the CPU. An image's rows come from the sequence of its first
        text: the decoder reads from left to right, so they do not depend on which it is.

        Raises:
            UserError: an unknown site or pooling, a site whose stream the batch lacks, or a text without content.
        """
        import torch

        from vlsae.models.hooks import place, read
        from vlsae.models.token_rows import check_selection

        wanted = [sites] if isinstance(sites, str) else list(sites)
        selection = tokens or TokenSelection()
        check_selection(selection)
        for site in wanted:
            self._check_site(site)
        module, inputs = self.module, self._inputs(batch)
        streams = {stream: self._stream_rows(stream, batch, selection) for stream in _streams(wanted)}
        inner: dict[str, list[str]] = {}
        for site in self._reached(wanted):
            inner.setdefault(self._sites[site].module, []).append(site)
        embeddings = [site for site in wanted if site.endswith(".embedding")]
        rows: dict[str, Rows] = {}

        def keep(path: str, hidden: Tensor) -> None:
            rows.update({site: streams[site.split(".")[0]](hidden) for site in inner[path]})

        with torch.no_grad():
            output = read(
                {path: place(module, path) for path in inner},
                keep,
                lambda: module.base_model(**inputs, use_cache=False),
                last=None if embeddings else list(inner)[-1],
            )
        for site in embeddings:
            rows[site] = streams[site.split(".")[0]](output.last_hidden_state)
        return {site: rows[site] for site in wanted}

    def represent_in_groups(
        self, batch: Batch, sites: Iterable[str], tokens: TokenSelection | None = None
    ) -> dict[str, Rows]:
        """As ``represent``: an image's tokens make most of a sequence, so that texts of like length save little."""
        return Model.represent_in_groups(self, batch, sites, tokens)

    def losses(self, batch: Batch) -> Tensor:
        """Return −ln p of each token of text given all before it, ``(n, s)`` in float32; NaN at an image's tokens."""
        from vlsae.models.token_losses import token_losses

        joint, ids = _joint_batch(batch), self._inputs(batch)["input_ids"]
        return token_losses(self.logits(batch), ids, (joint.real & ~joint.image).to(ids.device))

    def _reached(self, wanted: Sequence[str]) -> list[str]:
        """Return the wanted sites of blocks in the order in which a forward pass reaches them, whatever the stream."""
        order = {site.module: number for number, site in enumerate(self._sites.values())}
        inner = [site for site in wanted if not site.endswith(".embedding")]
        return sorted(inner, key=lambda site: order[self._sites[site].module])

    def _stream_rows(self, stream: str, batch: Batch, selection: TokenSelection) -> Callable[[Tensor], Rows]:
        """Return what turns hidden states ``(n, s, d)`` of all sequences into one stream's rows."""
        from vlsae.models.token_rows import TokenRows

        joint = _joint_batch(batch)
        numbers = self._numbers(stream, joint)
        where = self._where(stream, joint, numbers)
        pooled = TokenRows(stream, selection, lambda items, length: where, None, text_default="mean")
        return lambda hidden: pooled(hidden[numbers.to(hidden.device)])

    @staticmethod
    def _numbers(stream: str, batch: JointBatch) -> Tensor:
        """Return the sequences in which a stream's items are read; ``UserError`` where there are none."""
        import torch

        found = batch.read if stream == "vision" else torch.arange(batch.texts)
        if not len(found):
            what = "images" if stream == "vision" else "texts"
            raise UserError(f"A {stream} site is asked for, and the batch has no {what}.", f"Give {what} for it.")
        return found

    @staticmethod
    def _where(stream: str, batch: JointBatch, numbers: Tensor) -> Positions:
        import torch

        from vlsae.models.positions import Positions
        from vlsae.models.prompts import ANSWER, SPECIAL

        ids, mask, role = batch.inputs["input_ids"], batch.real, batch.roles
        if stream == "vision":
            ids, image = torch.full_like(ids[numbers], -1), batch.image[numbers]
            return Positions(ids, image, torch.zeros_like(image), None, "image", first=True)
        position = torch.arange(mask.shape[1])
        return Positions(
            token=ids[numbers],
            real=batch.words[numbers],
            special=role[numbers] == SPECIAL,
            end=torch.where(mask[numbers], position, 0).amax(dim=1),
            role="text",
            first=False,
            answer=role[numbers] == ANSWER,
        )

    def _inputs(self, batch: Batch) -> dict[str, Tensor]:
        joint = _joint_batch(batch)
        device, dtype = self.module.device, self.module.dtype
        return {
            name: value.to(device, dtype) if value.is_floating_point() else value.to(device)
            for name, value in joint.inputs.items()
        }


def _joint_batch(batch: Batch) -> JointBatch:
    from vlsae.models.vlm_prompts import JointBatch

    if not isinstance(batch, JointBatch) or not batch.inputs:
        raise UserError("A site is asked for, and the batch has neither images nor texts.", "Give one of them.")
    return batch


def _streams(sites: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(site.split(".")[0] for site in sites))


def _pictures(images: Any) -> list[Any]:
    """Return PIL images in RGB of PIL images or a uint8 array ``(n, height, width, 3)``."""
    import numpy as np
    from PIL import Image

    if isinstance(images, np.ndarray) and (images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8):
        raise UserError(
            f"Images are an array of {images.dtype} {images.shape}.", "Expected uint8 (n, height, width, 3)."
        )
    pictures = (one if isinstance(one, Image.Image) else Image.fromarray(one) for one in images)
    return [one.convert("RGB") for one in pictures]
