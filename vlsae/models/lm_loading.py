"""From a folder in transformers' format to its own module and tokenizer; pickled files are read as tensors only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from vlsae.errors import UserError
from vlsae.models.model_folder import CAUSAL, IMAGE_TEXT, KINDS, ModelFolder, adapter_files

PRECISIONS = ("float32", "bfloat16", "float16", "float64")

#: Quantisations of bitsandbytes and its own names for them.
QUANTISATIONS: dict[str, dict[str, Any]] = {
    "8bit": {"load_in_8bit": True},
    "4bit": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
}


def read_config(files: ModelFolder, trust_remote_code: bool) -> Any:
    """Return transformers' configuration of a folder; ``UserError`` for one that it does not know."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(files.folder, trust_remote_code=trust_remote_code, local_files_only=True)
    except (ValueError, KeyError, OSError, TypeError) as error:
        raise _unreadable(files, "configuration", error) from error


def build_skeleton(files: ModelFolder, trust_remote_code: bool, auto: str = CAUSAL) -> Any:
    """Return the model of a folder without numbers; ``auto`` is one of :data:`KINDS`."""
    import torch
    import transformers

    config = read_config(files, trust_remote_code)
    try:
        with torch.device("meta"):
            return getattr(transformers, auto).from_config(config, trust_remote_code=trust_remote_code)
    except (ValueError, KeyError, OSError, TypeError) as error:
        raise _unreadable(files, "architecture", error, auto) from error


def build_tokenizer(files: ModelFolder, trust_remote_code: bool) -> Any:
    """Return the tokenizer of a folder; ``UserError`` where its files are damaged or missing."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(files.folder, trust_remote_code=trust_remote_code, local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare exceptions for damaged files
        raise _unreadable(files, "tokenizer", error) from error


def build_processor(files: ModelFolder, trust_remote_code: bool) -> Any:
    """Return the processor of a folder, for images and texts; ``UserError`` where its files are damaged or missing."""
    from transformers import AutoProcessor

    try:
        found = AutoProcessor.from_pretrained(files.folder, trust_remote_code=trust_remote_code, local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare exceptions for damaged files
        raise _unreadable(files, "processor", error, IMAGE_TEXT) from error
    if not hasattr(found, "image_processor"):
        raise UserError(
            f"{files.folder} does not say how its images are prepared.",
            "Give the folder with the processor's files too: preprocessor_config.json or processor_config.json.",
        )
    return found


def build_module(
    files: ModelFolder,
    *,
    device: str,
    dtype: str,
    quantisation: str,
    adapter: Path | None,
    trust_remote_code: bool,
    auto: str = CAUSAL,
) -> nn.Module:
    """Return the model with its weights, on its device, in evaluation mode; ``auto`` is one of :data:`KINDS`.

    Raises:
        UserError: the weights are damaged, hold more than tensors or do not fit the architecture, or what a
            quantisation or an adapter needs is missing.
    """
    import torch
    import transformers

    from vlsae.models.weights import damage_explained

    config = read_config(files, trust_remote_code)
    settings: dict[str, Any] = {
        "config": config,
        "dtype": getattr(torch, dtype),
        "use_safetensors": files.is_safe,
        "trust_remote_code": trust_remote_code,
        "local_files_only": True,
        "output_loading_info": True,
        **_quantised(quantisation, device),
    }
    read: Any = getattr(transformers, auto).from_pretrained
    try:
        with quiet(), damage_explained(files.weights[0]):
            module, facts = read(files.folder, **settings)
    except UserError:
        raise
    except (ValueError, KeyError, OSError, TypeError, RuntimeError) as error:
        raise _unreadable(files, "model", error, auto) from error
    _refuse_misfits(files, facts, auto)
    if quantisation == "none":
        module = module.to(device)
    if adapter is not None:
        _add_adapter(module, adapter)
    return module.eval()


@contextmanager
def quiet() -> Iterator[None]:
    """Within the context, transformers shows no progress bar of its own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _refuse_misfits(files: ModelFolder, facts: Any, auto: str) -> None:
    """Raise ``UserError`` where transformers started weights at random, of which it only warns."""
    missing = sorted(facts.get("missing_keys") or ()) or sorted(str(key) for key in facts.get("mismatched_keys") or ())
    if missing:
        raise UserError(
            f"The weights of {files.folder} do not fit its configuration: {', '.join(missing[:3])} "
            f"{'is' if len(missing) == 1 else 'are'} missing or of another shape.",
            f"Give the folder of {KINDS[auto]} with the configuration it was trained with.",
        )


def _quantised(quantisation: str, device: str) -> dict[str, Any]:
    if quantisation == "none":
        return {}
    if not device.startswith(("cuda", "cpu")):
        raise UserError(
            f"hardware.quantisation={quantisation} needs a CUDA device or a CPU, and the model goes on {device}.",
            "Use hardware.device=cpu or a machine with a GPU, or hardware.quantisation=none.",
        )
    if find_spec("bitsandbytes") is None:
        raise UserError(
            f"hardware.quantisation={quantisation} needs the package bitsandbytes, which is not installed.",
            "pip install 'vlsae[quantised]', or use hardware.quantisation=none.",
        )
    from transformers import BitsAndBytesConfig

    words = QUANTISATIONS[quantisation]
    return {"quantization_config": BitsAndBytesConfig(**words), "device_map": {"": device}}


def _add_adapter(module: Any, adapter: Path) -> None:
    """Put a peft adapter into the model in place, so that its modules keep their paths."""
    adapter_files(adapter)
    if find_spec("peft") is None:
        raise UserError(
            f"model.adapter={adapter} needs the package peft, which is not installed.",
            "pip install 'vlsae[adapters]'",
        )
    try:
        module.load_adapter(str(adapter))
    except (ValueError, KeyError, OSError, TypeError, RuntimeError) as error:
        raise UserError(
            f"model.adapter={adapter} does not fit the model: {_first_line(error)}",
            "Give the adapter of this very model.",
        ) from error


def _unreadable(files: ModelFolder, what: str, error: Exception, auto: str = CAUSAL) -> UserError:
    text = str(error)
    if "trust_remote_code" in text:
        return UserError(
            f"{files.folder} brings code of its own, which is not run.",
            "Where you trust it, add model.trust_remote_code=true.",
        )
    return UserError(
        f"The {what} of {files.folder} cannot be read: {_first_line(error)}",
        f"Give the folder that save_pretrained of transformers wrote, of {KINDS[auto]}.",
    )


def _first_line(error: Exception) -> str:
    return next((line.strip()[:200] for line in str(error).splitlines() if line.strip()), type(error).__name__)
