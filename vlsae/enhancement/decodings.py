"""The ways of decoding that a claim about concepts is held against (R0 to R10), and which of them run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from vlsae.bounds import OneOf
from vlsae.errors import UserError

#: Seeds below which the spread between them says nothing.
SEEDS_OF_FULL = 3

Controls = Annotated[str, OneOf("core", "full")]


@dataclass(frozen=True)
class Decoding:
    """A way of decoding: its number among the controls, what it tells apart, and how.

    ``sample``: tokens are drawn at temperature 1, else the likeliest is taken. ``second``: what a second pass over the
    same prefix changes: ``concepts`` (the method's shift), ``reconstruction`` (the shift without the image's concepts),
    ``random`` (a random direction as long as the shift), ``other_image``, ``auxiliary`` (the auxiliary autoencoder
    alone) or ``noise`` (VCD's picture). ``mixed``: whether the second pass's logits count. ``mask``: which tokens are
    left out: none, those less likely than the method's share of the best one (``own``), or than VCD's (``vcd``).
    """

    name: str
    control: str
    isolates: str
    sample: bool
    second: str | None = None
    mask: str | None = None

    @property
    def needs_dictionary(self) -> bool:
        """Whether concepts take part."""
        return self.second not in (None, "noise")


METHOD = "vl_sae"

DECODINGS = (
    Decoding("regular", "R0", "nothing: sampling", True),
    Decoding("greedy", "R1", "truncation at its most", False),
    Decoding("mask", "R2", "truncation as the method uses it", True, mask="own"),
    Decoding("shift", "R3", "the shift alone", True, "concepts"),
    Decoding(METHOD, "R4", "the method", True, "concepts", "own"),
    Decoding("reconstruction", "R5", "smoothing, without the image's concepts", True, "reconstruction", "own"),
    Decoding("random_direction", "R6", "any disturbance of that size", True, "random", "own"),
    Decoding("other_image", "R7", "whether it must be this image", True, "other_image", "own"),
    Decoding("auxiliary", "R8", "concepts beside the auxiliary autoencoder", True, "auxiliary", "own"),
    Decoding("shift_greedy", "R9", "the shift where nothing is drawn", False, "concepts"),
    Decoding("vcd", "R10", "a rival, as published", True, "noise", "vcd"),
    Decoding("vcd_masked", "R10", "a rival at equal truncation", True, "noise", "own"),
)

CORE = ("R0", "R1", "R2", "R4", "R9")

#: What each must beat for the effect to be the concepts': the same truncation without them.
COUNTERPARTS = {METHOD: "mask", "shift_greedy": "greedy"}


def decodings(controls: str) -> list[Decoding]:
    """Return the ways of decoding of a set of controls, ``core`` or ``full``, in their order."""
    return [one for one in DECODINGS if controls == "full" or one.control in CORE]


def seeds_of(controls: str, seeds: Sequence[int] | None, first: int) -> list[int]:
    """Return the seeds that are drawn from: those given, else the first, and two more where all controls run.

    Raises :class:`~vlsae.errors.UserError` for a seed twice and for too few of them with all controls.
    """
    if seeds is None:
        return list(range(first, first + SEEDS_OF_FULL)) if controls == "full" else [first]
    if len(set(seeds)) != len(seeds) or not seeds:
        raise UserError(f"task.seeds={list(seeds)} must be different seeds, at least one.", "Leave out the second.")
    if controls == "full" and len(seeds) < SEEDS_OF_FULL:
        raise UserError(
            f"task.controls=full compares spreads over seeds, and task.seeds names {len(seeds)}.",
            f"Name at least {SEEDS_OF_FULL}: task.seeds=[0,1,2]",
        )
    return list(seeds)


def distinct_seeds(one: Decoding, seeds: Sequence[int]) -> list[int]:
    """Return the seeds of a decoding that give answers of their own: all where tokens are drawn, else the first."""
    return list(seeds) if one.sample else list(seeds[:1])
