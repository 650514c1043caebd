"""SAELens' layout, ``cfg.json`` and ``sae_weights.safetensors``, written and read without that library.

Its weights: ``W_enc (d, h)``, ``W_dec (h, d)``, ``b_enc (h,)``, ``b_dec (d,)``; ``threshold (h,)`` of jumprelu; of
gated ``b_gate``, ``r_mag``, ``b_mag`` ``(h,)`` in place of ``b_enc``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vlsae.dictionaries.base import STREAMS, Dictionary, one_of
from vlsae.dictionaries.batch_top_k import BatchTopK
from vlsae.dictionaries.centered import CenteredDictionary
from vlsae.dictionaries.gated import Gated
from vlsae.dictionaries.jump_relu import JumpReLU
from vlsae.dictionaries.linear import LinearDictionary
from vlsae.dictionaries.matryoshka_k import MatryoshkaK
from vlsae.dictionaries.relu_l1 import ReLUL1
from vlsae.dictionaries.top_k import TopK
from vlsae.errors import MissingFile, UserError, unknown
from vlsae.runs.files import write_json

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"

_HOOK = re.compile(r"blocks\.(\d+)\.hook_resid_(pre|post)")

#: What a threshold of zero, whose logarithm is none, becomes.
_ZERO = 1e-30


def is_saelens(folder: Path) -> bool:
    """Tell whether a folder holds a dictionary in SAELens' layout."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def write_saelens(
    dictionary: Dictionary, folder: Path, stream: str | None = None, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write a dictionary in SAELens' layout, the scale of its input folded into the weights.

    A dictionary with weights of its own for each stream is written for one: ``stream``. Raises ``ValueError`` for kinds
    that have no such form, as those with a distance encoder, and where the stream is needed and not given.
    """
    architecture, tensors, extra = _form(dictionary, stream)
    config = {
        "d_in": dictionary.width,
        "d_sae": dictionary.n_concepts,
        "dtype": str(tensors["W_enc"].dtype).removeprefix("torch."),
        "device": "cpu",
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": dict(metadata or {}),
        "architecture": architecture,
        **extra,
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}, folder / WEIGHTS)
    write_json(folder / CONFIG, config)


def read_saelens(folder: Path) -> tuple[Dictionary, dict[str, Any]]:
    """Return the dictionary of a folder in SAELens' layout, the same for both streams, and its metadata.

    Raises ``ValueError`` for another architecture, scalings that are not in the weights, and weights that do not fit.
    """
    path = folder / CONFIG
    if not is_saelens(folder):
        raise MissingFile(f"{folder} does not hold {CONFIG} and {WEIGHTS}.", "Give the folder that SAELens wrote.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        weights = {name: x.float() for name, x in load_file(folder / WEIGHTS).items()}
    except (ValueError, SafetensorError) as error:
        raise UserError(f"{folder} is damaged: {error}.", "Fetch it again.") from error
    if config.get("normalize_activations", "none") not in ("none", None):
        raise UserError(
            f"{path} scales its input by {config['normalize_activations']!r}, which is not in the weights.",
            "Fold it in with SAELens first (fold_activation_norm_scaling_factor), and save again.",
        )
    architecture = config.get("architecture", "standard")
    if architecture not in _READERS:
        raise unknown("architecture of SAELens", str(architecture), _READERS)
    try:
        dictionary = _READERS[architecture](_Weights(weights, config))
    except (KeyError, RuntimeError) as error:
        raise UserError(f"{folder}: the weights do not fit {architecture!r}: {error}.") from error
    return dictionary.eval(), dict(config.get("metadata") or {})


def site_of(metadata: Mapping[str, Any]) -> str | None:
    """Return the site that SAELens' hook name means, None where it has no name of ours.

    The stream before block i (counted from 0) is layer i, the one behind it layer i + 1.
    """
    found = _HOOK.fullmatch(str(metadata.get("hook_name", "")))
    if found is None:
        return None
    return f"language.{int(found[1]) + (found[2] == 'post')}"


def _form(dictionary: Dictionary, stream: str | None) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
    if isinstance(dictionary, CenteredDictionary):
        columns, scale = dictionary._columns(), dictionary.scale
        tensors = {
            "W_enc": dictionary.encoder.weight.T / scale,
            "W_dec": columns.T * scale,
            "b_dec": dictionary.decoder.bias * scale,
        }
        bias, sub = dictionary.encoder.bias, {"apply_b_dec_to_input": True}
        if isinstance(dictionary, Gated):
            own = {"b_gate": bias, "r_mag": dictionary.log_gain, "b_mag": dictionary.magnitude_bias}
            return "gated", tensors | own, sub
        tensors["b_enc"] = bias
        if isinstance(dictionary, JumpReLU):
            return "jumprelu", {**tensors, "threshold": dictionary.log_threshold.exp()}, sub
        if isinstance(dictionary, BatchTopK):
            return "jumprelu", {**tensors, "threshold": dictionary.threshold.expand(dictionary.n_concepts)}, sub
        if isinstance(dictionary, ReLUL1):
            return "standard", tensors, sub
        if isinstance(dictionary, (TopK, MatryoshkaK)):
            return "topk", tensors, {**sub, "k": dictionary.k, "rescale_acts_by_decoder_norm": False}
    if isinstance(dictionary, LinearDictionary) and not isinstance(dictionary, CenteredDictionary):
        sides = [(dictionary._encoder(s), dictionary._decoder(s)) for s in STREAMS]
        if sides[0] != sides[1] and stream is None:
            raise UserError(
                f"A {dictionary.kind} dictionary has weights of its own for each stream.", "Name one: --stream vision."
            )
        encoder, decoder = sides[STREAMS.index(one_of("stream", stream or "vision", STREAMS))]
        tensors = {
            "W_enc": encoder.weight.T,
            "b_enc": encoder.bias,
            "W_dec": decoder.weight.T,
            "b_dec": decoder.bias,
        }
        extra = {"apply_b_dec_to_input": False, "k": dictionary.k, "rescale_acts_by_decoder_norm": False}
        return "topk", tensors, extra
    raise UserError(
        f"A dictionary of kind {dictionary.kind!r} has no form in SAELens' layout.",
        "It holds linear encoders with ReLU, TopK, thresholds or gates; share the run's own dictionary folder instead.",
    )


class _Weights:
    """SAELens' weights as ours: the bias of the input always subtracted, columns of any length."""

    def __init__(self, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        self.weights, self.config = weights, config
        self.encoder = weights["W_enc"].T
        self.decoder = weights["W_dec"].T
        # Ours reads x − b_dec; one that reads x has W b_dec in its bias instead.
        self.shift = 0 if config.get("apply_b_dec_to_input", True) else self.encoder @ weights["b_dec"]

    def fill(self, dictionary: CenteredDictionary, bias: Tensor) -> None:
        with torch.no_grad():
            dictionary.encoder.weight.copy_(self.encoder)
            dictionary.encoder.bias.copy_(bias + self.shift)
            dictionary.decoder.weight.copy_(self.decoder)
            dictionary.decoder.bias.copy_(self.weights["b_dec"])

    @property
    def sizes(self) -> tuple[int, int]:
        h, d = self.encoder.shape
        return d, h


def _standard(given: _Weights) -> Dictionary:
    dictionary = ReLUL1(*given.sizes, input_norm="none", adapt=0.0)
    given.fill(dictionary, given.weights["b_enc"])
    return dictionary


def _top_k(given: _Weights) -> Dictionary:
    dictionary = TopK(*given.sizes, int(given.config["k"]), decoder_norm="free")
    if given.config.get("rescale_acts_by_decoder_norm", False):
        norms = torch.linalg.vector_norm(given.decoder, dim=0)
        given.encoder, given.shift = given.encoder * norms[:, None], given.shift * norms
        given.decoder = given.decoder / norms
        given.fill(dictionary, given.weights["b_enc"] * norms)
    else:
        given.fill(dictionary, given.weights["b_enc"])
    return dictionary


def _jump_relu(given: _Weights) -> Dictionary:
    dictionary = JumpReLU(*given.sizes, input_norm="none", decoder_norm="free")
    given.fill(dictionary, given.weights["b_enc"])
    with torch.no_grad():
        dictionary.log_threshold.copy_(given.weights["threshold"].clamp(min=_ZERO).log())
    return dictionary


def _gated(given: _Weights) -> Dictionary:
    dictionary = Gated(*given.sizes, input_norm="none", decoder_norm="free", adapt=0.0)
    given.fill(dictionary, given.weights["b_gate"])
    with torch.no_grad():
        dictionary.log_gain.copy_(given.weights["r_mag"])
        dictionary.magnitude_bias.copy_(given.weights["b_mag"] + given.weights["r_mag"].exp() * given.shift)
    return dictionary


_READERS: dict[str, Callable[[_Weights], Dictionary]] = {
    "standard": _standard,
    "topk": _top_k,
    "jumprelu": _jump_relu,
    "gated": _gated,
}
