"""probe=geometry_tasks: does a layer take on the geometry of its inputs or of its targets? Networks trained here.

After Alleman, Lindsey and Fusi (2024, arXiv 2401.13558). Shapes: B networks, P conditions, k labels, L hidden layers,
E measured steps, w units.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np

from vlsae.bounds import OneOf, Range
from vlsae.errors import UserError
from vlsae.probes.base import Probe, Representations
from vlsae.probes.conditions import ccgp, parallelism_score
from vlsae.probes.dimension import participation_ratio
from vlsae.probes.hadamard import hadamard_task, unstructured
from vlsae.probes.logistic import solve
from vlsae.probes.over_networks import measure_over_networks, over_networks
from vlsae.probes.similarity import cka
from vlsae.probes.targets import Targets
from vlsae.progress import progress
from vlsae.result import Measure, Plot, Result, Series, Table

if TYPE_CHECKING:
    from vlsae.probes.network_batch import NetworkBatch

#: Dimensions that inputs are embedded in; their norm is its root, beside noise of deviation 1 in each.
INPUTS = 100

#: Noisy rows of each condition that decoders learn from, and as many that they are scored on.
ROWS = 8

#: Folds of cross-condition generalisation, and random balanced dichotomies behind the shattering.
FOLDS, DICHOTOMIES = 16, 24

#: What is expected of tanh less ReLU in every task of 32 conditions.
TARGET_GAP, INPUT_GAP = 0.08, -0.1

#: What is measured of the last hidden layer, with its words.
NUMBERS = {
    "target_alignment": "alignment with targets",
    "input_alignment": "alignment with inputs",
    "participation_ratio": "participation ratio",
    "ccgp": "generalisation across conditions",
    "parallelism": "parallelism",
    "shattering": "shattering",
    "moved": "weights moved",
    "accuracy": "accuracy",
}


class Task(NamedTuple):
    """A task of ``labels`` k and ``alignment`` c of inputs with targets."""

    labels: int
    alignment: float

    @property
    def name(self) -> str:
        """The words for it."""
        return f"k={self.labels} c={self.alignment:.2f}"


@dataclass(frozen=True)
class Trained:
    """One activation's networks on one task: ``steps``, ``alignment (E, B, 2)`` of the last hidden layer with targets
    and inputs, ``layers (L, B, 2)`` of every one at the end, and ``ends``: each of :data:`NUMBERS` ``(B,)``."""

    steps: list[int]
    alignment: np.ndarray
    layers: np.ndarray
    ends: dict[str, np.ndarray]


class GeometryTasks(Probe):
    """Kernel alignment with inputs and targets over training, for activations beside each other, on set tasks.

    ``conditions`` P noise-free inputs have ``labels`` k binary labels each; their alignment c goes from 0 (as xor) to
    that of inputs equally far apart in ``alignments`` steps. ``networks`` seeds are trained side by side, from the same
    weights for each activation.
    """

    reads = "nothing"

    def __init__(
        self,
        *,
        conditions: Annotated[int, OneOf(4, 8, 16, 32, 64, 128)] = 32,
        labels: list[Annotated[int, Range(1, 126)]] | None = None,
        alignments: Annotated[int, Range(1, 20)] = 3,
        activations: list[Annotated[str, OneOf("tanh", "relu", "elu", "softsign", "softplus", "linear")]] | None = None,
        width: Annotated[int, Range(2, 4096)] = 128,
        depth: Annotated[int, Range(1, 20)] = 1,
        networks: Annotated[int, Range(2, 100)] = 4,
        steps: Annotated[int, Range(1, None)] = 300,
        points: Annotated[int, Range(2, 100)] = 8,
        noise: Annotated[float, Range(0, 100)] = 1.0,
        learning_rate: Annotated[float, Range(1e-8, 10)] = 1e-2,
        batch_size: Annotated[int, Range(1, None)] = 512,
    ) -> None:
        self.conditions, self.alignments = conditions, alignments
        self.labels = list(dict.fromkeys(labels or (1, conditions.bit_length() - 1)))
        if max(self.labels) > conditions - 2:
            raise UserError(
                f"probe.labels={self.labels}: {conditions} conditions have {conditions - 2} labels at most.",
                "Use fewer labels or more conditions.",
            )
        self.activations = list(dict.fromkeys(activations or ("tanh", "relu")))
        self.width, self.depth, self.networks, self.steps, self.points = width, depth, networks, steps, points
        self.noise, self.learning_rate, self.batch_size = noise, learning_rate, batch_size

    @property
    def tasks(self) -> list[Task]:
        """The tasks, by labels and then alignment."""
        return [
            Task(k, float(c))
            for k in self.labels
            for c in np.linspace(0, unstructured(self.conditions, k), self.alignments)
        ]

    def measure(self, representations: Representations, targets: Targets) -> Result:
        """Return both alignments of the last hidden layer, how it is arranged, and how activations differ."""
        found: dict[tuple[str, str], Trained] = {}
        total = self.steps * len(self.tasks) * len(self.activations)
        with progress("geometry of tasks", total, "steps") as advance:
            for task, activation in product(self.tasks, self.activations):
                one = self._train(task, activation, representations.seed, representations.device, advance)
                found[task.name, activation] = one
        metrics = {
            f"{number}/{activation}/{task}": measure_over_networks(one.ends[number], "share")
            for (task, activation), one in found.items()
            for number in NUMBERS
        }
        gaps = dict(_gaps(found, self.activations))
        metrics |= {f"{number}_gap/{task}": measure for (number, task), measure in gaps.items()}
        tables = [
            Table(
                "tasks", "Geometry of the last hidden layer", TASK_COLUMNS, list(_task_rows(found)), TASKS, shown=True
            ),
            Table("networks", "Every network", NETWORK_COLUMNS, list(_network_rows(found))),
            Table("layers", "Alignment of every hidden layer", LAYER_COLUMNS, list(_layer_rows(found))),
            Table("training", "Alignment over training", TRAINING_COLUMNS, list(_training_rows(found))),
        ]
        plots = [_training_plot(found), _plane_plot(found), _bound_plot(self.tasks, found)]
        headline = list(dict.fromkeys(f"target_alignment_gap/{task}" for _, task in gaps))
        if not headline:
            headline = [f"target_alignment/{activation}/{task}" for task, activation in found]
        return Result(metrics, tables, plots, self._notes(gaps), headline)

    def _notes(self, gaps: Mapping[tuple[str, str], Measure]) -> list[str]:
        notes = [LAZY]
        if not gaps:
            return notes
        least = min(float(one.value or 0) for (number, _), one in gaps.items() if number == "target_alignment")
        most = max(float(one.value or 0) for (number, _), one in gaps.items() if number == "input_alignment")
        verdict = "holds in every task" if least >= TARGET_GAP and most <= INPUT_GAP else "does not show in every task"
        notes.append(
            f"Tanh takes on the targets' geometry, ReLU keeps more of the inputs': {verdict}. Tanh less ReLU: targets "
            f"at least {least:.3f} ({TARGET_GAP} or more expected of 32 conditions), inputs at most {most:.3f} "
            f"({INPUT_GAP} or less expected), means over {self.networks} networks."
        )
        return notes

    def _train(self, task: Task, activation: str, seed: int, device: str, advance: Any) -> Trained:
        import torch
        from torch.nn import functional

        from vlsae.probes.network_batch import NetworkBatch

        inputs, labels = hadamard_task(self.conditions, task.labels, task.alignment)
        generator = np.random.default_rng(seed)
        dimensions = max(INPUTS, inputs.shape[1])
        rotation = np.linalg.qr(generator.normal(size=(dimensions, inputs.shape[1])))[0]
        inputs = np.sqrt(dimensions) * inputs @ rotation.T
        x = torch.tensor(inputs, dtype=torch.float32, device=device)
        y = torch.tensor((labels + 1) / 2, dtype=torch.float32, device=device)
        widths = [dimensions, *(self.width,) * self.depth, task.labels]
        networks = NetworkBatch(self.networks, widths, activation, seed).to(device)
        start = networks.weights[0].detach().clone()
        optimizer = torch.optim.Adam(networks.parameters(), self.learning_rate)
        draws = torch.Generator().manual_seed(seed)
        logged = sorted({0, *(round(float(one)) for one in np.geomspace(1, self.steps, self.points))})
        aligned = []
        for step in range(self.steps + 1):
            if step in logged:
                with torch.no_grad():
                    hidden = networks.layers(x)[-2].cpu().numpy()
                aligned.append([[cka(own, labels), cka(own, inputs)] for own in hidden])
            if step == self.steps:
                break
            rows = torch.randint(self.conditions, (self.networks, self.batch_size), generator=draws)
            noise = torch.randn(self.networks, self.batch_size, dimensions, generator=draws)
            logits = networks(x[rows.to(device)] + self.noise * noise.to(device))
            optimizer.zero_grad(set_to_none=True)
            # The sum over networks of each one's mean: their gradients do not meet.
            loss = functional.binary_cross_entropy_with_logits(logits, y[rows.to(device)], reduction="sum")
            (loss / self.batch_size / task.labels).backward()
            optimizer.step()
            advance(1)
        with torch.no_grad():
            layers = [one.cpu().numpy() for one in networks.layers(x)[:-1]]
            moved = (networks.weights[0] - start).flatten(1).norm(dim=1) / start.flatten(1).norm(dim=1)
        by_layer = np.array([[[cka(own, labels), cka(own, inputs)] for own in layer] for layer in layers])
        ends = self._arranged(networks, inputs, labels, layers[-1], generator, device)
        ends |= {"target_alignment": by_layer[-1, :, 0], "input_alignment": by_layer[-1, :, 1]}
        ends["moved"] = moved.double().cpu().numpy()
        return Trained(logged, np.array(aligned), by_layer, ends)

    def _arranged(
        self,
        networks: NetworkBatch,
        inputs: np.ndarray,
        labels: np.ndarray,
        means: np.ndarray,
        generator: np.random.Generator,
        device: str,
    ) -> dict[str, np.ndarray]:
        """Return how conditions are arranged in the last hidden layer, of noise-free ``means (B, P, w)``."""
        import torch

        conditions = np.tile(np.arange(self.conditions), 2 * ROWS)
        learned = np.arange(len(conditions)) < len(conditions) // 2
        noise = self.noise * generator.normal(size=(len(conditions), inputs.shape[1]))
        noisy = torch.tensor(inputs[conditions] + noise, dtype=torch.float32, device=device)
        with torch.no_grad():
            *_, hidden, logits = (one.cpu().numpy().astype(np.float64) for one in networks.layers(noisy))
        first = labels[:, 0] > 0
        positive, negative = np.flatnonzero(first), np.flatnonzero(~first)
        halves = np.argsort(generator.random((DICHOTOMIES, self.conditions)), axis=1) < self.conditions // 2
        found: dict[str, list[float]] = {
            name: [] for name in ("participation_ratio", "ccgp", "parallelism", "shattering")
        }
        for own, mean in zip(hidden, means):
            found["participation_ratio"].append(participation_ratio(mean))
            held = min(FOLDS, len(positive) * len(negative))
            found["ccgp"].append(ccgp(own[learned], conditions[learned], positive, negative, most=held).value)
            found["parallelism"].append(parallelism_score(mean, positive, negative).value)
            truth = halves[:, conditions].T.astype(np.float64)
            fitted = solve(own[learned], truth[learned], np.ones_like(truth[learned]), 1.0)
            right = (own[~learned] @ fitted[:-1] + fitted[-1] > 0) == (truth[~learned] == 1)
            found["shattering"].append(float(right.mean()))
        accuracy = ((logits > 0) == (labels[conditions] > 0)).mean(axis=(1, 2))
        return {**{name: np.array(values) for name, values in found.items()}, "accuracy": accuracy}


Found = Mapping[tuple[str, str], Trained]


def _gaps(found: Found, activations: Sequence[str]) -> Iterator[tuple[tuple[str, str], Measure]]:
    """Yield tanh less ReLU of both alignments by task, network by network, where both were trained."""
    if not {"tanh", "relu"} <= set(activations):
        return
    for task in dict.fromkeys(task for task, _ in found):
        for number in ("target_alignment", "input_alignment"):
            apart = found[task, "tanh"].ends[number] - found[task, "relu"].ends[number]
            yield (number, task), measure_over_networks(apart, "share")


def _task_rows(found: Found) -> Iterator[list[Any]]:
    for (task, activation), one in found.items():
        row: list[Any] = [task, activation]
        for number in ("target_alignment", "input_alignment"):
            ends = over_networks(one.ends[number])
            row += [float(ends.estimate), float(ends.low), float(ends.high)]
        yield row + [float(one.ends[number].mean()) for number in list(NUMBERS)[2:]]


def _network_rows(found: Found) -> Iterator[list[Any]]:
    for (task, activation), one in found.items():
        for network in range(len(one.ends["accuracy"])):
            yield [task, activation, network, *(float(one.ends[number][network]) for number in NUMBERS)]


def _layer_rows(found: Found) -> Iterator[list[Any]]:
    for (task, activation), one in found.items():
        for layer, values in enumerate(one.layers.mean(axis=1), 1):
            yield [task, activation, layer, *values.tolist()]


def _training_rows(found: Found) -> Iterator[list[Any]]:
    for (task, activation), one in found.items():
        for step, networks in zip(one.steps, one.alignment):
            for network, values in enumerate(networks):
                yield [task, activation, step, network, *values.tolist()]


def _training_plot(found: Found) -> Plot:
    series = []
    for (task, activation), one in found.items():
        ends = over_networks(one.alignment.swapaxes(0, 1))
        for place, kind in enumerate(("targets", "inputs")):
            value, low, high = (np.asarray(part)[1:, place].tolist() for part in (ends.estimate, ends.low, ends.high))
            series.append(Series(f"{activation}, {kind}", one.steps[1:], value, low, high, task))
    title = "Alignment with targets and inputs over training"
    return Plot("training", title, "step", "kernel alignment", series, "lines", TASKS, log_x=True)


def _plane_plot(found: Found) -> Plot:
    series = [
        Series(activation, one.alignment[:, :, 1].mean(axis=1).tolist(), one.alignment[:, :, 0].mean(axis=1).tolist(),
               panel=task)
        for (task, activation), one in found.items()
    ]  # fmt: skip
    title = "From inputs' to targets' geometry"
    return Plot("plane", title, "alignment with inputs", "alignment with targets", series, "scatter", PLANE)


def _bound_plot(tasks: Sequence[Task], found: Found) -> Plot:
    """Return the largest alignment with targets that each alignment with inputs leaves, beside the networks' ends."""
    series = []
    for task in tasks:
        a = np.linspace(task.alignment, 1, 41)
        bound = np.cos(np.arccos(task.alignment) - np.arccos(a))
        series.append(Series("at most", a.tolist(), bound.tolist(), panel=task.name))
    for (name, activation), one in found.items():
        x, y = one.ends["input_alignment"], one.ends["target_alignment"]
        series.append(Series(activation, x.tolist(), y.tolist(), panel=name))
    title = "Networks and the largest alignment with both"
    return Plot("bound", title, "alignment with inputs", "alignment with targets", series, "scatter", PLANE)


TASK_COLUMNS = [
    "task", "activation", "targets", "targets low", "targets high", "inputs", "inputs low", "inputs high",
    *list(NUMBERS.values())[2:],
]  # fmt: skip
NETWORK_COLUMNS = ["task", "activation", "network", *NUMBERS.values()]
LAYER_COLUMNS = ["task", "activation", "layer", "targets", "inputs"]
TRAINING_COLUMNS = ["task", "activation", "step", "network", "targets", "inputs"]
TASKS = (
    "Centred kernel alignment of the conditions' noise-free means in the last hidden layer; 95 % t intervals over "
    "networks. k labels; c is the alignment of inputs with targets, 0 as xor. Generalisation across conditions and "
    "parallelism are of the first label; shattering is the mean accuracy of random balanced dichotomies."
)
PLANE = (
    "With angle arccos c between the kernels of inputs and targets, alignment a with inputs leaves at most "
    "cos(arccos c - arccos a) with targets."
)
LAZY = (
    "The difference needs networks that learn features: where the weights hardly move (column: weights moved, ‖ΔW‖/‖W‖ "
    "of the first layer), both activations keep the inputs' geometry."
)
