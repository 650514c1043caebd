"""Using the concepts: zero-shot classification, hallucination mitigation, and the scores of its benchmarks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlsae import lazy

if TYPE_CHECKING:
    from vlsae.enhancement.chair import chair_mentions, chair_scores
    from vlsae.enhancement.hallucination import mix_logits, token_shift, vcd_logits, vcd_noise_schedule
    from vlsae.enhancement.pope import pope_scores
    from vlsae.enhancement.zero_shot import zero_shot_scores

_HOMES = {
    "chair_mentions": "chair",
    "chair_scores": "chair",
    "mix_logits": "hallucination",
    "pope_scores": "pope",
    "token_shift": "hallucination",
    "vcd_logits": "hallucination",
    "vcd_noise_schedule": "hallucination",
    "zero_shot_scores": "zero_shot",
}

__all__ = [
    "chair_mentions",
    "chair_scores",
    "mix_logits",
    "pope_scores",
    "token_shift",
    "vcd_logits",
    "vcd_noise_schedule",
    "zero_shot_scores",
]

__getattr__ = lazy.exports(__name__, _HOMES)
