"""Tiny random vision-language models in transformers' own layout, each with a real processor, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

TEXTS = ["a red circle", "Why is the sky blue?", "two cats, é"]
LAYERS = 3
WIDTH = 32
IMAGE_SIZE, PATCH = 32, 8

#: Ids 0…2 are padding, begin and end of text; then the family's own, then 256 bytes.
SPECIAL = {
    "llava": ("<pad>", "<s>", "</s>", "<image>"),
    "qwen": (
        *("<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"),
        *("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
    ),
}

CHAT = (
    "<|im_start|>system\nYou see.<|im_end|>\n{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% for part in m['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def pictures(*sizes: tuple[int, int]) -> list[Image.Image]:
    """Return noise of some sizes (width, height)."""
    found = []
    for number, (width, height) in enumerate(sizes):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        found.append(Image.fromarray(pixels))
    return found


def tokenizer_of(family: str, side: str = "left") -> Any:
    """Return a byte-level tokenizer with a family's special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = list(SPECIAL[family])
    words = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    if family == "llava":
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    own = {"bos_token": "<s>"} if family == "llava" else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=special[3:],
        padding_side=side,
        **own,
    )


def sizes(family: str) -> dict[str, Any]:
    """Return the configuration of a tiny language model."""
    return {
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "vocab_size": 256 + len(SPECIAL[family]),
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def llava_config() -> Any:
    """Return the configuration of a tiny LLaVA 1.5: CLIP's vision tower, two linear maps, a Llama."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    vision = CLIPVisionConfig(
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        image_size=IMAGE_SIZE,
        patch_size=PATCH,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(**sizes("llava")),
        image_token_index=SPECIAL["llava"].index("<image>"),
        image_token_id=SPECIAL["llava"].index("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=(IMAGE_SIZE // PATCH) ** 2,
    )


def llava_processor(side: str = "left") -> Any:
    """Return LLaVA's processor, without a chat template as its first checkpoints."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    images = CLIPImageProcessor(
        size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer_of("llava", side),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def qwen_config() -> Any:
    """Return the configuration of a tiny Qwen2.5-VL, whose images take as many tokens as they are large."""
    from transformers import Qwen2_5_VLConfig

    names = SPECIAL["qwen"]
    text = {**sizes("qwen"), "rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [2, 3, 3]}}
    vision = {
        "depth": LAYERS,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "out_hidden_size": WIDTH,
        "window_size": 16,
        "fullatt_block_indexes": [1],
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=names.index("<|image_pad|>"),
        video_token_id=names.index("<|video_pad|>"),
        vision_start_token_id=names.index("<|vision_start|>"),
        vision_end_token_id=names.index("<|vision_end|>"),
    )


def qwen_processor(side: str = "left") -> Any:
    """Return Qwen2.5-VL's processor with its way of a chat template, system prompt included."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    settings = {"patch_size": 4, "merge_size": 2, "min_pixels": 8 * 8, "max_pixels": 64 * 64}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**settings),
        tokenizer=tokenizer_of("qwen", side),
        video_processor=Qwen2VLVideoProcessor(**settings),
        chat_template=CHAT,
    )


FAMILIES = {"llava": (llava_config, llava_processor), "qwen": (qwen_config, qwen_processor)}


def write_vlm(folder: Path, family: str = "llava", *, seed: int = 0, side: str = "left") -> Path:
    """Write a model with random weights, large enough that the layers differ visibly, and return its folder."""
    from transformers import AutoModelForImageTextToText

    config, processor = FAMILIES[family]
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(config())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)
    model.save_pretrained(folder)
    processor(side).save_pretrained(folder)
    return folder


def original(folder: Path) -> Any:
    """The model as transformers itself loads it."""
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(folder).eval()
