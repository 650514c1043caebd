"""Train the bundled language model again by the project's own commands, and put it where it ships.

    python scripts/make_bundled_lm.py TEXTS [--epochs 7] [--target vlsae/bundled/lm-v1] [--seed 0]

TEXTS is a folder of plain texts: Pride and Prejudice and Alice's Adventures in Wonderland, without the words that a
library puts around them. Hard line breaks, curly quotes and emphasis marks are taken out. Every twentieth section of
8,000 characters is held out.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from safetensors.torch import load_file, save_file

from vlsae.runs import resolve, runs_root

logger = logging.getLogger(__name__)

BUNDLED = Path(__file__).parent.parent / "vlsae" / "bundled" / "lm-v1"
VOCABULARY = 1024
SPECIAL = ("<pad>", "<s>", "</s>")
CONTEXT = 256
SECTION = 8_000
HELD_OUT = 20
CHUNK = 600

SIZES = {
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 12,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 24,
}

PLAIN = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "—": "-", "–": "-", "_": "", "\ufeff": ""})


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--target", type=Path, default=BUNDLED)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        texts, architecture = Path(folder) / "texts", Path(folder) / "architecture"
        train, held_out = sections(options.texts)
        write_texts(texts, train, held_out)
        write_architecture(architecture, train)
        model = run(texts, architecture, options.epochs, options.seed)
        install(model, options.target)
    logger.info("The bundled language model lies in %s.", options.target)


def sections(folder: Path) -> tuple[str, str]:
    """Return the texts to train on and those held out."""
    train: list[str] = []
    held_out: list[str] = []
    for path in sorted(folder.glob("*.txt")):
        text = plain(path.read_text(encoding="utf-8"))
        parts = [text[start : start + SECTION] for start in range(0, len(text), SECTION)]
        for number, part in enumerate(parts):
            (held_out if number % HELD_OUT == HELD_OUT // 2 else train).append(part)
    return "\n".join(train), "\n".join(held_out)


def plain(text: str) -> str:
    """Return a text with a paragraph a line, straight quotes and no marks of emphasis or of sections."""
    paragraphs = re.split(r"\n\s*\n", text.translate(PLAIN))
    lines = (" ".join(paragraph.split()) for paragraph in paragraphs)
    return "\n".join(line for line in lines if re.search(r"\w", line))


def write_texts(folder: Path, train: str, held_out: str) -> None:
    """Write a file a split, which dataset=text takes for what their names say."""
    folder.mkdir(parents=True)
    (folder / "train.txt").write_text(train, encoding="utf-8")
    (folder / "validation.txt").write_text(held_out, encoding="utf-8")


def write_architecture(folder: Path, text: str) -> None:
    """Write a Llama's configuration and a byte-level tokenizer, which knows every byte, into a folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(text.split("\n"), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=CONTEXT
    )
    fast.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        architectures=["LlamaForCausalLM"],
        **SIZES,
    )
    config.save_pretrained(folder)


def run(texts: Path, architecture: Path, epochs: int, seed: int) -> Path:
    """Train by the command line and return the folder of the weights that came out."""
    overrides = [
        "experiment=bundled_lm",
        f"seed={seed}",
        f"dataset.path={texts}",
        f"dataset.chunk={CHUNK}",
        f"objective.architecture={architecture}",
        f"train.epochs={epochs}",
    ]
    subprocess.run([sys.executable, "-m", "vlsae", "train", *overrides], check=True)
    return resolve("train/bundled_lm/latest", runs_root()) / "model"


def install(model: Path, target: Path) -> None:
    """Copy a trained model to where it ships, its weights in half precision."""
    target.mkdir(parents=True, exist_ok=True)
    for path in model.iterdir():
        if path.suffix == ".json":
            shutil.copyfile(path, target / path.name)
    change(target / "config.json", dtype="float16")
    # The name that every version of transformers knows, and none of what the newest notes of the saving itself.
    noted = dict.fromkeys(("backend", "is_local", "local_files_only"))
    change(target / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", **noted)
    weights = {name: value.half() for name, value in load_file(model / "model.safetensors").items()}
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})


def change(path: Path, **values: str | None) -> None:
    """Set keys of a JSON file; None takes a key out."""
    content = {**json.loads(path.read_text(encoding="utf-8")), **values}
    kept = {name: value for name, value in content.items() if value is not None}
    path.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
