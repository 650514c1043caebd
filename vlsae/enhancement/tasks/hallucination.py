"""task=hallucination: what a vision-language model says that is not in the picture, without concepts and with them."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

from vlsae.bounds import OneOf, Range
from vlsae.datasets.base import Dataset
from vlsae.enhancement.decodings import (
    COUNTERPARTS,
    METHOD,
    Controls,
    Decoding,
    decodings,
    distinct_seeds,
    seeds_of,
)
from vlsae.enhancement.task import Evaluation, Task
from vlsae.errors import UserError
from vlsae.result import Measure, Result

if TYPE_CHECKING:
    from vlsae.dictionaries import Dictionary
    from vlsae.enhancement.answering import Answerer, Mixing, Prompt
    from vlsae.enhancement.resampled import Resampled
    from vlsae.models.base import Model

logger = logging.getLogger(__name__)

MEASURES = ("pope", "chair")
SETTINGS = ("random", "popular", "adversarial")

Item = dict[str, Any]
Found = dict[str, "Resampled"]


class Hallucination(Task):
    """Ask a vision-language model after objects (POPE) and for captions (CHAIR), by several ways of decoding.

    The method shifts text tokens at a layer towards what the image's concepts say and mixes the logits of that pass
    into the clean ones (VL-SAE, arXiv 2510.21323); ``controls`` are the ways beside it (R0 to R10), ``core`` or
    ``full``; ``before`` is the strongest that needs no concepts. ``data`` has objects and questions after them: shapes,
    or COCO's layout. ``answers`` scores a file of answers instead, no model needed; ``truth`` are its labels.
    ``question`` is put around each question, ``request`` asks for a caption. ``layer``: default the dictionary's, else
    as deep as the paper's; ``site=output`` edits one block later, as the published code does. ``alpha`` (questions),
    ``alpha_caption``, ``beta``, ``mix``, ``alpha_cd``, ``beta_cd`` are the method's numbers, ``alpha_vcd``,
    ``beta_vcd``, ``noise_step`` VCD's. An answer depends on its id, the seed and the method, not on its batch.
    """

    def __init__(
        self,
        *,
        data: Dataset | None = None,
        answers: str | None = None,
        truth: str | None = None,
        synonyms: str | None = None,
        measures: list[Annotated[str, OneOf(*MEASURES)]] = MEASURES,  # type: ignore[assignment]
        settings: list[Annotated[str, OneOf(*SETTINGS)]] = SETTINGS,  # type: ignore[assignment]
        per_image: Annotated[int, Range(2, None)] = 6,
        parser: Annotated[str, OneOf("word", "reference")] = "word",
        question: str = "{question} Please answer this question with one word.",
        request: str = "Please describe this image in detail.",
        question_tokens: Annotated[int, Range(1, None)] = 8,
        caption_tokens: Annotated[int, Range(1, None)] = 64,
        controls: Controls = "core",
        seeds: list[Annotated[int, Range(0, 2**32 - 1)]] | None = None,
        layer: Annotated[int, Range(0, None)] | None = None,
        site: Annotated[str, OneOf("input", "output")] = "input",
        alpha: Annotated[float, Range(0, None)] = 0.8,
        alpha_caption: Annotated[float, Range(0, None)] = 0.7,
        beta: Annotated[float, Range(0, None)] = 0.9,
        mix: Annotated[str, OneOf("convex", "additive", "replace_missing")] = "convex",
        alpha_cd: Annotated[float, Range(0, None)] = 0.6,
        beta_cd: Annotated[float, Range(0, 1)] = 0.8,
        alpha_vcd: Annotated[float, Range(0, None)] = 1.0,
        beta_vcd: Annotated[float, Range(0, 1)] = 0.1,
        noise_step: Annotated[int, Range(0, 999)] = 500,
        cache: Annotated[str, OneOf("exact", "off", "frozen_delta")] = "exact",
        batch_size: Annotated[int, Range(1, None)] = 16,
        examples: Annotated[int, Range(0, None)] = 10,
    ) -> None:
        self.data, self.answers, self.truth, self.synonyms = data, answers, truth, synonyms
        self.measures, self.settings, self.per_image = list(measures), list(settings), per_image
        self.parser, self.question, self.request = parser, question, request
        self.most = {"pope": question_tokens, "chair": caption_tokens}
        self.controls, self.seeds, self.layer, self.site = controls, seeds, layer, site
        self.alpha = {"pope": alpha, "chair": alpha_caption}
        self.numbers: dict[str, Any] = {
            "beta": beta, "mix": mix, "alpha_cd": alpha_cd, "beta_cd": beta_cd, "alpha_vcd": alpha_vcd,
            "beta_vcd": beta_vcd, "noise_step": noise_step,
        }  # fmt: skip
        self.cache, self.batch_size, self.examples = cache, batch_size, examples
        seeds_of(controls, seeds, 0)
        if "{question}" not in question:
            raise UserError(f"task.question={question!r} has no place for the question.", "Write {question} in it.")
        if not self.measures or ("pope" in self.measures and not self.settings):
            raise UserError("Nothing is measured.", f"Choose task.measures of {', '.join(MEASURES)} and task.settings.")
        self._asked: dict[str, list[tuple[Prompt, Item]]] = {}
        self._answerer: Answerer | None = None

    @classmethod
    def check(cls, settings: Mapping[str, Any]) -> None:
        """Raise :class:`~vlsae.errors.UserError` for answers or data that cannot be scored, before anything is made."""
        seeds_of(settings.get("controls", "core"), settings.get("seeds"), 0)
        truth, synonyms = settings.get("truth"), settings.get("synonyms")
        if settings.get("answers") is not None:
            from vlsae.enhancement.answer_files import read_answers
            from vlsae.enhancement.scored_answers import check_words

            for one in read_answers(settings["answers"], truth):
                check_words(one, settings["answers"], truth, synonyms)
        elif isinstance(settings.get("data"), Mapping):
            from vlsae.config import build
            from vlsae.enhancement.object_prompts import check_objects

            check_objects(build(settings["data"]), "chair" in settings.get("measures", MEASURES), synonyms)

    @classmethod
    def check_model(cls, settings: Mapping[str, Any], model: type) -> None:
        """Raise :class:`~vlsae.errors.UserError` for a model that answers no questions about pictures."""
        if settings.get("answers") is None and not hasattr(model, "prompted"):
            raise UserError(
                f"task=hallucination asks about pictures, and {model.__name__} answers no questions about them.",
                "Use model=llava or model=vlm (model.checkpoint=…), or score answers that are there: answers=FILE",
            )

    @classmethod
    def wants_dictionary(cls, settings: Mapping[str, Any]) -> bool:
        """Tell whether concepts are put to use: not where answers are scored."""
        return settings.get("answers") is None

    @classmethod
    def wants_model(cls, settings: Mapping[str, Any]) -> bool:
        """Tell whether the model answers: not where answers are scored."""
        return settings.get("answers") is None

    @classmethod
    def training_sites(cls, settings: Mapping[str, Any], model: Model) -> list[str]:
        """Return where its dictionary is trained unless the user says so: both streams of the layer that is shifted."""
        from vlsae.enhancement.answering import default_layer

        layer = settings.get("layer")
        number = default_layer(model) if layer is None else layer  # type: ignore[arg-type]
        return [f"vision.{number}", f"language.{number}"]

    @classmethod
    def cost(cls, settings: Mapping[str, Any], data: Dataset | None, limit: int | None) -> int | None:
        """Return how many answers a run takes, nothing loaded; None where that is unknown beforehand."""
        if settings.get("answers") is not None or data is None:
            return None
        task = cls(**{name: value for name, value in settings.items() if name != "_target_"} | {"data": data})
        task.work.limit = limit
        return task.answers_needed()

    def answers_needed(self) -> int:
        """Return the answers of all decodings and seeds."""
        seeds = seeds_of(self.controls, self.seeds, self.work.seed)
        prompts = sum(len(self._prompts(measure)) for measure in self.measures)
        return prompts * sum(len(distinct_seeds(one, seeds)) for one in decodings(self.controls))

    def evaluate(self, model: Model, dictionary: Dictionary | None) -> Result:
        """Return POPE and CHAIR of the strongest decoding without concepts, or of the method beside all controls."""
        if self.answers is not None:
            from vlsae.enhancement.scored_answers import scored_answers

            return scored_answers(self.answers, self.truth, self.synonyms, self.data, self.parser, self.work)
        from vlsae.enhancement.measures import strongest

        self.check_model({"answers": None}, type(model))
        answerer = self._made(model, dictionary)
        ways = decodings(self.controls)
        plain = [one.name for one in ways if not one.needs_dictionary]
        chosen = [one for one in ways if dictionary is not None or one.name in plain]
        self._say_cost()
        items = {measure: self._answered(measure, answerer, chosen) for measure in self.measures}
        found = {measure: self._resampled(measure, each) for measure, each in items.items()}
        name = {measure: strongest(measure, found[measure], plain) for measure in self.measures}
        if dictionary is None:
            return self._evaluation(found, name, [_baseline_words(measure, name[measure]) for measure in found])
        return self._compared(found, items, name, answerer)

    def _made(self, model: Any, dictionary: Dictionary | None) -> Answerer:
        from vlsae.enhancement.answering import Answerer, layer_number

        spent = {} if self._answerer is None else self._answerer.spent
        if dictionary is None:
            made = Answerer(model, self.data, spent=spent)  # type: ignore[arg-type]
        else:
            layer = layer_number(model, self.layer, list(self.work.sites.values()), self.site)
            made = Answerer(model, self.data, dictionary, self.work.auxiliary, layer, self.cache, spent)  # type: ignore[arg-type]
        self._answerer = made
        return made

    def _say_cost(self) -> None:
        if self._asked:
            return
        seeds = seeds_of(self.controls, self.seeds, self.work.seed)
        prompts = {measure: len(self._prompts(measure)) for measure in self.measures}
        logger.info(
            "%s questions and %s captions, %s ways of decoding, seeds %s: %s answers",
            f"{prompts.get('pope', 0):,}", f"{prompts.get('chair', 0):,}", len(decodings(self.controls)),
            " ".join(map(str, seeds)), f"{self.answers_needed():,}",
        )  # fmt: skip

    def _prompts(self, measure: str) -> list[tuple[Prompt, Item]]:
        """Return what is asked, each with what its item says, made once."""
        if measure not in self._asked:
            from vlsae.enhancement.object_prompts import check_objects, questions, requests

            data: Any = self.data
            check_objects(data, measure == "chair", self.synonyms)
            rows = min(len(data), self.work.limit or len(data))
            self._asked[measure] = (
                questions(data, rows, self.settings, self.per_image, self.question)
                if measure == "pope"
                else requests(data, rows, self.request, self.words)
            )
            if not self._asked[measure]:
                raise UserError(f"The data hold nothing to ask for {measure}.", "Take more of it, or another measure.")
        return self._asked[measure]

    def small_pictures(self, measure: str, numbers: Sequence[int]) -> list[bytes]:
        """Return small pictures of what is asked after, by its number, for the page."""
        from vlsae.representations.thumbnails import thumbnails

        rows = [self._prompts(measure)[number][0].row for number in numbers]
        return thumbnails(self.data.images(rows)) if rows else []  # type: ignore[union-attr]

    @cached_property
    def words(self) -> dict[str, str]:
        """Word → object: of the user's file, else the objects' own names."""
        from vlsae.enhancement.object_prompts import object_words

        return object_words(self.data, self.synonyms)

    def _mixing(self, measure: str) -> Mixing:
        from vlsae.enhancement.answering import Mixing

        return Mixing(alpha=self.alpha[measure], **self.numbers)

    def _answered(self, measure: str, answerer: Answerer, chosen: Sequence[Decoding]) -> dict[str, list[list[Item]]]:
        """Return the items of each method, a list a seed; those known already are not answered again."""
        from vlsae.progress import progress

        prompts, mixing = self._prompts(measure), self._mixing(measure)
        seeds = seeds_of(self.controls, self.seeds, self.work.seed)
        total = len(prompts) * sum(len(distinct_seeds(one, seeds)) for one in chosen)
        ids = [prompt.id for prompt, _ in prompts]
        found: dict[str, list[list[Item]]] = {}
        first = time.perf_counter()
        said_time = False
        with progress(f"answering ({measure})", total, "answers") as advance:
            for how in chosen:
                found[how.name] = []
                for seed in distinct_seeds(how, seeds):

                    def answer(numbers: list[int], how: Decoding = how, seed: int = seed) -> list[Item]:
                        some = [prompts[number] for number in numbers]
                        asked = [prompt for prompt, _ in some]
                        nonlocal said_time
                        said = answerer.answers(how, asked, mixing, seed, self.most[measure])
                        if not said_time:
                            seconds = (time.perf_counter() - first) / len(numbers) * total
                            logger.info("%s: %s answers, about %.1f minutes", measure, f"{total:,}", seconds / 60)
                            said_time = True
                        return [{**item, "answer": text} for (_, item), text in zip(some, said)]

                    items = self.work.items.complete(
                        ids, how.name, seed, answer, batch=self.batch_size, advance=advance
                    )
                    found[how.name].append(items)
        return found

    def _resampled(self, measure: str, items: Mapping[str, list[list[Item]]]) -> Found:
        from vlsae.enhancement.measures import measured

        words = self.words if measure == "chair" else {}
        common: dict[str, Any] = {"resamples": self.work.resamples, "seed": self.work.seed}
        return {method: measured(measure, each, words, self.parser, **common) for method, each in items.items()}

    def _evaluation(self, found: Mapping[str, Found], name: Mapping[str, str], notes: Sequence[str]) -> Evaluation:
        """Return the numbers of one method of each measure, with what they were resampled from."""
        from vlsae.enhancement.measures import RANKED

        metrics: dict[str, Measure] = {}
        replicates: dict[str, Any] = {}
        for measure, methods in found.items():
            own = methods[name[measure]]
            metrics |= own.measures
            replicates |= own.replicates
        first = [RANKED[measure][0] for measure in found]
        return Evaluation(metrics, (), (), tuple(notes), tuple(first), replicates=replicates)

    def _compared(
        self,
        found: Mapping[str, Found],
        items: Mapping[str, Mapping[str, list[list[Item]]]],
        strongest: Mapping[str, str],
        answerer: Answerer,
    ) -> Evaluation:
        from vlsae.enhancement.hallucination_report import changes_table, cost_table, gains, tables_and_plots
        from vlsae.enhancement.measures import RANKED
        from vlsae.enhancement.pope_results import unparsed_words

        result = self._evaluation(found, dict.fromkeys(found, METHOD), ())
        control = {one.name: one.control for one in decodings(self.controls)}
        metrics, notes, tables, plots = dict(result.metrics), [], [], []
        for measure, methods in found.items():
            name, sign = RANKED[measure]
            for method, one in methods.items():
                metrics[f"{name}/{method}"] = one.measures[name]
            rivals = {METHOD: strongest[measure]}
            more, words = gains(measure, name, sign, methods, rivals, COUNTERPARTS)
            metrics |= more
            notes += [_baseline_words(measure, strongest[measure]), *words]
            notes += unparsed_words(methods, self.parser) if measure == "pope" else []
            shown, drawn = tables_and_plots(measure, methods, self.settings, control)
            tables += [*shown, changes_table(measure, items[measure], strongest[measure], METHOD, self)]
            plots += drawn
        tables.append(cost_table(answerer.spent, control))
        notes += self._words_on_method(answerer)
        headline = [name for name in metrics if name.startswith("gain/")]
        return replace(
            result, metrics=metrics, tables=tables, plots=plots, notes=tuple(notes), headline=tuple(headline)
        )

    def _words_on_method(self, answerer: Answerer) -> list[str]:
        numbers = self.numbers
        where = f"at the input of block {answerer.layer} (from 0)"
        words = [
            f"The method shifts text tokens {where}, α {self.alpha['pope']:g} (captions {self.alpha['chair']:g}), "
            f"β {numbers['beta']:g}, mix {numbers['mix']}; logits α {numbers['alpha_cd']:g}, β {numbers['beta_cd']:g}; "
            f"cache {self.cache}."
        ]
        if self.parser == "reference":
            words.append("Answers were read as the published code reads them: yes and no within words count.")
        if self.cache == "frozen_delta":
            words.append("cache=frozen_delta is an approximation: the shift is that of the prompt.")
        return words


def _baseline_words(measure: str, name: str) -> str:
    number = {"pope": "F1 over all settings", "chair": "CHAIR_I"}[measure]
    return f"{measure.upper()}: before is {name}, of the decodings without concepts the best in {number}."
