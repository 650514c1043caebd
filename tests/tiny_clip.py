"""A tiny random CLIP in open_clip's own format, with a tokenizer of its own, and inputs for it, for tests."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlsae.models import CLIP, Batch, TokenSelection

PLAIN = ("a", "the", "red", "blue", "green", "circle", "square", "triangle", "left", "of", "above", "and")
WORDS = ("<pad>", "<unk>", *PLAIN, "<bos>", "<eos>")
TEXTS = ["a red circle", "the blue square left of a circle", "triangle"]
ALL_TOKENS = TokenSelection(pooling="tokens", include="all")
LAYERS = 3
CONTEXT = 12
IMAGE_SIZE = 32


def tiny_config(**changes: Any) -> dict[str, Any]:
    """Return the model configuration; ``vision`` and ``text`` change the towers, the rest the model."""
    vision = {"image_size": IMAGE_SIZE, "layers": LAYERS, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": CONTEXT, "vocab_size": len(WORDS), "width": 24, "heads": 2, "layers": LAYERS}
    text["hf_tokenizer_name"] = "local"
    vision = changes.pop("vision_cfg", {**vision, **changes.pop("vision", {})})
    return {"embed_dim": 16, "vision_cfg": vision, "text_cfg": {**text, **changes.pop("text", {})}, **changes}


def write_tokenizer(folder: Path) -> None:
    """Write a word-level tokenizer that frames a text by begin and end tokens."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [(word, WORDS.index(word)) for word in ("<bos>", "<eos>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=special)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": CONTEXT, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_clip(folder: Path, *, seed: int = 0, weights: str = "open_clip_model.safetensors", **changes: Any) -> Path:
    """Write a model with random weights into a folder and return it."""
    import open_clip
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    preprocess = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3], "interpolation": "bicubic"}
    preprocess |= changes.pop("preprocess", {})
    description = {"model_cfg": tiny_config(**changes), "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(description))
    write_tokenizer(folder)
    torch.manual_seed(seed)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
    # The embeddings start at a hundredth of the patches' size: larger ones make the layers differ visibly.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embedding" in name:
                parameter.mul_(10)
    if weights.endswith(".safetensors"):
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / weights)
    else:
        torch.save(model.state_dict(), folder / weights)
    return folder


def original(folder: Path) -> torch.nn.Module:
    """The model as open_clip itself loads it."""
    import open_clip

    return open_clip.create_model(f"local-dir:{folder}").eval()


def pictures(n: int = 3, size: int = IMAGE_SIZE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def batch_for(model: CLIP) -> Batch:
    size = model.files.config["vision_cfg"]["image_size"]
    return model.prepare(pictures(size=size), TEXTS)


@contextmanager
def hooked(model: torch.nn.Module, path: str, seen: list[torch.Tensor]):
    """The plainest hook there is, apart from the code under test."""
    name, _, inputs = path.partition(":")
    module = model.get_submodule(name)

    def take(value):
        seen.append((value[0] if isinstance(value, tuple) else value).clone())

    if inputs:
        handle = module.register_forward_pre_hook(lambda module, args: take(args))
    else:
        handle = module.register_forward_hook(lambda module, args, output: take(output))
    yield
    handle.remove()
