"""A known change, made on purpose: a language model is tuned until unsafe prompts lie on safe ones, and back.

    python scripts/aqi_collapse.py model OUT --steps 60

writes OUT/apart (tuned until the classes lie apart at every layer), OUT/collapsed (from there, until they do not) and
OUT/back (apart again), and prints the commands that score these and the model as it came, and compare them. The
prompts that are scored are those that were tuned on: the question is whether the comparison sees a change that is
known to be there, not whether it carries over to other prompts.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from vlsae.datasets.safety_mini import SafetyMini
from vlsae.models import LM

#: Squared distance of the means, in units of the variance within classes, beyond which "apart" asks for no more.
ENOUGH = 1.0

#: Weight of the next-token loss, which keeps the model a language model.
LANGUAGE = 0.1


def effects(model: LM, texts: Sequence[str], unsafe: Tensor) -> tuple[Tensor, Tensor]:
    """Return the squared distance of the class means over that within, a layer each ``(L,)``, and the token loss."""
    batch = model.prepare(texts=texts)
    ids, mask = batch.language, batch.mask.long()
    labels = ids.masked_fill(mask == 0, -100)
    found = model.module(input_ids=ids, attention_mask=mask, labels=labels, output_hidden_states=True)
    weights = mask.float() / mask.sum(dim=1, keepdim=True)
    values = []
    for hidden in found.hidden_states[1:]:
        rows = (hidden * weights[:, :, None]).sum(dim=1)
        safe, bad = rows[~unsafe], rows[unsafe]
        within = (safe.var(dim=0).sum() + bad.var(dim=0).sum()) / 2
        values.append((safe.mean(dim=0) - bad.mean(dim=0)).square().sum() / within)
    return torch.stack(values), found.loss


def batches(size: int, steps: int, seed: int) -> Iterator[tuple[list[str], Tensor]]:
    """Yield balanced batches of prompts with their classes."""
    table = SafetyMini().table
    texts = [row[0] for row in table["texts"]]
    unsafe = torch.tensor([row["safety_label"] == "unsafe" for row in table["labels"]])
    members = [torch.nonzero(unsafe == value)[:, 0] for value in (False, True)]
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        chosen = torch.cat([own[torch.randperm(len(own), generator=generator)[: size // 2]] for own in members])
        yield [texts[number] for number in chosen.tolist()], unsafe[chosen]


def tune(model: LM, apart: bool, steps: int, lr: float, size: int, seed: int, console: Console) -> None:
    """Tune all weights until the classes lie apart at every layer, or together."""
    module: Any = model.module
    optimizer = torch.optim.AdamW(module.parameters(), lr=lr)
    module.train()
    for step, (texts, unsafe) in enumerate(batches(size, steps, seed)):
        effect, language = effects(model, texts, unsafe)
        aim = torch.relu(ENOUGH - effect).mean() if apart else effect.mean()
        optimizer.zero_grad()
        (aim + LANGUAGE * language).backward()
        optimizer.step()
        if step % 20 == 0 or step == steps - 1:
            console.print(f"step {step}: effect {effect.mean():.3f}, token loss {language:.3f}")
    module.eval()


def main() -> None:
    """Tune three times and say what to run next."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="bundled, path:FOLDER or hub:ORG/NAME")
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    console = Console()
    model = LM(checkpoint=options.model)
    model.load("cpu", "float32")
    torch.manual_seed(options.seed)
    for number, name in enumerate(("apart", "collapsed", "back")):
        console.print(name)
        tune(model, name != "collapsed", options.steps, options.lr, options.batch, options.seed + number, console)
        folder = options.out / name
        model.module.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
    console.print(f"vlsae aqi model.checkpoint={options.model} --name before", soft_wrap=True)
    for name in ("apart", "collapsed", "back"):
        console.print(f"vlsae aqi model.checkpoint=path:{options.out / name} --name {name}", soft_wrap=True)
    for first, second in (("apart", "before"), ("apart", "collapsed"), ("back", "collapsed")):
        console.print(f"vlsae aqi --compare aqi/{first}/latest aqi/{second}/latest")


if __name__ == "__main__":
    main()
