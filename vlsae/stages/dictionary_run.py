"""A trained dictionary with what its run knows of it, refused for a model that it was not trained on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlsae.errors import MissingFile, UserError

if TYPE_CHECKING:
    from vlsae.dictionaries import AuxiliaryAutoencoder, Dictionary
    from vlsae.enhancement.task import Work
    from vlsae.models.base import Model
    from vlsae.representations import Store
    from vlsae.runs import Run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FittedDictionary:
    """A dictionary, the sites by stream that it reads, its concepts' statistics, and the rows it was trained on.

    ``auxiliary`` maps those rows to its input, None where it reads them themselves; ``store`` is None where the
    extraction is gone.
    """

    dictionary: Dictionary
    sites: Mapping[str, str]
    concepts: list[dict[str, Any]]
    auxiliary: AuxiliaryAutoencoder | None
    store: Store | None

    def lend(self, work: Work, names: str | Path | None) -> None:
        """Give a task what is known of the dictionary, its concepts named by a file or run of names if there is one."""
        from vlsae.dictionaries.names_file import read_names

        work.sites, work.auxiliary, work.training = self.sites, self.auxiliary, self.store
        found = {} if names is None else read_names(names)
        named = {concept: one.name for concept, one in found.items() if one.name is not None}
        strange = sorted(set(named) - {concept["id"] for concept in self.concepts})
        if strange and self.concepts:
            raise UserError(f"{names} names concept {strange[0]}, which the dictionary has not got.", "Name its own.")
        work.concepts = [
            {**concept, "name": named.get(concept["id"], concept.get("name"))} for concept in self.concepts
        ]


def fitted(run: Run, model: Model, root: Path) -> FittedDictionary:
    """Return the dictionary of a training for use in a model.

    Raises :class:`~vlsae.errors.UserError` where it was trained on another model, with the digests of both.
    """
    from vlsae.dictionaries import AuxiliaryAutoencoder, from_pretrained
    from vlsae.representations import Store

    folder, facts = run.path / "dictionary", check_model(run, model, root)
    extraction = run if facts["extraction"] == run.id else _extraction(facts["extraction"], root)
    auxiliary = AuxiliaryAutoencoder.from_pretrained(run.path / "auxiliary") if facts["auxiliary"] else None
    store = None if extraction is None else Store.open(extraction.path / "representations")
    return FittedDictionary(from_pretrained(folder), facts["sites"], _concepts(run.path), auxiliary, store)


def check_model(run: Run, model: Model, root: Path) -> dict[str, Any]:
    """Return what a training says of its dictionary's input.

    Raises :class:`~vlsae.errors.UserError` where it was trained on another model, with the digests of both.
    """
    from vlsae.dictionaries.references import read_input

    folder = run.path / "dictionary"
    if not folder.is_dir():
        raise MissingFile(f"{run.id} holds no dictionary.", "Name the training of a dictionary.")
    facts = read_input(folder)
    _refuse_other(run.id, facts.get("model") or _digest_of(_extraction(facts["extraction"], root)), model)
    return facts


def _concepts(path: Path) -> list[dict[str, Any]]:
    from vlsae.runs.files import load_json

    file = path / "concepts.jsonl"
    if not file.is_file():
        return []
    concepts = []
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        try:
            concepts.append(load_json(line))
        except ValueError as error:
            raise UserError(f"{file}, line {number}, is damaged: {error}.", "Train the dictionary anew.") from error
    return concepts


def _extraction(run_id: str, root: Path) -> Run | None:
    from vlsae.runs import input_run

    try:
        return input_run(run_id, root, "extract")
    except UserError as error:
        logger.warning("what the dictionary was trained on cannot be read: %s", error.message)
        return None


def _digest_of(extraction: Run | None) -> str | None:
    return None if extraction is None else extraction.manifest["identity"].get("digests", {}).get("model")


def _refuse_other(run_id: str, trained_on: str | None, model: Model) -> None:
    here = model.digest()
    if trained_on is None:
        logger.warning("%s does not say which model its dictionary was trained on; %s is taken", run_id, here[:12])
    elif trained_on != here:
        raise UserError(
            f"The dictionary of {run_id} was trained on the model {trained_on[:12]}, this command's is {here[:12]}.",
            f"Choose the model that it was trained on (`vlsae runs show {run_id}`), or train one on this model.",
        )
