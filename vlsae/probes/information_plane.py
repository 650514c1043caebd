"""probe=information_plane: what layers hold of input and label over training, by several estimators side by side.

Shapes: B networks, n inputs, L layers, E logged epochs, M estimators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from vlsae.bounds import OneOf, Range
from vlsae.probes.base import Probe, Representations
from vlsae.probes.icosahedron import icosahedron_task
from vlsae.probes.information import mi_binned
from vlsae.probes.noisy_information import DRAWS, NOISY, noisy_information
from vlsae.probes.over_networks import measure_over_networks, over_networks
from vlsae.probes.targets import Targets
from vlsae.progress import progress
from vlsae.result import Measure, Plot, Result, Series, Table

if TYPE_CHECKING:
    from torch import Tensor

    from vlsae.probes.network_batch import NetworkBatch

#: Estimators in the order of their figures' panels.
ESTIMATORS = ("edges", "floor", *NOISY)


@dataclass(frozen=True)
class Training:
    """One activation's networks over training: ``plane (E, L, B, M, 2)`` of I(X;T) and I(T;Y) in bits, ``singletons
    (E, L, B)`` of the fixed edges, ``snr (E, L, B)`` of gradients, ``accuracy (E, B)`` on held-out inputs."""

    epochs: list[int]
    plane: np.ndarray
    singletons: np.ndarray
    snr: np.ndarray
    accuracy: np.ndarray


class InformationPlane(Probe):
    """The information plane of small networks that learn the 12-bit task, trained here, ``networks`` seeds at once.

    Each activation is measured at ``points`` epochs, spaced by ratio. ``edges`` and ``floor`` bin all inputs, the
    Gaussian bounds and the nearest neighbours read ``rows`` of them with noise of ``variance``.
    """

    reads = "nothing"

    def __init__(
        self,
        *,
        activations: list[Annotated[str, OneOf("tanh", "relu", "elu", "softsign", "softplus", "linear")]] | None = None,
        widths: list[Annotated[int, Range(1, 1000)]] | None = None,
        networks: Annotated[int, Range(2, 100)] = 4,
        epochs: Annotated[int, Range(1, None)] = 3000,
        points: Annotated[int, Range(2, None)] = 20,
        rows: Annotated[int, Range(16, 4096)] = 512,
        learning_rate: Annotated[float, Range(1e-8, 10)] = 4e-4,
        batch_size: Annotated[int, Range(1, 4096)] = 512,
        train_share: Annotated[float, Range(0.1, 0.95)] = 0.85,
        variance: Annotated[float, Range(1e-9, 1e3)] = 1e-3,
    ) -> None:
        self.activations = list(dict.fromkeys(activations or ("tanh", "relu")))
        self.widths, self.networks, self.epochs, self.points = (
            list(widths or (10, 7, 5, 4, 3)),
            networks,
            epochs,
            points,
        )
        self.rows, self.learning_rate, self.batch_size = rows, learning_rate, batch_size
        self.train_share, self.variance = train_share, variance

    def measure(self, representations: Representations, targets: Targets) -> Result:
        """Return both informations, compression, and the gradients' signal to noise, with intervals over networks."""
        found = {one: self._train(one, representations.seed, representations.device) for one in self.activations}
        names = [*(f"layer {number}" for number in range(1, len(self.widths) + 1)), "output"]
        compressed = _compression(found, names)
        metrics: dict[str, Measure] = {}
        for activation, training in found.items():
            metrics[f"accuracy/{activation}"] = measure_over_networks(training.accuracy[-1], "share")
        for row in compressed:
            metrics[f"compression/{row[0]}/{row[1]}/{row[2]}"] = Measure(row[3], "bits", row[4], row[5])
        last = names[-2]
        tables = [
            Table("compression", "Peak less last of I(X;T)", COMPRESSION_COLUMNS, compressed, COMPRESSION, shown=True),
            Table("plane", "Information over training", PLANE_COLUMNS, _plane_rows(found, names), PLANE),
            Table(
                "gradients", "Signal to noise of gradients", GRADIENT_COLUMNS, _gradient_rows(found, names), GRADIENTS
            ),
        ]
        plots = [_plane_plot(found, names), _time_plot(found, names), _gradient_plot(found, names, self._floor())]
        headline = [f"compression/{one}/{last}/{code}" for one in found for code in ("edges", "floor")]
        return Result(metrics, tables, plots, _notes(found, len(names) - 2), headline)

    def _floor(self) -> float:
        """Return the signal to noise of gradients that are noise only: of b batches, 1/√b."""
        return float(1 / np.sqrt(max(2, -(-int(4096 * self.train_share) // self.batch_size))))

    def _train(self, activation: str, seed: int, device: str) -> Training:
        import torch

        from vlsae.probes.network_batch import NetworkBatch

        inputs, labels = icosahedron_task()
        x = torch.tensor(inputs, dtype=torch.float32, device=device)
        y = torch.tensor(labels, device=device)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(x), generator=generator).to(device)
        train, held = order[: int(len(x) * self.train_share)], order[int(len(x) * self.train_share) :]
        networks = NetworkBatch(self.networks, [x.shape[1], *self.widths, 2], activation, seed, "truncated").to(device)
        optimizer = torch.optim.Adam(networks.parameters(), self.learning_rate)
        logged = sorted({round(float(one)) for one in np.geomspace(1, self.epochs, self.points)})
        planes, alone, signals, accuracies = [], [], [], []
        with progress(f"information plane, {activation}", self.epochs, "epochs") as advance:
            for epoch in range(1, self.epochs + 1):
                gradients = _epoch(networks, optimizer, x, y, train, self.batch_size, generator, epoch in logged)
                advance(1)
                if epoch not in logged:
                    continue
                with torch.no_grad():
                    layers = networks.layers(x)
                    accuracies.append((layers[-1][:, held].argmax(-1) == y[held]).double().mean(1).cpu().numpy())
                    layers[-1] = layers[-1].softmax(-1)
                plane, single = self._measured([one.cpu().numpy() for one in layers], labels, seed)
                planes.append(plane)
                alone.append(single)
                signals.append(gradients)
        return Training(logged, np.stack(planes), np.stack(alone), np.stack(signals), np.stack(accuracies))

    def _measured(self, layers: Sequence[np.ndarray], labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return both informations ``(L, B, M, 2)`` and the share of inputs alone in their symbol ``(L, B)``."""
        generator = np.random.default_rng(seed)
        some = generator.permutation(len(labels))[: self.rows]
        plane, alone = (
            np.empty((len(layers), self.networks, len(ESTIMATORS), 2)),
            np.empty((len(layers), self.networks)),
        )
        for number, layer in enumerate(layers):
            noise = generator.normal(size=(DRAWS * len(some), layer.shape[2])) * np.sqrt(self.variance)
            for network, t in enumerate(layer):
                edges, floor = mi_binned(t, labels), mi_binned(t, labels, code="floor")
                plane[number, network] = [
                    (edges.h_t, edges.i_ty),
                    (floor.h_t, floor.i_ty),
                    *noisy_information(t[some], labels[some], noise, self.variance),
                ]
                alone[number, network] = edges.singletons
        return plane, alone


def _epoch(
    networks: NetworkBatch,
    optimizer: Any,
    x: Tensor,
    y: Tensor,
    train: Tensor,
    batch_size: int,
    generator: Any,
    wanted: bool,
) -> np.ndarray:
    """Train one epoch; return the signal to noise ``(L, B)`` of each layer's gradients over its batches, if wanted.

    ‖mean‖/‖deviation‖ over batches of the weights' gradients, as the paper's code has it.
    """
    import torch
    from torch.nn import functional

    order = train[torch.randperm(len(train), generator=generator).to(train.device)]
    batches: list[list[Tensor]] = []
    for first in range(0, len(order), batch_size):
        rows = order[first : first + batch_size]
        logits = networks(x[rows])
        # The sum over networks of each one's mean: their gradients do not meet.
        losses = functional.cross_entropy(logits.flatten(0, 1), y[rows].repeat(len(logits)), reduction="sum")
        optimizer.zero_grad(set_to_none=True)
        (losses / len(rows)).backward()
        if wanted:
            batches.append([weight.grad.flatten(1).clone() for weight in networks.weights])  # type: ignore[union-attr]
        optimizer.step()
    if not wanted:
        return np.empty(0)
    found = []
    for layer in zip(*batches):
        stacked = torch.stack(layer)
        deviation = stacked.std(0, correction=0).norm(dim=1)
        found.append((stacked.mean(0).norm(dim=1) / deviation.clamp_min(1e-30)).cpu().numpy())
    return np.stack(found)


def _compression(found: Mapping[str, Training], names: Sequence[str]) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for activation, training in found.items():
        i_xt = training.plane[..., 0]
        drop = over_networks((i_xt.max(axis=0) - i_xt[-1]).swapaxes(0, 1))
        means = i_xt.mean(axis=2)
        for layer, name in enumerate(names):
            for kind, estimator in enumerate(ESTIMATORS):
                peak = int(means[:, layer, kind].argmax())
                ends = [float(part[layer, kind]) for part in (drop.estimate, drop.low, drop.high)]
                values = [float(means[epoch, layer, kind]) for epoch in (0, peak, -1)]
                single = float(training.singletons[-1, layer].mean())
                rows.append([activation, name, estimator, *ends, *values, training.epochs[peak], single])
    return rows


def _plane_rows(found: Mapping[str, Training], names: Sequence[str]) -> list[list[Any]]:
    return [
        [activation, network, epoch, name, estimator, *training.plane[row, layer, network, kind].tolist()]
        for activation, training in found.items()
        for row, epoch in enumerate(training.epochs)
        for layer, name in enumerate(names)
        for network in range(training.plane.shape[2])
        for kind, estimator in enumerate(ESTIMATORS)
    ]


def _gradient_rows(found: Mapping[str, Training], names: Sequence[str]) -> list[list[Any]]:
    return [
        [activation, epoch, name, float(training.snr[row, layer].mean()), float(training.accuracy[row].mean())]
        for activation, training in found.items()
        for row, epoch in enumerate(training.epochs)
        for layer, name in enumerate(names)
    ]


def _plane_plot(found: Mapping[str, Training], names: Sequence[str]) -> Plot:
    series = []
    for activation, training in found.items():
        means = training.plane.mean(axis=2)
        for kind, estimator in enumerate(ESTIMATORS):
            for layer, name in enumerate(names):
                x, y = means[:, layer, kind].T.tolist()
                series.append(Series(name, x, y, panel=f"{activation}: {estimator}"))
    return Plot("plane", "Information plane over training", "I(X;T) bits", "I(T;Y) bits", series, "scatter", PLANE)


def _time_plot(found: Mapping[str, Training], names: Sequence[str]) -> Plot:
    series = []
    for activation, training in found.items():
        bounds = over_networks(np.moveaxis(training.plane[..., 0], 2, 0))
        for kind, estimator in enumerate(ESTIMATORS):
            for layer, name in enumerate(names):
                value, low, high = (
                    np.asarray(part)[:, layer, kind].tolist() for part in (bounds.estimate, bounds.low, bounds.high)
                )
                series.append(Series(name, training.epochs, value, low, high, f"{activation}: {estimator}"))
    return Plot("input_information", "I(X;T) over training", "epoch", "bits", series, "lines", PLANE, log_x=True)


def _gradient_plot(found: Mapping[str, Training], names: Sequence[str], floor: float) -> Plot:
    series = []
    for activation, training in found.items():
        for layer, name in enumerate(names):
            series.append(Series(name, training.epochs, training.snr[:, layer].mean(axis=1).tolist(), panel=activation))
    return Plot(
        "gradients", "Signal to noise of gradients", "epoch", "norm of mean over norm of deviation", series, "lines",
        GRADIENTS, {"drift = diffusion": 1.0, "noise only": floor}, log_x=True, log_y=True,
    )  # fmt: skip


def _notes(found: Mapping[str, Training], last: int) -> list[str]:
    notes = list(FAILURES)
    for activation, training in found.items():
        crowded = int((training.singletons[-1, :-1].mean(axis=1) > 0.5).sum())
        if crowded:
            notes.append(
                f"{activation}: hidden layers in which over half of the inputs end alone in their symbol: {crowded}; "
                "there I(X;T) by edges is the sample's size, not information."
            )
    own = {"tanh": "edges", "relu": "floor"}
    if set(own) <= set(found):
        drops = {}
        for activation, code in own.items():
            i_xt = found[activation].plane[:, last, :, ESTIMATORS.index(code), 0]
            drops[activation] = float((i_xt.max(axis=0) - i_xt[-1]).mean())
        holds = drops["tanh"] >= 1 and drops["relu"] <= 0.3
        notes.append(
            f"Saturation compresses, not learning as such: {'holds' if holds else 'does not show'} here. The last "
            f"hidden layer loses {drops['tanh']:.2f} bits from its peak with tanh (edges; at least 1 expected) and "
            f"{drops['relu']:.2f} with ReLU (floor; at most 0.3 expected), means over the networks."
        )
    return notes


#: What each estimator cannot be trusted for, said with every result.
FAILURES = (
    "edges: 30 fixed edges on [-1, 1]; of ReLU units everything from 1 upward falls into one cell, so that growing "
    "activations look like compression.",
    "floor: cells of 0.07 without ends; wide layers put every input into a cell of its own, and I(X;T) is log2 n.",
    "kde upper, kde lower: of T plus Gaussian noise, whose variance decides the number; both end at log2 of the rows "
    "read; the differences for I(T;Y) are no bounds.",
    "nearest: Ross's estimator of T plus the same noise, inputs told apart by two draws each; it ends near log2 of the "
    "draws read, and saturated units, all in one place but for the noise, are where it is noisiest.",
    "The output compresses with every activation, for it approaches two points; it is evidence of nothing.",
    "A fall of signal to noise does not show what compresses: it comes with both activations.",
)
COMPRESSION_COLUMNS = [
    "activation", "layer", "estimator", "compression", "low", "high", "first epoch", "peak", "last", "peak epoch",
    "singletons",
]  # fmt: skip
PLANE_COLUMNS = ["activation", "network", "epoch", "layer", "estimator", "I(X;T)", "I(T;Y)"]
GRADIENT_COLUMNS = ["activation", "epoch", "layer", "signal to noise", "accuracy"]
COMPRESSION = (
    "Each network's largest I(X;T) less its last, in bits; 95 % intervals over networks; other columns are means."
)
PLANE = "In bits; points are means over networks at epochs spaced by ratio; a layer's first point is the first epoch."
GRADIENTS = "Of each layer's weights over the batches of an epoch, mean over networks; accuracy on held-out inputs."
