"""Several ranks come to the numbers of one process: losses, statistics, weights."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parent.parent

COMMON = """
    import sys
    sys.path[:0] = [{tests!r}]
    import torch
    from vlsae import ranks
    from vlsae.training import fit
    torch.set_num_threads(1)

    class Rows:
        '''Batches of 24 rows and a tail of 1, divided among ranks as the store's reader does.'''

        bad = None

        def __init__(self, n=97, d=6, size=24, streams=("vision", "language"), labels=0, parts=False):
            generator = torch.Generator().manual_seed(5)
            center = torch.randn(n, d, generator=generator)
            if Rows.bad is not None:
                center[Rows.bad] = float("nan")
            self.values = {{s: center + 0.3 * torch.randn(n, d, generator=generator) for s in streams}}
            self.n, self.size, self.parts = n, size, parts
            self.steps_per_epoch = -(-n // size)
            self.arguments = (n, d, size, streams, labels)

        def _span(self, step):
            at = step % self.steps_per_epoch * self.size
            return range(at, min(at + self.size, self.n))

        def batch(self, step):
            span = self._span(step)
            own = ranks.part(len(span)) if self.parts else range(len(span))
            return {{s: x[span.start + own.start : span.start + own.stop] for s, x in self.values.items()}}

        def describe(self, step, mask):
            return [str(row) for row in self._span(step)]

        def divided(self):
            return Rows(*self.arguments, parts=True)

        def divides(self, step):
            return self.parts and len(self._span(step)) >= ranks.size()

    def train(objective, validation=True, **more):
        lines = []
        def log(step, epoch, split, values):
            lines.append((step, split, values))
        rows = Rows()
        settings = dict(epochs=3, lr=3e-3, log_every=1, validation=Rows(40) if validation else None)
        fit(objective, rows, log=log, **{{**settings, **more}})
        return lines, {{name: value.detach().clone() for name, value in objective.state_dict().items()}}
"""

RANKS = """
    import os
    if "RANK" in os.environ:
        with ranks.joined():
            work()
    else:
        work()
"""


#: Objectives that go over ranks each in a way of its own, and one that runs out of memory; those that share their ways.
PLAIN = (
    "vl_sae",
    "top_k",
    "top_k on some rows",
    "batch_top_k",
    "jump_relu_l0",
    "codebook",
    "auxiliary",
    "short of memory",
)
OTHERS = ("sae_d", "matryoshka", "matryoshka_k", "jump_relu", "gated", "relu_l1")


def script(folder: Path, body: str) -> Path:
    path = folder / "work.py"
    path.write_text(
        textwrap.dedent(COMMON.format(tests=str(ROOT / "tests"))) + textwrap.dedent(body) + textwrap.dedent(RANKS)
    )
    return path


def alone(path: Path) -> None:
    finished = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=880, check=False)
    assert finished.returncode == 0, finished.stderr[-3000:]


def by_torchrun(path: Path, ranks: int = 2) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", str(path)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=880, check=False)
    assert finished.returncode == 0, finished.stderr[-3000:]


@pytest.mark.parametrize("kinds", [PLAIN, pytest.param(OTHERS, marks=pytest.mark.stress)], ids=["plain", "others"])
def test_objectives_come_to_the_losses_and_weights_of_one_process(tmp_path, kinds):
    path = script(
        tmp_path,
        f"""
        from vlsae import dictionaries as kinds
        from vlsae.dictionaries.auxiliary import AuxiliaryAutoencoder
        from vlsae.dictionaries.codebook_dictionary import Codebook
        from vlsae.dictionaries.gated import Gated
        from vlsae.dictionaries.jump_relu import JumpReLU
        from vlsae.dictionaries.matryoshka import Matryoshka
        from vlsae.dictionaries.matryoshka_k import MatryoshkaK
        from vlsae.dictionaries.batch_top_k import BatchTopK
        from vlsae.dictionaries.relu_l1 import ReLUL1
        from vlsae.dictionaries.sae_d import SAED
        from vlsae.dictionaries.top_k import TopK
        from vlsae.dictionaries.vl_sae import VLSAE
        from vlsae.memory import shortage_told
        from vlsae.training.rows import NotFinite

        class Short(VLSAE):
            '''Runs out of memory on the second rank alone, on more than five rows: its part of a batch has twelve.'''

            calls = []

            def loss(self, batch, step=0):
                Short.calls.append(len(batch["vision"]))
                if ranks.rank() == 1 and len(batch["vision"]) > 5:
                    raise torch.OutOfMemoryError("CUDA out of memory.")
                return super().loss(batch, step)

            def loss_weight(self, batch):
                return super().loss_weight(batch)

        MADE = {{
            "vl_sae": lambda: VLSAE(6, 24, 4, loss_balance="variance"),
            "sae_d": lambda: SAED(6, 24, 4),
            "top_k": lambda: TopK(6, 24, 3, dead_after=5),
            "top_k on some rows": lambda: TopK(6, 96, 2, dead_after=5, auxiliary_rows=0.4),
            "batch_top_k": lambda: BatchTopK(6, 24, 3, dead_after=5),
            "matryoshka": lambda: Matryoshka(6, 24, 3, dead_after=5),
            "matryoshka_k": lambda: MatryoshkaK(6, 24, 3),
            "jump_relu": lambda: JumpReLU(6, 24, 4, penalty_warmup=2, threshold=0.3, bandwidth=0.5),
            "jump_relu_l0": lambda: JumpReLU(6, 24, 4, penalty="l0", adapt=0.05, threshold=None, bandwidth=0.5),
            "gated": lambda: Gated(6, 24, 4, adapt=0.05),
            "relu_l1": lambda: ReLUL1(6, 24, 4, adapt=0.05),
            "codebook": lambda: Codebook(6, 24, 4, replace_after=3),
            "auxiliary": lambda: AuxiliaryAutoencoder(6, 6, 5),
            "short of memory": lambda: Short(6, 24, 4),
        }}

        def work():
            found = {{}}
            for name in {kinds!r}:
                make = MADE[name]
                torch.manual_seed(0)
                told = []
                with shortage_told(lambda: told.append(True)):
                    found[name] = train(make())
                # Twice on both ranks, though one alone was short: halves, then quarters of three rows.
                assert len(told) == (2 if name == "short of memory" and ranks.size() == 2 else 0), (name, told)
            # The first batch: tried whole, the first half was taken where memory allowed it, then the quarters.
            if Short.calls and ranks.size() == 2:
                assert Short.calls[:7] == ([12, 6, 6, 3, 3, 3, 3], [12, 6, 3, 3, 3, 3, 3])[ranks.rank()], Short.calls
            # A row of the second rank's part of the first batch: no rank waits for the other.
            Rows.bad = 20
            try:
                train(MADE["vl_sae"]())
            except NotFinite:
                found["not finite"] = ([(0, "raised", {{}})], {{}})
            if ranks.is_first():
                torch.save(found, {str(tmp_path)!r} + f"/{{ranks.size()}}.pt")
        """,
    )
    alone(path)
    by_torchrun(path)
    assert "not finite" in _same(tmp_path / "1.pt", tmp_path / "2.pt")


@pytest.mark.stress
def test_one_process_goes_on_where_two_ranks_were_stopped(tmp_path):
    path = script(
        tmp_path,
        f"""
        import os
        from pathlib import Path
        from vlsae.dictionaries.vl_sae import VLSAE

        class Stopped(Exception):
            pass

        def work():
            folder = Path({str(tmp_path)!r})
            def make():
                torch.manual_seed(0)
                return VLSAE(6, 24, 4)
            settings = dict(run_directory=folder / "checkpoints", checkpoint_every=2, resume=True)
            if ranks.size() == 1:
                found = {{"stopped": train(make(), **settings)}}
                found["stopped"] = (found["stopped"][0][-3:], found["stopped"][1])
                torch.save(found, folder / "stopped.pt")
                whole = train(make())
                torch.save({{"stopped": (whole[0][-3:], whole[1])}}, folder / "whole.pt")
                return
            def stop(done, note):
                if done_steps(done) == 7:
                    raise Stopped
            count = [0]
            def done_steps(done):
                count[0] += done
                return count[0]
            try:
                train(make(), progress=stop, **settings)
            except Stopped:
                pass
        """,
    )
    by_torchrun(path)
    assert sorted(file.name for file in (tmp_path / "checkpoints").glob("step-*"))[-1] == "step-00000006.safetensors"
    alone(path)
    _same(tmp_path / "stopped.pt", tmp_path / "whole.pt")


def _same(one: Path, two: Path) -> list[str]:
    """Assert that two files hold the same lines and weights, and return the names of what they hold."""
    import torch

    first, second = (torch.load(path, weights_only=False) for path in (one, two))
    assert first.keys() == second.keys()
    for name, (lines, weights) in first.items():
        others, other_weights = second[name]
        assert [line[:2] for line in lines] == [line[:2] for line in others], name
        for (step, split, values), (_, _, again) in zip(lines, others):
            assert values == pytest.approx(again, rel=1e-5, abs=1e-7), (name, step, split)
        for key, value in weights.items():
            torch.testing.assert_close(other_weights[key], value, rtol=2e-4, atol=2e-5, msg=f"{name}: {key}")
    return list(first)
