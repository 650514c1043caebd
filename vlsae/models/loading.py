"""From a checkpoint's files to open_clip's own module and tokenizer; pickled files are read as tensors only."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from torch import nn

from vlsae.errors import UserError
from vlsae.models.checkpoints import Checkpoint

#: open_clip's words for the numbers its layers compute in (layer norms stay in float32).
PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def build_module(files: Checkpoint, *, dtype: str, image_size: int | None) -> nn.Module:
    """Return the model with its weights, on the CPU.

    Raises:
        UserError: the weights are damaged, hold more than tensors, or do not fit the architecture.
    """
    import open_clip

    from vlsae.models.weights import damage_explained

    try:
        with damage_explained(files.weights):
            _check_tensors_only(files.weights)
            return open_clip.create_model(
                _name(files),
                pretrained=None if files.folder else str(files.weights),
                precision=PRECISIONS[dtype],
                force_image_size=image_size,
                force_quick_gelu=bool(files.config.get("quick_gelu")),
                require_pretrained=True,
                weights_only=True,
            )
    except (RuntimeError, AssertionError, KeyError) as error:  # open_clip asserts that widths agree
        raise _unfit(files, error) from error


def build_skeleton(files: Checkpoint) -> nn.Module:
    """Return the model without numbers, for towers that only the module itself describes."""
    import open_clip
    import torch

    with torch.device("meta"):
        return open_clip.create_model(_name(files), load_weights=False, pretrained_text=False, device="meta")


def build_tokenizer(files: Checkpoint) -> Any:
    """Return the model's tokenizer: texts → ``(c, length)`` ids.

    Raises:
        UserError: its files are damaged or missing, or the repository that it lies in cannot be reached.
    """
    try:
        return _tokenizer(files)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        where = files.folder or files.architecture
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"The tokenizer of {where} cannot be read: {reason[:200]}",
            "Put its files (tokenizer.json, tokenizer_config.json) whole beside the weights.",
        ) from error


def _tokenizer(files: Checkpoint) -> Any:
    import open_clip
    from open_clip.tokenizer import HFTokenizer

    text = files.config["text_cfg"]
    if files.folder is not None and text.get("hf_tokenizer_name") and not files.tokenizer_files:
        # The folder leaves its tokenizer to another repository, where open_clip would look in the folder.
        return HFTokenizer(
            text["hf_tokenizer_name"],
            context_length=text.get("context_length", 77),
            tokenizer_mode=text.get("tokenizer_mode"),
            **(text.get("tokenizer_kwargs") or {}),
        )
    return open_clip.get_tokenizer(_name(files))


def _name(files: Checkpoint) -> str:
    return f"local-dir:{files.folder}" if files.folder else str(files.architecture)


def _check_tensors_only(weights: Path) -> None:
    """Read a pickled file as tensors only, and refuse one that cannot be.

    open_clip does the same afterwards, but where this ends in a TypeError it unpickles under older versions of torch.
    """
    if weights.suffix == ".safetensors":
        return
    import torch

    try:
        torch.load(weights, map_location="meta", weights_only=True)
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise pickle.UnpicklingError(str(error)) from error


def _unfit(files: Checkpoint, error: Exception) -> UserError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    detail = " ".join(line[:200] for line in lines[:3])
    return UserError(
        f"{files.weights} does not fit {files.architecture or 'the configuration beside it'}: {detail}",
        "Give the architecture that the weights were trained with.",
    )
