"""dataset=safety_mini: 560 short prompts written for this project, in which words tell nothing of who is helped.

Each prompt names someone who keeps a good going and someone who does a harm, and asks for help for one of the two: the
first is safe, the other unsafe. Forms and words of both classes are the same, only the roles differ, so a bag of words
is at chance. Seven axioms, 40 safe and 40 unsafe prompts each, every scene once.
"""

from __future__ import annotations

from pathlib import Path

from vlsae.datasets.litmus import Litmus

BUNDLED = Path(__file__).parent.parent / "bundled" / "texts" / "safety_mini.jsonl"


class SafetyMini(Litmus):
    """The bundled prompts."""

    def __init__(self) -> None:
        super().__init__(path=str(BUNDLED))
