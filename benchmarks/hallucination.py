"""CPU time of decoding with a shifted second pass, as a multiple of regular decoding, both in one run.

Random models of realistic proportions: 12 layers with 64 image tokens, shifted at the input of layer 11, and 32 narrow
layers with 576 image tokens, shifted at layer 30, as LLaVA-1.5 7B is. Their vision towers are two layers, so that the
pictures, which both ways encode once, hide nothing. Ways take turns, in an order that rotates from round to round; the
figure is the median over rounds of CPU time at one thread. Beside it stand the multiplications of the decoder's linear
maps, which do not depend on the machine. A random model knows of no token that is far likelier than the next, so that
the second pass has a say in every token; ``--open`` is the share of tokens in which it shall have one.

    python benchmarks/hallucination.py [--rounds 5] [--answers 4,64] [--batch 4] [--ways exact,off] [--open 0.25]
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from vlsae.dictionaries import VLSAE, AuxiliaryAutoencoder
from vlsae.enhancement.decoding import Open, Rule, decode, uniforms_of
from vlsae.enhancement.hallucination import text_shift
from vlsae.enhancement.noisy_pass import NoisyPass
from vlsae.enhancement.shifted_pass import second_pass

#: Layers, width, heads, image tokens along a side, the shifted layer, concepts.
SHAPES = {"12 layers": (12, 384, 6, 8, 11, 3072), "32 layers": (32, 256, 4, 24, 30, 2048)}
SYSTEM, QUESTION, VOCABULARY = 20, 20, 2000
IMAGE, PADDING = VOCABULARY - 1, 0
#: No token ends an answer, so that all are equally long.
NEVER = VOCABULARY


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--answers", default="4,64", help="tokens of an answer, with commas between them")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--ways", default="regular,exact,frozen_delta,vcd", help="off is slow: nothing is cached")
    parser.add_argument("--open", type=float, default=1.0, help="share of tokens in which the second pass has a say")
    parser.add_argument("--shapes", default=",".join(SHAPES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("model", "answer", "way", "CPU s", "of regular", "10⁹ multiplications", "of regular")
    for name in options.shapes.split(","):
        module, shape = build(name), SHAPES[name]
        for most in (int(one) for one in options.answers.split(",")):
            ways = ways_of(module, shape, options.batch, most, options.open)
            chosen = {way: ways[way] for way in ("regular", *options.ways.split(","))}
            found = measured(module, chosen, options.rounds)
            base = found["regular"]
            for way, (seconds, products) in found.items():
                ratios = f"{seconds / base[0]:.2f}", f"{products / base[1]:.2f}"
                table.add_row(
                    name, f"{most} tokens", way, f"{seconds:.3f}", ratios[0], f"{products / 1e9:.1f}", ratios[1]
                )
    Console().print(table)


def build(name: str) -> Any:
    """Return a random LLaVA of a shape."""
    torch.manual_seed(0)
    layers, width, heads, side, _, _ = SHAPES[name]
    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=8 * side,
        patch_size=8, projection_dim=64,
    )  # fmt: skip
    text = LlamaConfig(
        hidden_size=width, intermediate_size=int(2.6875 * width), num_hidden_layers=layers, num_attention_heads=heads,
        vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=None, pad_token_id=PADDING,
    )  # fmt: skip
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=IMAGE, vision_feature_layer=-1)
    return LlavaForConditionalGeneration(config).eval()


def ways_of(module: Any, shape: Sequence[int], batch: int, most: int, share: float) -> dict[str, Callable[[], Any]]:
    """Return what decodes the same prompts in each way."""
    _, width, _, side, layer, concepts = shape
    tokens = torch.randint(3, IMAGE - 1, (batch, SYSTEM + side**2 + QUESTION))
    tokens[:, SYSTEM : SYSTEM + side**2] = IMAGE
    image = tokens == IMAGE
    text = (image.cumsum(1) == side**2) & ~image
    inputs = {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "pixel_values": torch.randn(batch, 3, 8 * side, 8 * side),
    }
    blocks = module.model.language_model.layers
    dictionary, auxiliary = VLSAE(width, concepts, 64).eval(), AuxiliaryAutoencoder(width, width, width).eval()
    uniforms = uniforms_of([str(number) for number in range(batch)], 0, most)

    def shift(vision: torch.Tensor, language: torch.Tensor) -> torch.Tensor:
        return text_shift(vision, language, dictionary, auxiliary, 0.8, 0.9)

    def followed(way: str) -> Any:
        found = second_pass(way, blocks, layer, image, text, shift)
        attached = found.attached
        found.attached = lambda module, is_open: attached(module, evenly(share))
        return found

    def run(rule: Rule, second: Callable[[], Any] = lambda: None) -> Callable[[], Any]:
        return lambda: decode(module, inputs, rule, uniforms, second=second(), end=[NEVER], padding=PADDING)

    full = Rule(True, 0.6, 0.8)
    return {
        "regular": run(Rule(True)),
        **{way: run(full, lambda way=way: followed(way))
           for way in ("exact", "frozen_delta", "off")},
        "vcd": run(Rule(True, 1.0, 0.1, "contrast"), lambda: NoisyPass("pixel_values", 500, range(batch), 0)),
    }  # fmt: skip


def evenly(share: float) -> Open:
    """Return a function by which all prompts are open in a share of the steps, spread evenly."""
    steps = itertools.count(1)

    def is_open(clean: torch.Tensor) -> torch.Tensor:
        step = next(steps)
        return torch.full((len(clean),), int(step * share) > int((step - 1) * share))

    return is_open


def measured(module: Any, ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, tuple[float, int]]:
    """Return each way's median CPU seconds and the multiplications of its linear maps."""
    products = {way: counted(module, run) for way, run in ways.items()}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    names = list(ways)
    for number in range(rounds):
        for way in names[number % len(names) :] + names[: number % len(names)]:
            start = time.process_time()
            ways[way]()
            seconds[way].append(time.process_time() - start)
    return {way: (statistics.median(seconds[way]), products[way]) for way in ways}


def counted(module: Any, run: Callable[[], Any]) -> int:
    """Return the multiplications of the decoder's linear maps, its head among them, in a run."""
    total = 0

    def count(part: torch.nn.Linear, args: Any, output: torch.Tensor) -> None:
        nonlocal total
        total += output.numel() * part.in_features

    parts = [*module.model.language_model.modules(), module.lm_head]
    handles = [part.register_forward_hook(count) for part in parts if isinstance(part, torch.nn.Linear)]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return total


if __name__ == "__main__":
    main()
