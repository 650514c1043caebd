"""POPE: yes/no questions about objects (Li et al. 2023), with a whole-word parser and the published one."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence

from vlsae.errors import UserError, VlsaeWarning, unknown

PARSERS = ("word", "reference")

_YES_OR_NO = re.compile(r"\b(yes|no)\b")


def pope_scores(answers: Sequence[str], labels: Sequence[str], parser: str = "word") -> dict[str, float]:
    """Return ``tp, fp, tn, fn, unparsed, n, accuracy, precision, recall, f1, yes_ratio`` of answers against labels.

    ``labels`` are ``"yes"`` or ``"no"``; yes is positive. ``word``: the first whole word yes or no counts; an answer
    with neither is unparsed, a miss for yes and neither a rejection nor an alarm for no. ``reference``: the published
    code's substring match. Zero denominators give 0 with a warning. Raises ``ValueError`` for lists
    of unequal length, other labels, an answer that is no text, or an unknown parser.
    """
    outcomes = pope_outcomes(answers, labels, parser)
    counts = {name: outcomes.count(name) for name in ("tp", "fp", "tn", "fn")}
    counts["unparsed"] = sum(said(answer) is None for answer in answers)
    return {**counts, **_ratios(counts, len(outcomes))}


def pope_outcomes(answers: Sequence[str], labels: Sequence[str], parser: str = "word") -> list[str | None]:
    """Return what each answer is: ``tp``, ``fp``, ``tn``, ``fn``, or None for one to a no that says neither.

    Raises as :func:`pope_scores` does.
    """
    if parser not in PARSERS:
        raise unknown("parser", parser, PARSERS)
    if len(answers) != len(labels):
        raise UserError(f"answers and labels must be of one length; got {len(answers)} and {len(labels)}.")
    for number, answer in enumerate(answers):
        if not isinstance(answer, str):
            raise UserError(f"answers must be texts; answer {number} is {answer!r}.")
    truth = [str(label).strip().lower() for label in labels]
    wrong = [number for number, label in enumerate(truth) if label not in ("yes", "no")]
    if wrong:
        raise UserError(f"labels must be 'yes' or 'no'; label {wrong[0]} is {labels[wrong[0]]!r}.")
    if parser == "reference":
        return [_reference_outcome(answer, label) for answer, label in zip(answers, truth)]
    return [_outcome(said(answer), label) for answer, label in zip(answers, truth)]


def said(answer: str) -> str | None:
    """Return the first whole word ``yes`` or ``no`` of an answer, None where it says neither."""
    match = _YES_OR_NO.search(answer.lower())
    return match[1] if match else None


def _outcome(word: str | None, label: str) -> str | None:
    if label == "yes":
        return "tp" if word == "yes" else "fn"
    return {"no": "tn", "yes": "fp", None: None}[word]


def _reference_outcome(answer: str, label: str) -> str:
    if label == "yes":
        return "tp" if "yes" in answer.lower() else "fn"
    return "tn" if "no" in answer.lower() else "fp"


def _ratios(counts: dict[str, int], n: int) -> dict[str, float]:
    tp, fp, tn, fn = (counts[name] for name in ("tp", "fp", "tn", "fn"))
    precision, recall = _ratio(tp, tp + fp, "precision"), _ratio(tp, tp + fn, "recall")
    return {
        "n": n,
        "accuracy": _ratio(tp + tn, n, "accuracy"),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        "yes_ratio": _ratio(tp + fp, n, "yes_ratio"),
    }


def _ratio(numerator: int, denominator: int, name: str) -> float:
    if denominator:
        return numerator / denominator
    warnings.warn(f"POPE's {name} has nothing to divide by and is given as 0.", VlsaeWarning, stacklevel=4)
    return 0.0
