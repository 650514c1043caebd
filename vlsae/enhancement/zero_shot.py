"""Zero-shot classification with concepts: cosine of features plus cosine of codes (VL-SAE, section on zero-shot).

n images, d width, c classes, p prompts, h concepts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from vlsae.bounds import check_finite_number
from vlsae.errors import UserError, unknown
from vlsae.training.rows import check_finite

ENSEMBLES = ("prototype", "meanact")

#: Elements of dense codes ``(rows, h)`` that exist at once.
ELEMENTS_AT_ONCE = 1 << 23

#: What turns rows ``(n, d)`` of a stream into dense codes ``(n, h)``.
Coder = Callable[[Tensor, str], Tensor]


class Prompts(NamedTuple):
    """The texts of the classes: ``values (p, d)``, and the class ``owner (p,)`` of each; every class has some."""

    values: Tensor
    owner: Tensor
    classes: int

    @classmethod
    def of(cls, prompts: Tensor) -> Prompts:
        """Return prompts ``(c, templates, d)``, equally many a class."""
        classes, templates, width = prompts.shape
        return cls(prompts.reshape(-1, width), torch.arange(classes).repeat_interleave(templates), classes)

    def class_means(self, values: Tensor) -> Tensor:
        """Return the mean over each class of values of its prompts, ``(p, …) → (c, …)``."""
        sums = values.new_zeros(self.classes, *values.shape[1:]).index_add(0, self.owner, values)
        counts = torch.bincount(self.owner, minlength=self.classes).to(values.dtype)
        return sums / counts.reshape(-1, *[1] * (values.ndim - 1))


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
    images, texts = images.to(dtype), Prompts.of(prompts.to(dtype))
    codes = code_cosines(lambda x, stream: dictionary.encode(x, stream).to_dense(), images, texts, ensemble)
    return feature_cosines(images, texts) + alpha * codes


def prototypes(prompts: Prompts) -> Tensor:
    """Return each class's features ``(c, d)``: the normalised mean of its normalised prompts."""
    return unit(prompts.class_means(unit(prompts.values)))


def feature_cosines(images: Tensor, prompts: Prompts) -> Tensor:
    """Return ``cos(x_v, x_l)`` of each image and class, ``(n, c)``: plain CLIP."""
    return unit(images) @ prototypes(prompts).T


def code_cosines(coder: Coder, images: Tensor, prompts: Prompts, ensemble: str = "prototype") -> Tensor:
    """Return ``cos(h_v, h_l)`` of each image and class by the codes of a coder, ``(n, c)``."""
    if ensemble == "prototype":
        class_codes = unit(coder(prototypes(prompts), "language"))
    else:
        class_codes = unit(prompts.class_means(unit(coder(prompts.values, "language"))))
    size = max(1, ELEMENTS_AT_ONCE // class_codes.shape[1])
    return torch.cat([unit(coder(part, "vision")) @ class_codes.T for part in images.split(size)])


def sharpened_cosines(images: Tensor, prompts: Prompts, power: float) -> Tensor:
    """Return the mean over each class's prompts of ``sign(cos) |cos|^power``, ``(n, c)``: no concepts, sharper cosines.

    With one prompt a class it rises with the plain cosine, so that adding it changes no prediction.
    """
    cosines = unit(images) @ unit(prompts.values).T
    return prompts.class_means((cosines.sign() * cosines.abs() ** power).T).T


def unit(x: Tensor) -> Tensor:
    """Return rows at length 1; a row of zeros stays."""
    return functional.normalize(x, dim=-1, eps=1e-12)
