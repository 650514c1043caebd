"""What every task offers: one evaluation, called without the concepts and with them.

n items, d width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from vlsae.enhancement.items import Items
from vlsae.result import Result

if TYPE_CHECKING:
    import numpy as np

    from vlsae.dictionaries import AuxiliaryAutoencoder, Dictionary
    from vlsae.models.base import Model
    from vlsae.representations import Store


@dataclass(frozen=True)
class Evaluation(Result):
    """A result whose numbers can be compared item by item with those of another evaluation of the same items.

    ``scores`` maps a metric that is a mean over items to the items' own scores ``(n,)``; ``replicates`` one that is
    no mean to its bootstrap resamples ``(B,)``, drawn alike (:func:`vlsae.statistics.multinomial_weights`) each time.
    """

    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    replicates: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass
class Work:
    """What a stage lends a task; by itself a task works in memory, with nothing known of the concepts but their codes.

    ``store``: representations of the task's data; ``training`` and ``sites``: those that the dictionary learned from,
    and by stream where; ``concepts``: lines of its ``concepts.jsonl``, with names where a file of names was given;
    ``auxiliary``: what maps those sites to the dictionary's input; ``rivals``: dictionaries trained alike, as controls;
    ``folder``: where the task may leave files of its own; ``split``: by which shares the dictionary's data was split.
    """

    items: Items = field(default_factory=Items)
    store: Store | None = None
    training: Store | None = None
    sites: Mapping[str, str] = field(default_factory=dict)
    concepts: Sequence[Mapping[str, Any]] = ()
    auxiliary: AuxiliaryAutoencoder | None = None
    rivals: Mapping[str, Dictionary] = field(default_factory=dict)
    folder: Path | None = None
    seed: int = 0
    resamples: int = 1000
    limit: int | None = None
    split: Mapping[str, Any] = field(default_factory=lambda: {"seed": 0, "validation": 0.2, "test": 0.0})


class Task(ABC):
    """Something that a model does, which its concepts may change; ``data`` is what it is done on, if anything."""

    #: Sites of the model whose rows of the task's data the stage extracts beforehand.
    sites: ClassVar[tuple[str, ...]] = ()
    #: Sites that its dictionary has to read; none where any will do.
    reads: ClassVar[tuple[str, ...]] = ()
    #: Whether evaluating without a dictionary says something to compare with.
    compares: ClassVar[bool] = True

    data: Any = None

    @cached_property
    def work(self) -> Work:
        """What the stage lends; replaced as a whole."""
        return Work()

    @classmethod
    def wants_sites(cls, settings: Mapping[str, Any], model: type) -> tuple[str, ...]:
        """Return the sites whose rows of the task's data are extracted beforehand, for a class of models."""
        return cls.sites

    @classmethod
    def check(cls, settings: Mapping[str, Any]) -> None:
        """Raise :class:`~vlsae.errors.UserError` for settings that cannot work, before anything upstream is made."""
        return

    @classmethod
    def check_model(cls, settings: Mapping[str, Any], model: type) -> None:
        """Raise :class:`~vlsae.errors.UserError` for a class of models that the task cannot work on."""
        return

    @classmethod
    def wants_model(cls, settings: Mapping[str, Any]) -> bool:
        """Tell whether a task of these settings needs the model's weights at all."""
        return True

    @classmethod
    def training_sites(cls, settings: Mapping[str, Any], model: Model) -> Sequence[str] | None:
        """Return where a dictionary for the task is trained unless the user says so; None: as the training says."""
        return None

    @classmethod
    def cost(cls, settings: Mapping[str, Any], data: Any, limit: int | None) -> int | None:
        """Return how many items are answered in all, nothing loaded; None where that is not known beforehand."""
        return None

    @classmethod
    def wants_dictionary(cls, settings: Mapping[str, Any]) -> bool:
        """Tell whether a task of these settings needs a dictionary at all."""
        return True

    @classmethod
    def wants_rivals(cls, settings: Mapping[str, Any]) -> list[str]:
        """Return the names of the rivals that a task of these settings compares with."""
        return []

    @abstractmethod
    def evaluate(self, model: Model, dictionary: Dictionary | None) -> Result:
        """Return how the task goes: without a dictionary the model alone, with one its concepts put to use.

        Raises :class:`~vlsae.errors.UserError` for settings that do not fit the data.
        """
