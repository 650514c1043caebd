"""Types with bounds, and how a misfit is said."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from vlsae.bounds import OneOf, Range, conform, misfit
from vlsae.errors import UserError

Count = Annotated[int, Range(1, None)]


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (1, Count),
        (None, Count | None),
        (None, Annotated[int | None, Range(1, None)]),
        (1, float),
        (0.5, Annotated[float, Range(0, 1)]),
        ("a", Annotated[str, OneOf("a", "b")]),
        ("a", Literal["a", "b"]),
        ([1, 2], list[int]),
        ([1, 2], tuple[int, ...]),
        ([1, "a"], tuple[int, str]),
        ({"a": 1}, dict[str, int]),
        ("x", Path),
        ("x", Any),
        ({"_target_": "vlsae.models.CLIP"}, pytest.Item),
    ],
)
def test_fits(value, annotation):
    assert misfit(value, annotation) is None


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (0, Count, "an integer at least 1"),
        (True, int, "an integer"),
        (1.0, int, "an integer"),
        (float("nan"), float, "a finite number"),
        ("1", float, "a finite number"),
        (1, bool, "true or false"),
        (None, str, "a text"),
        (2, Annotated[float, Range(0, 1)], "a finite number from 0 to 1"),
        (2, Annotated[int, Range(None, 1)], "an integer at most 1"),
        ("c", Annotated[str, OneOf("a", "b")], "a | b"),
        (0, Count | None, "an integer at least 1 or null"),
        ([1, "a"], list[int], "a list of an integer each"),
        ("ab", list[str], "a list"),
        ([1], tuple[int, str], "a list of 2 values"),
        ({"a": "b"}, dict[str, int], "a mapping of an integer each"),
        ([1], dict[str, int], "a mapping"),
    ],
)
def test_misfits(value, annotation, expected):
    assert misfit(value, annotation) == expected


def test_message_names_thing_value_rule_and_the_nearest():
    with pytest.raises(UserError) as caught:
        conform("objective.topk_mode", "exacct", Annotated[str, OneOf("exact", "reference")])
    assert str(caught.value) == "objective.topk_mode is 'exacct', expected exact | reference.\nDid you mean exact?"
