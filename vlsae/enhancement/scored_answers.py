"""POPE and CHAIR of answers that are there already, by whose they are."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlsae.enhancement.answer_files import Answers, read_answers
from vlsae.enhancement.hallucination_report import tables_and_plots
from vlsae.enhancement.measures import RANKED, measured
from vlsae.enhancement.object_prompts import object_words
from vlsae.enhancement.pope_results import unparsed_words
from vlsae.errors import UserError
from vlsae.result import Measure, Result, Table

if TYPE_CHECKING:
    from vlsae.enhancement.task import Work


def scored_answers(path: str, truth: str | None, synonyms: str | None, data: Any, parser: str, work: Work) -> Result:
    """Return the figures of a file of answers (:func:`vlsae.enhancement.answer_files.read_answers`).

    Without ``synonyms`` the words for objects are the ``data``'s, but for captions whose objects ``truth`` names.
    """
    start = time.perf_counter()
    metrics: dict[str, Measure] = {}
    tables: list[Table] = []
    plots: list[Any] = []
    headline: list[str] = []
    notes: list[str] = []
    for one in read_answers(path, truth):
        check_words(one, path, truth, synonyms)
        words = {} if one.measure == "pope" else object_words(data, synonyms)
        found = {
            group: measured(one.measure, [items], words, parser, resamples=work.resamples, seed=work.seed)
            for group, items in one.groups.items()
        }
        _keep(one, work)
        settings = list(dict.fromkeys(str(item.get("setting")) for items in one.groups.values() for item in items))
        shown, drawn = tables_and_plots(one.measure, found, settings, {})
        tables += shown
        plots += drawn
        notes += unparsed_words(found, parser) if one.measure == "pope" else []
        endings = {group: "" if len(found) == 1 else f"/{group}" for group in found}
        for group, each in found.items():
            metrics |= {name + endings[group]: value for name, value in each.measures.items()}
        headline += [RANKED[one.measure][0] + endings[group] for group in found]
    metrics["scoring_time"] = Measure(time.perf_counter() - start, "seconds")
    return Result(metrics, tables, plots, notes, headline)


def check_words(answers: Answers, path: str, truth: str | None, synonyms: str | None) -> None:
    """Raise :class:`~vlsae.errors.UserError` for captions about whose objects no file says the words."""
    if answers.measure == "chair" and truth is not None and synonyms is None:
        raise UserError(
            f"{Path(path).name} holds captions, and nothing says by which words objects are mentioned.",
            "Name CHAIR's synonyms: task.synonyms=FILE",
        )


def _keep(answers: Answers, work: Work) -> None:
    for group, items in answers.groups.items():
        work.items.add(
            {
                **{name: item.get(name) for name in ("input", "answer", "label", "image", "setting")},
                "id": f"{answers.measure}/{item['id']}",
                "method": group,
                "seed": work.seed,
            }
            for item in items
        )
