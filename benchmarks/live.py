"""Tokens a second and memory of train.source=live on a random Llama, at its first block and at its last.

The model's weights are random and lie in FOLDER in half precision; the texts are the sentences that ship with the
package. Times are CPU seconds of this process over whole windows: the model's pass, and the dictionary's steps.

    python benchmarks/live.py FOLDER [--width 4096 --layers 2 --concepts 8192 --k 32 --window 2048 --batch 512]
"""

from __future__ import annotations

import argparse
import resource
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from vlsae.datasets import Text
from vlsae.dictionaries import TopK
from vlsae.models import LM, TokenSelection
from vlsae.models.lm import BUNDLED
from vlsae.representations.live import LiveReader, ModelRows
from vlsae.training import build_optimizer, train_step


def write_llama(folder: Path, width: int, layers: int) -> None:
    """Write a Llama with random weights and the bundled tokenizer, unless it is there."""
    if (folder / "config.json").is_file():
        return
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=width * 43 // 16,
        num_hidden_layers=layers,
        num_attention_heads=width // 128,
        num_key_value_heads=width // 128,
        max_position_embeddings=2048,
        vocab_size=1024,
        torch_dtype="bfloat16",
    )
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(BUNDLED / name, folder / name)


def peak() -> float:
    """Return the largest resident memory of this process so far in gigabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def measure(model: LM, site: str, options: argparse.Namespace, console: Console) -> None:
    """Train over one window of rows at a site, and print what it took."""
    dataset = Text()
    rows = ModelRows(model, dataset, site, TokenSelection("tokens"), batch_size=64)
    start = time.process_time()
    samples = np.arange(len(dataset))
    counts = rows.counts(samples)
    counting = time.process_time() - start
    reader = LiveReader(rows, samples, counts, batch_size=options.batch, window=options.window)
    start = time.process_time()
    reader.batch(0)
    window = len(reader._held[1].values)
    filling = time.process_time() - start
    torch.manual_seed(0)
    dictionary = TopK(rows.width, options.concepts, options.k)
    optimizer = build_optimizer(dictionary, 1e-4)
    start, steps = time.process_time(), window // options.batch
    losses = [train_step(dictionary, reader.batch(step), optimizer, step).total.item() for step in range(steps)]
    training = time.process_time() - start
    console.print(
        f"{site}: counting {counts.sum()} rows of {len(samples)} texts {counting:.1f} s; a window of {window} rows "
        f"{filling:.1f} s, {window / filling:.0f} tokens a second; {steps} steps of {options.batch} {training:.1f} s; "
        f"together {window / (filling + training * window / (steps * options.batch)):.0f} tokens a CPU second; "
        f"window {window * rows.width * 4 / 1e6:.0f} MB; peak resident {peak():.2f} GB; "
        f"loss {losses[0]:.4g} to {losses[-1]:.4g}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name, value in (
        ("width", 4096),
        ("layers", 2),
        ("concepts", 8192),
        ("k", 32),
        ("window", 2048),
        ("batch", 512),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    write_llama(options.folder, options.width, options.layers)
    model = LM(checkpoint=f"path:{options.folder}")
    model.load(options.device, options.dtype)
    console.print(f"model loaded: peak resident {peak():.2f} GB")
    for layer in (1, options.layers):
        measure(model, f"language.{layer}", options, console)


if __name__ == "__main__":
    main()
