"""CPU time of one full training step of a TopK dictionary, beside peers and plain dense PyTorch.

A full step is forward, backward, the optimiser, the count of when each concept last fired, the decoder's unit norm and
the projection of its gradient. All contenders take turns in one process, in an order that rotates from round to round,
so that a busy machine slows all of them alike; the figure is CPU time at one thread, wall time stands beside it.

    python benchmarks/dictionary_step.py --peers FOLDER     # installs the peers there, without their dependencies
    python benchmarks/dictionary_step.py --dead 0.05        # a share of concepts dead: the auxiliary loss has work
    python benchmarks/dictionary_step.py --auxiliary        # what that adds to the step without, in turns with it
    python benchmarks/dictionary_step.py --auxiliary --shares 1 0.5   # the same on half of the rows beside all
    python benchmarks/dictionary_step.py --paths            # where dense products overtake sparse ones

With MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8589934592 in the environment the C library keeps what a step gives
back, and nobody's pages are cleared at each step: a comparison of the computations alone.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from vlsae.dictionaries import VLSAE, TopK, kernels
from vlsae.training import build_optimizer, train_step

PEERS = (
    "sae-lens==6.54.12",
    "eai-sparsify==1.3.3",
    "dictionary-learning==0.1.0",
    "overcomplete==0.3.0",
)
#: What importing them takes beyond what this project installs.
NEEDED = [
    "accelerate",
    "einops",
    "simple-parsing",
    "docstring-parser",
    "natsort",
    "nnsight",
    "transformer-lens<3",
    "better-abc",
    "jaxtyping",
    "typeguard",
    "beartype",
    "fancy-einsum",
    "plotly",
    "plotly-express",
    "python-dotenv",
    "tenacity",
    "rich-argparse",
    "schedulefree",
    "opencv-python-headless",
    "greenlet",
    "scikit-image",
    "lazy-loader",
    "imageio",
    "tifffile",
    "narwhals",
    "wadler-lindig",
]

#: d, h, k, batch.
SHAPES = ((512, 4096, 32, 512), (512, 4096, 256, 512), (768, 12288, 32, 2048))
LR = 1e-4

Step = Callable[[Tensor], Tensor]
Maker = Callable[[int, int, int, int, float], Step]


def own_top_k(d: int, h: int, k: int, batch: int, dead: float, share: float = 1.0) -> Step:
    """This project's TopK, by the step of its training loop; dead concepts learn from a share of the rows."""
    dictionary = TopK(d, h, k, auxiliary_rows=share)
    dictionary.silent_for[: round(dead * h)] = 10**9
    return _own(dictionary, lambda x: {"vision": x}, keep_dead=round(dead * h))


def own_vl_sae(d: int, h: int, k: int, batch: int, dead: float) -> Step:
    """This project's VL-SAE: half of the rows of each modality, one encoder product, two decoders."""
    return _own(VLSAE(d, h, k), lambda x: {"vision": x[: batch // 2], "language": x[batch // 2 :]})


def _own(dictionary: Any, split: Callable[[Tensor], dict[str, Tensor]], keep_dead: int = 0) -> Step:
    optimizer = build_optimizer(dictionary, LR)
    dictionary.train()

    def step(x: Tensor) -> Tensor:
        if keep_dead:
            dictionary.silent_for[:keep_dead] = 10**9
        return train_step(dictionary, split(x), optimizer).total

    return step


def dense(d: int, h: int, k: int, batch: int, dead: float) -> Step:
    """Plain PyTorch: dense products, fused Adam."""
    decoder = nn.Parameter(F.normalize(torch.randn(h, d), dim=1))
    encoder, bias, center = (nn.Parameter(t) for t in (decoder.detach().clone(), torch.zeros(h), torch.zeros(d)))
    optimizer = torch.optim.Adam([encoder, decoder, bias, center], lr=LR, fused=True)
    silent = torch.zeros(h, dtype=torch.int64)

    def step(x: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        scores = F.relu(F.linear(x - center, encoder, bias))
        values, indices = scores.topk(k, dim=1)
        code = torch.zeros_like(scores).scatter(1, indices, values)
        loss = (code @ decoder + center - x).square().mean()
        loss.backward()
        with torch.no_grad():
            decoder.grad.sub_((decoder.grad * decoder).sum(dim=1, keepdim=True) * decoder)
            optimizer.step()
            decoder.div_(decoder.norm(dim=1, keepdim=True))
            silent.add_(len(x))
            silent[indices.flatten()] = 0
        return loss.detach()

    return step


def sparsify(d: int, h: int, k: int, batch: int, dead: float) -> Step:
    """eai-sparsify's SparseCoder, its step as its trainer takes it."""
    from sparsify import SparseCoder, SparseCoderConfig

    coder = SparseCoder(d, SparseCoderConfig(num_latents=h, k=k), dtype=torch.float32)
    optimizer = torch.optim.Adam(coder.parameters(), lr=LR, fused=True)
    silent = torch.zeros(h, dtype=torch.int64)
    mask = torch.arange(h) < round(dead * h)

    def step(x: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        out = coder(x, dead_mask=mask if dead else None)
        (out.fvu + out.auxk_loss / 32).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        coder.set_decoder_norm_to_unit_norm()
        silent.add_(len(x))
        silent[out.latent_indices.flatten()] = 0
        return out.fvu.detach()

    return step


def dictionary_learning(d: int, h: int, k: int, batch: int, dead: float) -> Step:
    """dictionary-learning's TopK trainer."""
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(10**9, d, h, k, layer=0, lm_name="none", lr=LR, device="cpu")
    count = iter(range(1, 10**9))

    def step(x: Tensor) -> Tensor:
        if dead:
            trainer.num_tokens_since_fired[: round(dead * h)] = 10**9
        return torch.tensor(trainer.update(next(count), x))

    return step


def overcomplete(d: int, h: int, k: int, batch: int, dead: float) -> Step:
    """overcomplete's TopKSAE with a plain linear encoder, mean squared error and fused Adam; no auxiliary loss."""
    import matplotlib

    # Its plots, which importing it prepares, ask matplotlib for a name of older versions.
    if not hasattr(matplotlib.cm, "get_cmap"):
        matplotlib.cm.get_cmap = matplotlib.colormaps.get_cmap
    from overcomplete.sae import TopKSAE

    coder = TopKSAE(d, nb_concepts=h, top_k=k, encoder_module="linear", device="cpu")
    optimizer = torch.optim.Adam(coder.parameters(), lr=LR, fused=True)
    silent = torch.zeros(h, dtype=torch.int64)

    def step(x: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        _, codes, decoded = coder(x)
        loss = (decoded - x).square().mean()
        loss.backward()
        optimizer.step()
        silent.add_(len(x))
        silent[(codes.detach() > 0).any(dim=0)] = 0
        return loss.detach()

    return step


def sae_lens(d: int, h: int, k: int, batch: int, dead: float) -> Step:
    """SAELens' TopK training SAE, its step as its trainer takes it."""
    from sae_lens.saes.sae import TrainStepInput
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

    coder = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=d, d_sae=h, k=k, device="cpu"))
    optimizer = torch.optim.Adam(coder.parameters(), lr=LR, fused=True)
    silent = torch.zeros(h, dtype=torch.int64)
    mask = (torch.arange(h) < round(dead * h)) if dead else None

    def step(x: Tensor) -> Tensor:
        given = {"sae_in": x, "coefficients": {}, "dead_neuron_mask": mask, "n_training_steps": 0}
        out = coder.training_forward_pass(TrainStepInput(**_known(TrainStepInput, given)))
        optimizer.zero_grad(set_to_none=True)
        out.loss.backward()
        optimizer.step()
        with torch.no_grad():
            silent.add_(len(x))
            silent[(out.feature_acts.to_dense() > 0).any(dim=0)] = 0
        return out.loss.detach()

    return step


def _known(kind: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that the installed version of a class has."""
    fields = kind.__dataclass_fields__
    return {
        **{name: None if name == "is_logging_step" else False for name in fields if name not in given},
        **{name: value for name, value in given.items() if name in fields},
    }


OWN: dict[str, Maker] = {"vlsae top_k": own_top_k, "vlsae vl_sae": own_vl_sae, "dense, fused Adam": dense}
OTHERS: dict[str, Maker] = {
    "sparsify": sparsify,
    "dictionary-learning": dictionary_learning,
    "overcomplete": overcomplete,
    "SAELens": sae_lens,
}


def install(folder: Path) -> None:
    """Install the peers into a folder, without dependencies, which are this environment's own; and find them there."""
    if not (folder / "sparsify").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        subprocess.run([*pip, *PEERS, *NEEDED], check=True)
    sys.path.append(str(folder))


def measure(steps: dict[str, Step], x: Tensor, rounds: int) -> dict[str, tuple[list[float], list[float]]]:
    """Return CPU and wall milliseconds of each contender in each round."""
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in steps}
    names = list(steps)
    for step in steps.values():
        step(x)
        step(x)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            wall, cpu = time.perf_counter(), time.process_time()
            steps[name](x)
            times[name][0].append(1e3 * (time.process_time() - cpu))
            times[name][1].append(1e3 * (time.perf_counter() - wall))
    return times


def rows_of(d: int, batch: int) -> Tensor:
    """Return rows that a dictionary can learn: few of many directions each, with noise."""
    generator = torch.Generator().manual_seed(0)
    directions = F.normalize(torch.randn(4 * d, d, generator=generator), dim=1)
    active = torch.rand(batch, 4 * d, generator=generator) < 8 / (4 * d)
    return active.float() @ directions + 0.05 * torch.randn(batch, d, generator=generator)


def compare(options: argparse.Namespace, console: Console) -> None:
    """Print a table for each shape: median and spread of the CPU time, wall time, and the ratio to the fastest peer."""
    makers = {**OWN, **(OTHERS if options.peers else {})}
    makers = {name: make for name, make in makers.items() if not options.only or name in options.only}
    for d, h, k, batch in shapes_of(options):
        torch.manual_seed(0)
        steps = {name: make(d, h, k, batch, options.dead) for name, make in makers.items()}
        times = measure(steps, rows_of(d, batch), options.rounds)
        peers = [name for name in times if name in OTHERS] or [name for name in times if not name.startswith("vlsae")]
        best = min(statistics.median(times[name][0]) for name in peers)
        title = f"d={d}, h={h}, k={k}, batch={batch}, dead {options.dead:.0%}, {torch.get_num_threads()} thread(s)"
        table = Table(title=title, title_justify="left")
        for heading in ("step", "CPU ms", "quartiles", "wall ms", "fastest peer is slower by"):
            table.add_column(heading, justify="left" if heading == "step" else "right")
        for name, (cpu, wall) in sorted(times.items(), key=lambda item: statistics.median(item[1][0])):
            low, _, high = statistics.quantiles(cpu, n=4)
            middle = statistics.median(cpu)
            table.add_row(
                name,
                f"{middle:.1f}",
                f"{low:.1f} to {high:.1f}",
                f"{statistics.median(wall):.1f}",
                f"{best / middle:.2f}",
            )
        console.print(table)


def auxiliary(options: argparse.Namespace, console: Console) -> None:
    """Print what dead concepts, 5 % unless ``--dead`` says another share, add to a step of ours and of a peer's."""
    dead = options.dead or 0.05
    own = {
        f"vlsae top_k, on {share:.0%} of rows": functools.partial(own_top_k, share=share) for share in options.shares
    }
    some: dict[str, Maker] = {**own, **({"sparsify": sparsify} if options.peers else {})}
    table = Table(title=f"What {dead:.0%} dead concepts add to a step, CPU ms", title_justify="left")
    for heading in ("d, h, k, batch", "step", "none dead", "with dead", "quartiles", "added"):
        table.add_column(heading, justify="right")
    for shape in shapes_of(options):
        steps = {}
        for name, make in {"vlsae": own_top_k, **some}.items():
            for share in (0.0, dead):
                # Without dead concepts the share of rows changes nothing.
                if (name in own and share == 0) or (name == "vlsae" and share > 0):
                    continue
                torch.manual_seed(0)
                steps[f"{name} {share}"] = make(*shape, share)
        times = measure(steps, rows_of(shape[0], shape[3]), options.rounds)
        for name in some:
            none = statistics.median(times[f"{'vlsae' if name in own else name} 0.0"][0])
            low, middle, high = statistics.quantiles(times[f"{name} {dead}"][0], n=4)
            numbers = f"{none:.1f}", f"{middle:.1f}", f"{low:.1f} to {high:.1f}", f"{middle / none - 1:.1%}"
            table.add_row(", ".join(map(str, shape)), name, *numbers)
    console.print(table)


def shapes_of(options: argparse.Namespace) -> list[tuple[int, int, int, int]]:
    """Return the shapes that are asked for by their numbers."""
    return [SHAPES[number - 1] for number in options.shapes]


def paths(options: argparse.Namespace, console: Console) -> None:
    """Print how much faster sparse products are than dense ones, by the share of active concepts."""
    table = Table(title="Time of a dense step over that of a sparse one (TopK, d=512, h=4096, batch 512)")
    for heading in ("k/h", "dense over sparse"):
        table.add_column(heading, justify="right")
    x = rows_of(512, 512)
    for k in (16, 64, 256, 512, 1024, 2048):
        made = {}
        for name, share in (("sparse", 1.0), ("dense", 0.0)):
            torch.manual_seed(0)
            made[name] = _forced(own_top_k(512, 4096, k, 512, 0.0), share)
        times = measure(made, x, options.rounds)
        ratio = statistics.median(times["dense"][0]) / statistics.median(times["sparse"][0])
        table.add_row(f"{k / 4096:.3f}", f"{ratio:.2f}")
    console.print(table)


def _forced(step: Step, share: float) -> Step:
    def forced(x: Tensor) -> Tensor:
        kernels.SPARSE_SHARE = share
        return step(x)

    return forced


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="a folder to install the peers into, or where they lie")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--dead", type=float, default=0.0, help="share of dead concepts")
    numbers = list(range(1, len(SHAPES) + 1))
    parser.add_argument("--shapes", type=int, nargs="+", choices=numbers, default=numbers, help="which of them")
    parser.add_argument("--only", nargs="+", choices=[*OWN, *OTHERS], help="only these contenders")
    parser.add_argument("--auxiliary", action="store_true", help="what dead concepts add, and nothing else")
    parser.add_argument("--shares", type=float, nargs="+", default=[1.0], help="of the rows, which they learn from")
    parser.add_argument("--paths", action="store_true")
    options = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", SPARSIFY_DISABLE_TRITON="1")
    torch.set_num_threads(options.threads)
    if options.peers:
        install(options.peers)
    if options.paths:
        paths(options, Console())
    elif options.auxiliary:
        auxiliary(options, Console())
    else:
        compare(options, Console())


if __name__ == "__main__":
    main()
