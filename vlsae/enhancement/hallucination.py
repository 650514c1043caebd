"""Hallucination mitigation: shifting text tokens towards the image's concepts, and contrastive decoding.

b sequences, s tokens, d width, n rows of logits.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from vlsae.bounds import check_finite_number
from vlsae.errors import UserError, unknown
from vlsae.training.rows import InvalidRows

MIXES = ("convex", "additive", "replace_missing")


def token_shift(
    hidden: Tensor,
    image_mask: Tensor,
    text_mask: Tensor,
    dictionary: Any,
    autoencoder: Any,
    alpha: float,
    beta: float,
    mix: str = "convex",
) -> Tensor:
    """Return hidden states whose text tokens are moved towards what the image's concepts say (VL-SAE, token shift).

    With m_v, m_l the means over image and text tokens, h̃ the mix of their codes and r its reconstruction, each text
    token gains ``alpha · (r - m_l)``, so their mean becomes ``(1 - alpha) m_l + alpha r``. ``hidden (b, s, d)``, masks
    ``(b, s)`` bool. ``mix``: ``convex`` (1 - β)h_l + βh_v, the published code's; ``additive`` h_l + βh_v;
    ``replace_missing`` adds βh_v where h_l is silent. ``autoencoder`` None: the dictionary reads the states themselves.
    Other tokens are copied bit for bit; ``alpha = 0`` copies all. Raises ``ValueError`` for wrong shapes, a sequence
    without image or text tokens, tokens that are both, or an unknown mix.
    """
    _check_masks(hidden, image_mask, text_mask)
    if mix not in MIXES:
        raise unknown("mix", mix, MIXES)
    check_finite_number("alpha", alpha)
    check_finite_number("beta", beta)
    if alpha == 0:
        return hidden.clone()
    states = hidden.to(next(dictionary.parameters()).dtype)
    means = masked_mean(states, image_mask), masked_mean(states, text_mask)
    return moved(hidden, text_mask, text_shift(*means, dictionary, autoencoder, alpha, beta, mix))


def text_shift(
    mean_vision: Tensor,
    mean_text: Tensor,
    dictionary: Any,
    autoencoder: Any,
    alpha: float,
    beta: float,
    mix: str = "convex",
) -> Tensor:
    """Return what each text token gains, ``alpha · (r - m_l)`` ``(b, d)``, of the means ``(b, d)`` of both streams."""
    vision, text = mean_vision, mean_text
    if autoencoder is not None:
        vision, text = autoencoder.encode(mean_vision, "vision"), autoencoder.encode(mean_text, "language")
    code_vision = dictionary.encode(vision, "vision").to_dense()
    code_text = dictionary.encode(text, "language").to_dense()
    rebuilt = dictionary.decode(mix_codes(code_text, code_vision, beta, mix), "language")
    if autoencoder is not None:
        rebuilt = autoencoder.decode(rebuilt, "language")
    return alpha * (rebuilt - mean_text)


def moved(hidden: Tensor, text_mask: Tensor, shift: Tensor) -> Tensor:
    """Return hidden states ``(b, s, d)`` whose text tokens ``(b, s)`` gained ``shift (b, d)``; others bit for bit."""
    gained = (hidden.to(shift.dtype) + shift[:, None, :]).to(hidden.dtype)
    return torch.where(text_mask[:, :, None], gained, hidden)


def masked_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the mean ``(b, d)`` of the states ``(b, s, d)`` that a mask ``(b, s)`` selects, at least one each."""
    weights = mask.to(hidden.dtype)[:, :, None]
    return torch.where(mask[:, :, None], hidden, torch.zeros_like(hidden)).sum(dim=1) / weights.sum(dim=1)


def mix_codes(text: Tensor, vision: Tensor, beta: float, mix: str = "convex") -> Tensor:
    """Return the mix ``(b, h)`` of dense codes ``(b, h)``, with up to 2k active concepts."""
    if mix == "convex":
        return (1 - beta) * text + beta * vision
    if mix == "additive":
        return text + beta * vision
    if mix == "replace_missing":
        return text + beta * torch.where(text == 0, vision, torch.zeros_like(vision))
    raise unknown("mix", mix, MIXES)


def mix_logits(clean: Tensor, shifted: Tensor, alpha: float, beta: float) -> Tensor:
    """Return ``(1 - alpha) clean + alpha shifted``, −inf where clean is below ``max clean + ln beta``.

    ``(n, vocabulary)`` each; the clean argmax is always kept. The mask comes from the clean pass, before temperature.
    Raises ``ValueError`` for shapes that differ, ``beta`` outside 0…1, and NaN or inf.
    """
    _check_logits(clean, shifted, alpha, beta)
    # Where the shifted pass has no say, its −inf must not become NaN.
    return _masked(clean if alpha == 0 else (1 - alpha) * clean + alpha * shifted, clean, beta)


def vcd_logits(clean: Tensor, noisy: Tensor, alpha: float, beta: float) -> Tensor:
    """Return ``(1 + alpha) clean - alpha noisy``, masked as in :func:`mix_logits` (VCD, Leng et al. 2024).

    ``(n, vocabulary)`` each. Raises as :func:`mix_logits` does.
    """
    _check_logits(clean, noisy, alpha, beta)
    return _masked(clean if alpha == 0 else (1 + alpha) * clean - alpha * noisy, clean, beta)


def plausible(clean: Tensor, beta: float) -> Tensor:
    """Return which tokens ``(n, vocabulary)`` the mask leaves, those not below ``max clean + ln beta``."""
    threshold = clean.max(dim=-1, keepdim=True).values + (math.log(beta) if beta > 0 else -math.inf)
    return clean >= threshold


def vcd_noise_schedule(steps: int = 1000) -> Tensor:
    """Return ᾱ ``(steps,)``, float32: the share of variance that the picture keeps after each step of VCD's noise."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise UserError(f"steps must be an integer of at least 1; got {steps!r}.")
    betas = torch.sigmoid(torch.linspace(-6, 6, steps, dtype=torch.float64)) * (0.5e-2 - 1e-5) + 1e-5
    return (1 - betas).cumprod(0).float()


def _check_logits(clean: Tensor, other: Tensor, alpha: float, beta: float) -> None:
    """Raise ``ValueError`` for wrong shapes and numbers; −inf is a forbidden token, NaN and inf are no logits."""
    if clean.ndim != 2 or clean.shape != other.shape:
        shapes = f"{tuple(clean.shape)} and {tuple(other.shape)}"
        raise UserError(f"Logits of both passes must have one shape (n, vocabulary); got {shapes}.")
    check_finite_number("alpha", alpha)
    check_finite_number("beta", beta, low=0, high=1)
    for name, logits in (("clean", clean), ("the other pass", other)):
        bad = (logits.isnan() | logits.isposinf()).any(dim=1)
        if bad.any():
            raise InvalidRows("logits that are NaN or inf", name, bad)


def _masked(mixed: Tensor, clean: Tensor, beta: float) -> Tensor:
    masked = mixed.masked_fill(~plausible(clean, beta), -math.inf)
    # A model may itself forbid every kept token; the clean logits then decide.
    forbidden = torch.isneginf(masked).all(dim=-1, keepdim=True)
    return torch.where(forbidden, clean, masked)


def _check_masks(hidden: Tensor, image_mask: Tensor, text_mask: Tensor) -> None:
    if hidden.ndim != 3:
        raise UserError(f"hidden has shape {tuple(hidden.shape)}; (b, s, d) was expected.")
    for name, mask in (("image_mask", image_mask), ("text_mask", text_mask)):
        if mask.shape != hidden.shape[:2] or mask.dtype != torch.bool:
            expected = f"bool of shape {tuple(hidden.shape[:2])} was expected"
            raise UserError(f"{name} is {mask.dtype} of shape {tuple(mask.shape)}; {expected}.")
        empty = (~mask.any(dim=1)).nonzero().flatten().tolist()
        if empty:
            raise UserError(f"{name} selects no token of the sequences {empty}.")
    both = (image_mask & text_mask).any(dim=1).nonzero().flatten().tolist()
    if both:
        raise UserError(f"image_mask and text_mask select the same token in the sequences {both}.")
    used = hidden[image_mask | text_mask]
    if not torch.isfinite(used).all():
        bad = (~torch.isfinite(hidden) & (image_mask | text_mask)[:, :, None]).any(dim=2).any(dim=1)
        raise UserError(f"hidden is not finite in the sequences {bad.nonzero().flatten().tolist()}.")
