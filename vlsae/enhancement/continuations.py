"""What a language model writes on from the beginnings of neutral texts, as it is and with a concept edited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from vlsae.enhancement.steering import Change
from vlsae.enhancement.text_output import in_rows
from vlsae.result import Table

#: Texts that are gone on from, the tokens of each that the model is given, and those that it writes.
TEXTS, GIVEN, WRITTEN = 4, 12, 24


@torch.no_grad()
def continuations(model: Any, site: str, texts: Sequence[str], changes: Mapping[float, Change]) -> Table:
    """Return how a few texts go on by the likeliest token, by the strength of the change at a site.

    Prompt and answer are changed alike, each token as it passes.
    """
    rows = []
    for text in texts[:TEXTS]:
        batch = model.prepare(None, [text])
        given = batch.language[batch.mask][None, :GIVEN].to(model.module.device)
        for strength, change in changes.items():
            with model.edit(site, lambda hidden, change=change: in_rows(hidden, change)):
                found = model.module.generate(
                    input_ids=given, attention_mask=torch.ones_like(given), max_new_tokens=WRITTEN, do_sample=False
                )
            written = found[0, given.shape[1] :].tolist()
            beginning = model.tokenizer.decode(given[0].tolist(), skip_special_tokens=True)
            rows.append([beginning, strength, model.tokenizer.decode(written, skip_special_tokens=True)])
    description = "The likeliest token each time, with the concept edited in the prompt and in what is written."
    return Table("continuations", "How texts go on", ["input", "strength", "continuation"], rows, description)
