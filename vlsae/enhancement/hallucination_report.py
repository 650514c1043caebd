"""What is shown of hallucinations: gains with their verdicts, answers that changed both ways, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vlsae.enhancement import chair_results, pope_results
from vlsae.enhancement.chair import chair_mentions
from vlsae.enhancement.pope import pope_outcomes
from vlsae.enhancement.resampled import Gain, Resampled, gain
from vlsae.result import Measure, Table

if TYPE_CHECKING:
    from vlsae.enhancement.answering import Spent

Found = Mapping[str, Resampled]

NAMES = {"f1/mean": "F1", "chair_i": "CHAIR_I"}


def gains(
    measure: str, name: str, sign: int, found: Found, rivals: Mapping[str, str], counterparts: Mapping[str, str]
) -> tuple[dict[str, Measure], list[str]]:
    """Return what methods gain over their rivals and their counterparts without concepts, and what that shows.

    An effect of the concepts is claimed only where every method that uses them beats the same truncation without them:
    by an interval that leaves out zero, and with each seed above each of the other's.
    """
    metrics: dict[str, Measure] = {}
    words, sure = [], []
    better = "more is better" if sign > 0 else "less is better"
    for own, rival in dict.fromkeys((*rivals.items(), *counterparts.items())):
        one, other = gain(found[own], found[rival], name, sign), gain(found[rival], found[own], name, sign)
        unit = f"{NAMES[name]}, {better}"
        metrics[f"gain/{measure}/{own}_over_{rival}"] = Measure(one.difference, unit, one.low, one.high)
        verdict = "better" if one.sure else "worse" if other.sure else "no difference beyond the spread"
        words.append(f"{measure.upper()}: {own} over {rival}: {NAMES[name]} {_signed(one)}, {verdict}.")
        if counterparts.get(own) == rival:
            sure.append(one.sure)
    pairs = " and ".join(f"{own} better than {rival}" for own, rival in counterparts.items())
    spread = "beyond the spread of pictures and seeds"
    if all(sure):
        words.append(f"{measure.upper()}: an effect of the concepts: {pairs}, {spread}.")
    else:
        words.append(f"{measure.upper()}: no effect of the concepts is shown, which would be {pairs}, {spread}.")
    return metrics, words


def tables_and_plots(
    measure: str, found: Found, settings: Sequence[str], control: Mapping[str, str]
) -> tuple[list[Table], list[Any]]:
    """Return the tables and figures of a measure, a row a method."""
    if measure == "pope":
        tables = [
            pope_results.pope_short_table(found, settings, control),
            pope_results.pope_table(found, settings, control),
        ]
        return tables, [pope_results.pope_plot(found, settings)]
    tables = [chair_results.chair_short_table(found, control), chair_results.chair_table(found, control)]
    return tables, [chair_results.chair_plot(found)]


def changes_table(
    measure: str, items: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], before: str, after: str, task: Any
) -> Table:
    """Return answers of the first seed that the method mended and broke, the first of each kind."""
    judged = _pope_right if measure == "pope" else _chair_absent
    first = judged(items[before][0], task), judged(items[after][0], task)
    rows: list[list[Any]] = []
    shown: list[int] = []
    for kind, better in (("mended", True), ("broken", False)):
        changed = [
            number for number, (one, two) in enumerate(zip(*first)) if one != two and (two > one) == better
        ]  # fmt: skip
        for number in changed[: task.examples]:
            old, new = items[before][0][number], items[after][0][number]
            label = old["label"] if isinstance(old["label"], str) else ", ".join(old["label"])
            rows.append([kind, len(changed), old["image"], old["input"], label, old["answer"], new["answer"]])
            shown.append(number)
    columns = ["change", "of", "image", "input", "label", before, after]
    text = "The first of each kind, of the first seed; all answers are in samples.jsonl."
    title, pictures = f"{measure.upper()}: answers that changed", task.small_pictures(measure, shown)
    return Table(f"{measure}_changes", title, columns, rows, text if rows else "No answer changed.", pictures=pictures)


def cost_table(spent: Mapping[str, Spent], control: Mapping[str, str]) -> Table:
    """Return the time of each way of decoding, as a multiple of sampling's, of the answers that this process gave."""
    base = spent.get("regular")
    each = None if base is None or not base.answers else base.seconds / base.answers
    rows = []
    for name, one in spent.items():
        seconds = one.seconds / one.answers if one.answers else None
        ratio = None if seconds is None or not each else seconds / each
        is_open = one.open / one.chosen if one.chosen else None
        each_answer = seconds and 1000 * seconds
        rows.append([name, control.get(name, ""), one.answers, one.tokens, is_open, one.seconds, each_answer, ratio])
    columns = ["method", "control", "answers", "tokens", "open", "seconds", "ms an answer", "of regular"]
    text = (
        "Of the answers that this process gave. open: share of tokens at which the mask left more than one to choose; "
        "elsewhere nothing that is mixed in can change an answer."
    )
    return Table("cost", "Time of each way of decoding", columns, rows, text)


def _pope_right(items: Sequence[Mapping[str, Any]], task: Any) -> list[int]:
    outcomes = pope_outcomes([one["answer"] for one in items], [one["label"] for one in items], task.parser)
    return [int(outcome in ("tp", "tn")) for outcome in outcomes]


def _chair_absent(items: Sequence[Mapping[str, Any]], task: Any) -> list[int]:
    """Return minus the number of absent objects that each caption mentions."""
    words = task.words
    return [-sum(one not in item["label"] for one in chair_mentions(item["answer"], words)) for item in items]


def _signed(one: Gain) -> str:
    if one.difference is None or one.low is None or one.high is None:
        return "undefined"
    return f"{one.difference:+.3f} ({one.low:+.3f} to {one.high:+.3f})"
