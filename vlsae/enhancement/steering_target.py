"""What is steered: the concept that a user names, in the rows of a model, with what is wanted of it.

n rows, d width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vlsae.dictionaries.auroc import auroc
from vlsae.dictionaries.base import STREAMS, Dictionary
from vlsae.dictionaries.codes import code_matrix
from vlsae.enhancement.caption_output import CaptionOutput, scale_of
from vlsae.enhancement.concept_reference import (
    Directions,
    attribute,
    described,
    factor_names,
    is_direction,
    no_such,
    numbered,
    read_directions,
)
from vlsae.enhancement.dose_response import Output
from vlsae.enhancement.rows import BATCH, EMBEDDINGS, TaskRows, check_sites, halves, rows_of
from vlsae.enhancement.steering import Change, Edit, concept_change
from vlsae.errors import UserError
from vlsae.result import Measure, Table

if TYPE_CHECKING:
    from vlsae.enhancement.layer_images import LayerImages
    from vlsae.enhancement.tasks.steering import Steering
    from vlsae.models.base import Model


@dataclass(frozen=True)
class Target:
    """A concept to steer: what makes the change of a strength, how the model's output is read, and a control.

    ``mean_difference (d,)`` points from rows without what is wanted to rows with it; ``ids`` name the steered items.
    """

    dictionary: Any
    stream: str
    edit: Edit
    auxiliary: Any
    output: Output
    mean_difference: Tensor
    ids: Sequence[str]
    words: str
    metrics: Mapping[str, Measure] = field(default_factory=dict)
    tables: Sequence[Table] = ()

    def change(self, strength: float) -> Change:
        """Return the concept's edit at a strength."""
        return concept_change(self.dictionary, self.stream, self.edit, strength, self.auxiliary)


class Located(NamedTuple):
    """A concept by number, which images ``(n,)`` and captions ``(n,)`` have it, and how well it finds its factor."""

    concept: int
    images: np.ndarray
    texts: np.ndarray
    auroc: float | None


def caption_target(task: Steering, model: Model, dictionary: Dictionary) -> Target:
    """Return the target in the image space of a contrastive model, or at a layer of its vision tower.

    Images without the concept are steered to raise it, images with it otherwise. What is wanted are captions with the
    concept (``raise``), without it (``lower``, ``remove``), or with the other and without it (``swap``).
    """
    site = dict(task.work.sites).get("vision", EMBEDDINGS[0])
    if site == EMBEDDINGS[0]:
        check_sites(task.work.sites, EMBEDDINGS, task.work.auxiliary)
    rows = rows_of(task.work, model, task.data, EMBEDDINGS)
    choosing, scored = halves(rows)
    places = None
    if site != EMBEDDINGS[0]:
        rows, places = _at_layer(task, model, rows.take(_few(task, choosing, scored)), site)
        choosing, scored = halves(rows)
    auxiliary = None if places is None else task.work.auxiliary
    coder = _coder(task, dictionary, site, rows.values["vision"].shape[1])
    if isinstance(coder, Directions):
        auxiliary = None
    read = _read(rows, auxiliary)
    own = _located(task, 0, coder, read, choosing)
    other = None if task.other is None else _located(task, 1, coder, read, choosing)
    wanted = {"raise": own.texts, "swap": ~own.texts & other.texts if other else own.texts}.get(task.action, ~own.texts)
    steered = (~own.images if task.action == "raise" else own.images) & np.isin(np.arange(len(rows)), scored)
    images = np.flatnonzero(steered)[: task.texts]
    pool = scored[: task.texts]
    values = rows.values
    seen = None if places is None else places.take(images.tolist())
    output = CaptionOutput(
        values["vision"][images] if seen is None else seen.embeddings(None),
        values["captions"][pool] if "captions" in values else values["language"][pool],
        wanted[pool],
        scale_of(model, task.scale),
        None if seen is None else seen.embeddings,
    )
    unit = mean_activity(coder, read.values["vision"][choosing], own.concept)
    edit = Edit(task.action, own.concept, unit, _number(other))
    first = {"raise": own.images, "swap": other.images if other else own.images}.get(task.action, ~own.images)
    difference = _mean_difference(values["vision"][choosing], first[choosing])
    metrics = {
        "clean": Measure(float(output.clean_share.mean()), "share of wanted captions before"),
        "steered_items": Measure(len(images), "images"),
    }
    if own.auroc is not None:
        metrics["concept_auroc"] = Measure(own.auroc, "AUROC of the chosen concept for the factor, choosing rows")
    done = _done(task, own.concept, _number(other))
    words = f"{done} at {site} in {len(images)} images; {len(pool)} captions are judged."
    ids = [rows.ids[number] for number in images]
    return Target(coder, "vision", edit, auxiliary, output, difference, ids, words, metrics)


def _few(task: Steering, choosing: np.ndarray, scored: np.ndarray) -> np.ndarray:
    """Return the rows that are read at a layer: some to choose the concept on, some to be steered and judged."""
    return np.sort(np.concatenate([choosing[: 4 * task.texts], scored[: 2 * task.texts]]))


def _at_layer(task: Steering, model: Model, rows: TaskRows, site: str) -> tuple[TaskRows, LayerImages]:
    """Return rows whose values are those of the dictionary's layers, ``captions`` the captions' embeddings.

    Raises :class:`~vlsae.errors.UserError` for a site that is no layer of the vision tower.
    """
    from vlsae.enhancement.layer_images import LayerImages
    from vlsae.models.base import TokenSelection

    if site not in model.sites():
        raise UserError(f"The dictionary reads {site}, which the model has not got.", "Choose the model it is of.")
    if _holds_tokens(task, "vision"):
        raise UserError(
            f"The dictionary reads the tokens of {site}; a picture is steered by one row.",
            "Use a dictionary of pooled rows: extract.tokens.pooling=default",
        )
    places = LayerImages(model, task.data, rows.ids, site)
    values = {"vision": places.values(), "captions": rows.values["language"]}
    language = dict(task.work.sites).get("language")
    if language is not None:
        texts = [one[0] for one in rows.samples.column("texts").to_pylist()]
        found = []
        for first in range(0, len(texts), BATCH):
            batch = model.prepare(None, texts[first : first + BATCH])
            found.append(model.represent(batch, [language], TokenSelection())[language].values.float().cpu())
        values["language"] = torch.cat(found)
    return TaskRows(values, rows.samples, rows.split), places


def _holds_tokens(task: Steering, stream: str) -> bool:
    store = task.work.training
    if store is None:
        return False
    return bool((store.row_table(stream).column("position").to_numpy() >= 0).any())


def _coder(task: Steering, dictionary: Dictionary, site: str, width: int) -> Any:
    """Return what codes the rows of a site: the dictionary, or the directions that the user names.

    Raises :class:`~vlsae.errors.UserError` where one is a concept and the other a direction.
    """
    references = [one for one in (task.concept, task.other) if one is not None]
    directed = [is_direction(one) for one in references]
    if not any(directed):
        return dictionary
    if not all(directed):
        raise UserError(
            f"task.concept={task.concept} and task.other={task.other}: a direction and a concept.",
            "Name two directions, or two concepts.",
        )
    return read_directions([str(one) for one in references], site, width)


def _read(rows: TaskRows, auxiliary: Any) -> TaskRows:
    """Return rows as the dictionary reads them, through its auxiliary autoencoder where it has one."""
    if auxiliary is None:
        return rows
    with torch.no_grad():
        inner = {stream: auxiliary.encode(rows.values[stream], stream) for stream in STREAMS if stream in rows.values}
    return TaskRows({**rows.values, **inner}, rows.samples, rows.split)


def text_target(task: Steering, model: Any, dictionary: Dictionary) -> Target:
    """Return the target in a language model, at the site that the dictionary was trained on.

    Of the data's held-out texts, those in which the concept is strongest are its texts and those in which it is
    weakest neutral.
    """
    from vlsae.enhancement.continuations import continuations
    from vlsae.enhancement.text_output import TextOutput

    site = dict(task.work.sites).get("language")
    if site is None or site.endswith("embedding"):
        raise UserError(
            f"The dictionary reads {site or 'no language site'}, behind which no block runs.",
            "Train one on a layer: train.sites=6",
        )
    texts = _held_out_texts(task)
    values, owner = _token_rows(model, texts, site)
    coder = _coder(task, dictionary, site, values.shape[1])
    directed = isinstance(coder, Directions)
    auxiliary = None if directed else task.work.auxiliary
    inner = values if auxiliary is None else auxiliary.encode(values, "language")
    concept = _given(task, 0, coder)
    other = None if task.other is None else _given(task, 1, coder)
    activity = code_matrix(coder, inner, "language")[:, concept].toarray().ravel()  # type: ignore[arg-type]
    strongest = np.full(len(texts), -np.inf)
    np.maximum.at(strongest, owner, activity)
    order = np.argsort(-strongest, kind="stable")
    size = min(task.texts, max(1, len(texts) // 3))
    towards = 1 if task.action == "raise" else -1
    output = TextOutput(model, site, [texts[i] for i in order[:size]], [texts[i] for i in order[-size:]], towards)
    edit = Edit(task.action, concept, mean_activity(coder, inner, concept, "language"), other)
    difference = towards * _mean_difference(values, activity > (np.median(activity) if directed else 0))
    words = f"{_done(task, concept, other)} at {site}; {size} texts of it, {size} neutral ones."
    if not directed and not _holds_tokens(task, "language"):
        words += " The dictionary learned from one row a text, and every token is edited."
    ids = [f"text-{number}" for number in order[:size]]
    changes = {one: concept_change(coder, "language", edit, one, auxiliary) for one in task.strengths}
    written = continuations(model, site, [texts[i] for i in order[-size:]], changes)
    return Target(coder, "language", edit, auxiliary, output, difference, ids, words, tables=[written])


def mean_activity(coder: Any, x: Tensor, concept: int, stream: str = "vision") -> float:
    """Return a concept's mean activity over the rows in which it is active; of a direction its mean size.

    Raises :class:`~vlsae.errors.UserError` for a concept that is active in none.
    """
    values = code_matrix(coder, x, stream)[:, concept].toarray().ravel()
    active = values[values != 0]
    if not len(active):
        raise UserError(f"Concept {concept} is active in none of {len(values)} rows.", "Choose one that is.")
    return float(np.abs(active).mean())


def _located(task: Steering, number: int, coder: Any, rows: TaskRows, choosing: np.ndarray) -> Located:
    """Return the concept of the task, ``number`` 0, or the other one, 1."""
    if isinstance(coder, Directions):
        return _along(task, number, coder, rows)
    reference = (task.concept, task.other)[number]
    codes = {stream: code_matrix(coder, rows.values[stream], stream) for stream in STREAMS if stream in rows.values}
    if len(codes) == 1 and "=" not in str(reference):
        raise UserError(
            "The dictionary reads no captions, so which of them have the concept is not known.",
            "Name a factor of the data, such as task.concept='color=red'.",
        )
    concept = numbered(reference, coder, task.work.concepts)  # type: ignore[arg-type]
    if concept is not None:
        present = [codes[stream][:, concept].toarray().ravel() > 0 for stream in ("vision", "language")]
        return Located(concept, present[0], present[1], None)
    if "=" not in str(reference):
        raise no_such(reference, task.work.concepts, factor_names(task.data, rows.samples))  # type: ignore[arg-type]
    present_rows = attribute(task.data, rows.samples, str(reference))
    scores = auroc(codes["vision"][choosing], present_rows[choosing][:, None])[0]
    best = int(np.nanargmax(scores))
    return Located(best, present_rows, present_rows, float(scores[best]))


def _along(task: Steering, number: int, coder: Directions, rows: TaskRows) -> Located:
    """Return a direction; images and captions have it by the factor it was found for, else by what lies along it.

    Raises :class:`~vlsae.errors.UserError` where captions do not lie in the direction's space and no factor is known.
    """
    factor = coder.factors[number]
    if factor is not None and "=" in factor:
        present = attribute(task.data, rows.samples, factor)
        return Located(number, present, present, None)
    if coder.site != EMBEDDINGS[0]:
        raise UserError(
            f"Which captions have what a direction of {coder.site} stands for is not known.",
            "Name a probe's direction of a factor: task.concept=FILE.safetensors#vision.6/color=red",
        )
    along = [rows.values[stream] @ coder.vectors[number] for stream in STREAMS]
    image, text = ((one > one.median()).numpy() for one in along)
    return Located(number, image, text, None)


def _given(task: Steering, number: int, coder: Any) -> int:
    if isinstance(coder, Directions):
        return number
    reference = (task.concept, task.other)[number]
    concept = numbered(reference, coder, task.work.concepts)  # type: ignore[arg-type]
    if concept is None:
        raise no_such(reference, task.work.concepts)  # type: ignore[arg-type]
    return concept


def _done(task: Steering, concept: int, other: int | None) -> str:
    """Return in words what was done to which concept."""
    verb = {"raise": "Raised", "lower": "Lowered", "remove": "Removed", "swap": "Swapped"}[task.action]
    first = described(task.concept, concept)
    if other is None or task.other is None:
        return f"{verb}: {first}"
    return f"{verb}: {first} for {described(task.other, other)}"


def _number(located: Located | None) -> int | None:
    return None if located is None else located.concept


def _mean_difference(x: Tensor, first: np.ndarray) -> Tensor:
    mask = torch.from_numpy(np.asarray(first, bool))
    if mask.all() or not mask.any():
        raise UserError("All rows are alike in what is steered, so their means have no difference.", "Take more data.")
    return x[mask].mean(dim=0) - x[~mask].mean(dim=0)


def _held_out_texts(task: Steering) -> list[str]:
    from vlsae.datasets.base import sample_splits

    if task.data is None:
        raise UserError("This task has no data.", "Give it texts: task.data on the command line.")
    count = min(len(task.data), task.work.limit or len(task.data))
    splits = sample_splits(task.data, count, task.work.split)
    table = task.data.table
    texts = [table[row]["texts"][0] for row, split in enumerate(splits) if split != "train" and table[row]["texts"]]
    if len(texts) < 3:
        raise UserError(f"{len(texts)} texts are held out; at least 3 are needed.", "Take more data.")
    return texts[: 3 * task.texts]


def _token_rows(model: Any, texts: Sequence[str], site: str) -> tuple[Tensor, np.ndarray]:
    """Return the token rows ``(r, d)`` of texts at a site, and the text that each belongs to."""
    from vlsae.enhancement.text_output import BATCH
    from vlsae.models.base import TokenSelection

    values, owner = [], []
    for first in range(0, len(texts), BATCH):
        batch = model.prepare(None, list(texts[first : first + BATCH]))
        rows = model.represent(batch, [site], TokenSelection(pooling="tokens"))[site]
        values.append(rows.values.float().cpu())
        owner.append(rows.sample.numpy() + first)
    return torch.cat(values), np.concatenate(owner)
