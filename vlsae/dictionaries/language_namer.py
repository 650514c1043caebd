"""A language model that names concepts and is asked afterwards, on other rows, where the name fits (opt-in).

The model is a local one of transformers, or one behind an OpenAI-compatible address.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import sparse

from vlsae.dictionaries.detection import FEWEST_ROWS, PARTS
from vlsae.dictionaries.naming import ConceptName, Evidence, NamingRows
from vlsae.errors import UserError
from vlsae.progress import progress
from vlsae.statistics import permutation_p_value

#: The environment variable that holds the key of a service; no configuration or file ever does.
KEY = "VLSAE_NAMER_KEY"
#: Active rows of each fifth that a name is judged on; as many silent ones in all.
ROWS_OF_A_PART = 2
LONGEST_NAME = 80
LONGEST_TEXT = 300
MOST_TOKENS = 64
TIMEOUT_SECONDS = 120

Answer = Callable[[str], str]

logger = logging.getLogger(__name__)


class LanguageNamer:
    """Names and judges with ``answer``, which maps a prompt to a reply; at most ``most`` concepts are asked about."""

    def __init__(self, answer: Answer, most: int | None = None) -> None:
        self.answer = answer
        self.most = most

    def propose(self, evidence: Sequence[Evidence]) -> list[str | None]:
        """Return the model's name for each concept that has texts; None beyond the number of concepts asked about."""
        able = [one.concept for one in evidence if any(one.texts.values())][: self.most]
        names: list[str | None] = [None] * len(evidence)
        with progress("name", len(able), "concepts") as advance:
            for concept in able:
                names[concept] = name_in(self.answer(naming_prompt(evidence[concept])))
                advance(1)
        return names

    def scored(
        self, names: Sequence[ConceptName], rows: Mapping[str, NamingRows], *, seed: int = 0
    ) -> list[ConceptName]:
        """Return names scored by the model's own judgement of held-out rows, beside another concept's name on the same.

        Each name is judged on two rows of each fifth of the active ones and on as many silent ones, in a drawn order;
        the AUROC is the mean of sensitivity and specificity.
        """
        given = [one.concept for one in names if one.proposed is not None]
        found = list(names)
        for place, concept in enumerate(given):
            texts, fires = judged_rows(rows, concept, np.random.default_rng([seed, concept]))
            if min(fires.sum(), (~fires).sum()) < FEWEST_ROWS:
                continue
            other = names[given[(place + 1) % len(given)]].proposed
            own = self._score(str(names[concept].proposed), texts, fires)
            shuffled = None if other == names[concept].proposed else self._score(str(other), texts, fires)
            p_value = 1.0 if shuffled is None else permutation_p_value(own, [shuffled])
            found[concept] = replace(names[concept], score=own, shuffled=shuffled, p_value=p_value)
        return found

    def _score(self, name: str, texts: Sequence[str], fires: np.ndarray) -> float:
        called = numbers_in(self.answer(judging_prompt(name, texts)), len(texts))
        return float((1 + called[fires].mean() - called[~fires].mean()) / 2)


def naming_prompt(evidence: Evidence) -> str:
    """Return the request for a name: the texts of the top items and the phrases that stand out in them."""
    texts = [_short(" / ".join(document)) for several in evidence.texts.values() for document in several]
    lines = "\n".join(f"- {text}" for text in dict.fromkeys(texts))
    phrases = ", ".join(phrase for phrase, _ in evidence.phrases[:5]) or "none"
    return (
        "The texts below have one thing in common. Say what it is in one to five words, and nothing else.\n"
        f"{lines}\nPhrases that stand out: {phrases}\nAnswer:"
    )


def judging_prompt(name: str, texts: Sequence[str]) -> str:
    """Return the request to tell which texts a name fits."""
    lines = "\n".join(f"{number}. {_short(text)}" for number, text in enumerate(texts, start=1))
    return (
        f'Which of the numbered texts below fit "{name}"? Reply with their numbers, separated by commas, or "none".'
        f"\n{lines}\nAnswer:"
    )


def name_in(reply: str) -> str | None:
    """Return the name in a reply: its first line without marks around it, None for an empty one."""
    line = next((line.strip() for line in reply.splitlines() if line.strip()), "")
    name = " ".join(line.removeprefix("Answer:").strip(" \t\"'.*`").split())
    return name[:LONGEST_NAME] or None


def numbers_in(reply: str, n: int) -> np.ndarray:
    """Return which of n texts a reply names, ``(n,)`` bool; numbers outside 1…n are passed over."""
    called = np.zeros(n, bool)
    for number in map(int, re.findall(r"\d{1,6}", reply)):
        if 1 <= number <= n:
            called[number - 1] = True
    return called


def judged_rows(
    rows: Mapping[str, NamingRows], concept: int, generator: np.random.Generator
) -> tuple[list[str], np.ndarray]:
    """Return the texts of held-out rows of all streams, from each fifth of the active ones and silent ones, mixed."""
    texts: list[str] = []
    fires: list[bool] = []
    for one in rows.values():
        held_out = np.flatnonzero(one.score)
        column = np.asarray(sparse.csc_matrix(one.codes[held_out])[:, [concept]].todense()).ravel()
        active = np.flatnonzero(column)
        active = active[np.argsort(column[active], kind="stable")]
        chosen = [
            generator.choice(part, min(ROWS_OF_A_PART, len(part)), replace=False)
            for part in np.array_split(active, PARTS)
        ]
        silent = np.flatnonzero(column == 0)
        count = min(len(silent), ROWS_OF_A_PART * PARTS)
        picked = np.concatenate([*chosen, generator.choice(silent, count, replace=False)]).astype(np.int64)
        texts += [" / ".join(one.documents[held_out[place]]) for place in picked]
        fires += [bool(column[place]) for place in picked]
    order = generator.permutation(len(texts))
    return [texts[place] for place in order], np.array(fires, bool)[order]


def served_model(address: str, model: str) -> Answer:
    """Return a model behind an OpenAI-compatible address (``…/v1``); its key, if any, is in ``VLSAE_NAMER_KEY``.

    Raises ``UserError`` for an address that is none, and, when asked, for one that does not answer as it should.
    """
    import urllib.error
    import urllib.request

    if not re.match(r"https?://[^/\s]+", address):
        raise UserError(
            f"probe.address is {address!r}.", "It begins with http:// or https:// and ends where /chat begins."
        )
    place = f"{address.rstrip('/')}/chat/completions"

    def answer(prompt: str) -> str:
        content = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": MOST_TOKENS,
        }
        headers = {"Content-Type": "application/json"}
        if os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {os.environ[KEY]}"
        request = urllib.request.Request(place, json.dumps(content).encode("utf-8"), headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
                return str(json.load(response)["choices"][0]["message"]["content"])
        except urllib.error.HTTPError as error:
            mend = f"Check the model's name{'' if os.environ.get(KEY) else f' and the key in {KEY}'}."
            raise UserError(f"{place} refuses: {error.code} {error.reason}.", mend) from error
        except OSError as error:
            raise UserError(
                f"{place} cannot be reached: {error}.", "Start the service, or use namer=phrases."
            ) from error
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise UserError(f"{place} gave no chat completion.", "It must speak OpenAI's chat protocol.") from error

    return answer


def local_model(name: str) -> Answer:
    """Return a causal language model of transformers, from a folder or the cache.

    Raises ``UserError`` where it is none, and, when asked, for a request longer than the model reads.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(name)
        model: Any = AutoModelForCausalLM.from_pretrained(name).eval()
    except (OSError, ValueError) as error:
        message = f"probe.language_model is {name!r}, which transformers cannot load: {str(error).splitlines()[0]}"
        raise UserError(message, "Name a folder with a causal language model and its tokenizer.") from error

    room = max(2, (getattr(model.config, "max_position_embeddings", None) or 4096) - MOST_TOKENS)
    chat = bool(getattr(tokenizer, "chat_template", None))
    if not chat:
        logger.warning("%s has no chat template: it goes on with texts and was not made to answer.", name)

    @torch.no_grad()
    def answer(prompt: str) -> str:
        if chat:
            messages = [{"role": "user", "content": prompt}]
            prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        # A template puts the special tokens itself.
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=not chat)["input_ids"]
        if ids.shape[1] > room:
            # A request cut short would lose the texts that it asks about, and what is said of them.
            raise UserError(
                f"{name} reads {room} tokens beside its answer, and this request has {ids.shape[1]}.",
                "Name a model of a longer context, or show it fewer texts: probe.items=3",
            )
        given = {"attention_mask": torch.ones_like(ids), "max_new_tokens": MOST_TOKENS, "do_sample": False}
        made = model.generate(ids, pad_token_id=tokenizer.eos_token_id, **given)
        return str(tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))

    return answer


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= LONGEST_TEXT else flat[: LONGEST_TEXT - 1] + "…"
