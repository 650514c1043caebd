"""What a CLIP makes of steered images: how likely each of a pool of captions is, by softmax over their cosines.

The captions fall into those with the wanted content and those without. The chance of the former is the wanted effect;
how the chances within each part move is the damage. n images, p captions, d width.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from vlsae.enhancement.dose_response import Output, Response
from vlsae.enhancement.steering import Change
from vlsae.enhancement.zero_shot import unit
from vlsae.errors import UserError
from vlsae.models.base import Model


class CaptionOutput(Output):
    """Captions ``(p, d)`` of which ``wanted_texts (p,)`` have what is wanted, seen from images ``(n, d)``.

    The Kullback–Leibler divergence of all chances from the clean ones is that of the two parts plus that within them
    (chain rule); only the latter is damage. ``under`` gives the images under a change; by default it is applied to them
    as they are. Raises ``ValueError`` where either part has fewer than two captions.
    """

    wanted = "share of the model's chances that go to captions with what is wanted, beyond the clean share"
    damage = "divergence in nats of the chances among captions with it, and among those without, from the clean ones"
    unit = "share of chances"

    def __init__(
        self,
        images: Tensor,
        captions: Tensor,
        wanted_texts: np.ndarray,
        scale: float,
        under: Callable[[Change], Tensor] | None = None,
    ) -> None:
        self._under = under or (lambda change: change(images))
        self._texts = unit(captions)
        self._wanted = torch.from_numpy(np.asarray(wanted_texts, bool))
        self._scale = scale
        counts = int(self._wanted.sum()), int((~self._wanted).sum())
        if min(counts) < 2 or not len(images):
            raise UserError(
                f"{len(images)} images can be steered, {counts[0]} captions have what is wanted, {counts[1]} lack it.",
                "Take more data, or a concept that some samples have and others lack.",
            )
        self._clean = self._chances(images)

    def respond(self, change: Change | None) -> Response:
        """Return the gain of the wanted captions and the divergence within both parts, by image."""
        steered = self._clean if change is None else self._chances(self._under(change))
        share, clean_share = (log[:, self._wanted].exp().sum(dim=1) for log in (steered, self._clean))
        damage = torch.zeros(len(steered), dtype=torch.float64)
        for part in (self._wanted, ~self._wanted):
            inside, before = (log[:, part] for log in (steered, self._clean))
            weight = before.exp().sum(dim=1)
            inside, before = (torch.log_softmax(log, dim=1) for log in (inside, before))
            damage += weight * (before.exp() * (before - inside)).sum(dim=1)
        return Response((share - clean_share).numpy(), damage.clamp(min=0).numpy())

    @property
    def clean_share(self) -> np.ndarray:
        """The chance of wanted captions ``(n,)`` before anything is changed."""
        return self._clean[:, self._wanted].exp().sum(dim=1).numpy()

    def _chances(self, images: Tensor) -> Tensor:
        return torch.log_softmax(self._scale * (unit(images) @ self._texts.T).double(), dim=1)


def scale_of(model: Model, given: float | None) -> float:
    """Return what a contrastive model multiplies its cosines by before the softmax.

    Raises :class:`~vlsae.errors.UserError` for a model that does not say and without one given.
    """
    if given is not None:
        return given
    own = getattr(getattr(model, "module", None), "logit_scale", None)
    if own is None:
        raise UserError("The model does not say how it scales its cosines.", "Give it: task.scale=20")
    return float(own.detach().exp())
