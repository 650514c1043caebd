"""dataset=concept_tasks: the nine two-class tasks of concept depth, each laid out as a question to the model.

After Jin et al. (2024, arXiv 2404.07066): which part comes first in which task is theirs, the words are ours.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from vlsae.bounds import OneOf, Range, conform
from vlsae.datasets.base import Dataset
from vlsae.datasets.text import Text
from vlsae.errors import MissingFile, UserError, unknown

if TYPE_CHECKING:
    import datasets as hf

#: Where a task's text stands in its question. Facts are asked for before it, feelings behind it; some end with a cue.
LAYOUTS = {
    "cities": "Is this statement about a city true or false? {text}",
    "common_claim": "Is this claim true or false? {text}",
    "counterfact": "Is this statement a fact or not? {text}",
    "stsa": "{text} Is the feeling of this sentence good or bad?",
    "imdb": "{text} Does the writer like this film or not?",
    "sarcasm": "Is this headline serious or sarcastic? {text} It is",
    "hateeval": "{text} Is this message full of hate or not?",
    "strategyqa": "Answer this question with yes or no. {text} The answer is",
    "coinflip": "{text} Is the coin heads up, yes or no?",
}

#: The task whose table has its question in a column of its own, beside an explanation that gives the answer away.
EXPLAINED, QUESTION = "strategyqa", "question"

Layout = Annotated[str, OneOf("task", "text")]


class ConceptTasks(Dataset):
    """Tables of the nine tasks from a folder, ``TASK.csv`` each with the columns text and label, a source each.

    ``layout`` ``task`` puts a text into its task's question, ``text`` leaves it as it is. ``prompt`` replaces the
    question's words in every task by the same ones (the released code does, by mistake). At most ``samples`` of a task
    are drawn, whole groups. ``explanation`` also shows the explanation of ``strategyqa``, which tells the answer.
    """

    def __init__(
        self,
        *,
        path: str,
        tasks: list[str] | None = None,
        layout: Layout = "task",
        prompt: str | None = None,
        samples: Annotated[int, Range(2, None)] | None = None,
        explanation: bool = False,
        seed: Annotated[int, Range(0, 2**32 - 1)] = 0,
    ) -> None:
        conform("layout", layout, Layout)
        self.path, self.layout, self.prompt = Path(path).expanduser(), layout, prompt
        self.samples, self.explanation, self.seed = samples, explanation, seed
        for task in tasks or ():
            if task not in LAYOUTS:
                raise unknown("task of dataset.tasks", task, LAYOUTS)
        self._asked = tasks

    @cached_property
    def tasks(self) -> list[str]:
        """The tasks that are read: those asked for, or all whose tables are there."""
        there = [task for task in LAYOUTS if (self.path / f"{task}.csv").is_file()]
        missing = [task for task in self._asked or () if task not in there]
        if missing or not there:
            raise MissingFile(
                f"{self.path} holds no {missing[0] if missing else 'table of a task'}"
                f"{'.csv' if missing else f' ({next(iter(LAYOUTS))}.csv, …)'}.",
                "Name the folder of the tasks' tables: dataset.path=FOLDER",
            )
        return list(dict.fromkeys(self._asked or there))

    @property
    def has_images(self) -> bool:
        """Whether samples carry an image: never."""
        return False

    def images(self, indices: Any) -> Any:
        """Raise ``UserError``: there are none."""
        raise UserError("dataset=concept_tasks has no images.", "Choose language sites only, such as language.last.")

    @cached_property
    def table(self) -> hf.Dataset:
        """One row a text, laid out; ``source`` names its task."""
        from datasets import concatenate_datasets

        return concatenate_datasets([self._of_task(task) for task in self.tasks])

    def digest(self) -> str:
        """Return the SHA-256 over the tables and the settings."""
        names = ("tasks", "layout", "prompt", "samples", "explanation", "seed")
        settings = {**{name: getattr(self, name) for name in names}, "layouts": LAYOUTS}
        total = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for task in self.tasks:
            total.update(f"{task}\0{self._text(task).digest()}\n".encode())
        return total.hexdigest()

    def _text(self, task: str) -> Text:
        column = QUESTION if task == EXPLAINED and not self.explanation else "text"
        return Text(path=str(self.path / f"{task}.csv"), columns={"text": column, "label": "label"})

    def _of_task(self, task: str) -> hf.Dataset:
        table = self._text(task).table
        table = table.select(_drawn(table["group"], self.samples, self.seed))

        def laid(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
            return {
                "sample_id": [f"{task}/{one}" for one in batch["sample_id"]],
                "group": [f"{task}/{one}" for one in batch["group"]],
                "texts": [[self._laid(task, text) for text in texts] for texts in batch["texts"]],
                "source": [task] * len(batch["texts"]),
            }

        return table.map(laid, batched=True, keep_in_memory=True)

    def _laid(self, task: str, text: str) -> str:
        if self.layout == "text":
            return text
        before, after = (part.strip() for part in LAYOUTS[task].split("{text}"))
        if self.prompt is not None:
            before, after = (self.prompt if part else "" for part in (before, "" if before else after))
        return " ".join(part for part in (before, text, after) if part)


def _drawn(groups: list[str], most: int | None, seed: int) -> np.ndarray:
    """Return the rows of whole groups, ascending, drawn until there are enough; all where they are few."""
    if most is None or len(groups) <= most:
        return np.arange(len(groups))
    numbers = np.unique(groups, return_inverse=True)[1]
    place = np.random.default_rng(seed).permutation(numbers.max() + 1)[numbers]
    return np.sort(np.argsort(place, kind="stable")[:most])
