"""The word-level tokenizer of the embedded world, as files that transformers and open_clip load from a folder."""

from __future__ import annotations

import json
from pathlib import Path

from vlsae.datasets.shapes_captions import WORDS

PAD, UNKNOWN, START, END = "<pad>", "<unk>", "<start>", "<end>"

#: The end token has the highest number: open_clip pools a text where its numbers are highest.
VOCABULARY = {word: number for number, word in enumerate((PAD, UNKNOWN, START, *WORDS, END))}


def write_tokenizer(folder: Path, context_length: int) -> None:
    """Write ``tokenizer.json`` and its configuration: lower case, words split at spaces and marks."""
    from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordLevel

    tokenizer = Tokenizer(WordLevel(VOCABULARY, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[,.:;!?]"), behavior="isolated")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, VOCABULARY[START]), (END, VOCABULARY[END])]
    )
    tokenizer.add_special_tokens([PAD, UNKNOWN, START, END])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    facts = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "pad_token": PAD,
        "unk_token": UNKNOWN,
        "bos_token": START,
        "eos_token": END,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(facts, indent=2) + "\n")
