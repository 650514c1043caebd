"""Zero-shot classification with concepts: cosine of features plus cosine of codes (VL-SAE, section on zero-shot)."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from vlsae.bounds import check_finite_number
from vlsae.errors import UserError, unknown
from vlsae.training.rows import check_finite

ENSEMBLES = ("prototype", "meanact")


def zero_shot_scores(
    dictionary: Any, images: Tensor, prompts: Tensor, alpha: float, ensemble: str = "prototype"
) -> Tensor:
    """Return ``cos(x_v, x_l) + alpha · cos(h_v, h_l)`` of each image and class, ``(n, classes)``.

    ``images (n, d)``, ``prompts (classes, templates, d)``. A class's features are the normalised mean of its normalised
    prompts; its codes are those of these features (``prototype``) or the normalised mean of the prompts' normalised
    codes (``meanact``). ``alpha = 0`` is plain CLIP. Raises ``ValueError`` for wrong shapes, an
    unknown ensemble, and what is not finite.
    """
    if ensemble not in ENSEMBLES:
        raise unknown("ensemble", ensemble, ENSEMBLES)
    width = dictionary.width
    if images.ndim != 2 or images.shape[1] != width:
        raise UserError(f"images has shape {tuple(images.shape)}; (n, {width}) was expected.")
    if prompts.ndim != 3 or prompts.shape[2] != width or 0 in prompts.shape:
        raise UserError(f"prompts has shape {tuple(prompts.shape)}; (classes, templates, {width}) was expected.")
    check_finite_number("alpha", alpha)
    check_finite(images, "images")
    check_finite(prompts.flatten(1), "prompts")
    dtype = next(dictionary.parameters()).dtype
    images, prompts = images.to(dtype), prompts.to(dtype)
    classes, templates, _ = prompts.shape
    prototypes = _unit(_unit(prompts).mean(dim=1))
    features = _unit(images) @ prototypes.T
    if ensemble == "prototype":
        class_codes = dictionary.encode(prototypes, "language").to_dense()
    else:
        each = dictionary.encode(prompts.reshape(-1, width), "language").to_dense()
        class_codes = _unit(each).reshape(classes, templates, -1).mean(dim=1)
    codes = _unit(dictionary.encode(images, "vision").to_dense()) @ _unit(class_codes).T
    return features + alpha * codes


def _unit(x: Tensor) -> Tensor:
    return functional.normalize(x, dim=-1, eps=1e-12)
