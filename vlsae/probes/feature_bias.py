"""probe=feature_bias: how much of each layer two features explain that a network computes equally well.

After Lampinen et al. (2024, arXiv 2405.05847). Shapes: B networks, n items, L hidden layers, 2 features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from vlsae.bounds import OneOf, Range
from vlsae.probes.base import Probe, Representations
from vlsae.probes.over_networks import measure_over_networks, over_networks
from vlsae.probes.targets import Targets
from vlsae.probes.variance import variance_explained
from vlsae.progress import progress
from vlsae.result import Measure, Plot, Result, Series, Table

#: The names of both features of each contrast. The first is the one that the paper finds to explain more.
CONTRASTS = {
    "difficulty": ("easy", "hard"),
    "order": ("early", "late"),
    "prevalence": ("frequent", "rare"),
    "equal": ("one", "other"),
}

#: Bits of an input: five of the features and others that say nothing.
BITS = 16

#: A feature is learned from this accuracy on items that were not trained on.
LEARNED = 0.99


@dataclass(frozen=True)
class Trained:
    """Networks of one contrast: ``accuracy (B, 2)`` on held-out items; ``pooled``, ``per_sample (L, B, 2)`` of each
    feature and ``joint (L, B)`` of both, variance explained on items that neither training nor fit saw."""

    accuracy: np.ndarray
    pooled: np.ndarray
    per_sample: np.ndarray
    joint: np.ndarray

    @property
    def learned(self) -> np.ndarray:
        """Which networks compute both features ``(B,)``."""
        return np.asarray((self.accuracy >= LEARNED).all(axis=1))


class FeatureBias(Probe):
    """Variance of each hidden layer that two features explain, in networks trained here to compute both.

    Inputs are 16 fair bits. ``difficulty``: a bit against the parity of ``parity`` others; ``order``: two bits, one of
    which is trained alone for the first half; ``prevalence``: two bits, one of which counts in a share ``rare`` of the
    items; ``equal``: two bits alike, the control. ``networks`` seeds are trained side by side.
    """

    reads = "nothing"

    def __init__(
        self,
        *,
        contrasts: list[Annotated[str, OneOf("difficulty", "order", "prevalence", "equal")]] | None = None,
        parity: Annotated[int, Range(2, 8)] = 4,
        rare: Annotated[float, Range(0.01, 1.0)] = 0.1,
        widths: list[Annotated[int, Range(1, 4096)]] | None = None,
        activation: Annotated[str, OneOf("relu", "tanh", "elu", "softsign", "softplus", "linear")] = "relu",
        networks: Annotated[int, Range(2, 100)] = 5,
        steps: Annotated[int, Range(2, None)] = 2500,
        items: Annotated[int, Range(64, None)] = 4096,
        learning_rate: Annotated[float, Range(1e-8, 10)] = 1e-3,
        batch_size: Annotated[int, Range(1, None)] = 256,
    ) -> None:
        self.contrasts = list(dict.fromkeys(contrasts or CONTRASTS))
        self.parity, self.rare, self.widths, self.activation = parity, rare, list(widths or (64,) * 4), activation
        self.networks, self.steps, self.items = networks, steps, items
        self.learning_rate, self.batch_size = learning_rate, batch_size

    def measure(self, representations: Representations, targets: Targets) -> Result:
        """Return the variance that each feature explains by layer, over the networks that learned both features."""
        found: dict[str, Trained] = {}
        with progress("feature bias", self.steps * len(self.contrasts), "steps") as advance:
            for contrast in self.contrasts:
                found[contrast] = self._train(contrast, representations.seed, representations.device, advance)
        metrics: dict[str, Measure] = {}
        for contrast, trained in found.items():
            for number, name in enumerate(CONTRASTS[contrast]):
                metrics[f"accuracy/{contrast}/{name}"] = measure_over_networks(trained.accuracy[:, number], "share")
        layers = [_layer(contrast, layer, found[contrast]) for contrast in found for layer in range(len(self.widths))]
        for row in layers:
            place = f"{row[0]}/layer {row[1]}"
            for start, name in ((2, CONTRASTS[row[0]][0]), (5, CONTRASTS[row[0]][1])):
                metrics[f"explained/{name}/{place}"] = Measure(row[start], "share", row[start + 1], row[start + 2])
            metrics[f"difference/{place}"] = Measure(row[8], "share", row[9], row[10])
        tables = [
            Table("layers", "Variance explained by layer", LAYER_COLUMNS, layers, EXPLAINED, shown=True),
            Table("networks", "Every network", NETWORK_COLUMNS, _network_rows(found), EXPLAINED),
        ]
        headline = [f"difference/{contrast}/layer {len(self.widths)}" for contrast in found]
        return Result(metrics, tables, [_plot(found)], _notes(found, self.networks), headline)

    def _train(self, contrast: str, seed: int, device: str, advance: Any) -> Trained:
        import torch
        from torch.nn import functional

        from vlsae.probes.network_batch import NetworkBatch

        inputs, features = factorial_items(contrast, 3 * self.items, self.parity, seed)
        x = torch.tensor(2.0 * inputs - 1, dtype=torch.float32, device=device)
        y = torch.tensor(features, dtype=torch.float32, device=device)
        weights = torch.tensor(self._weights(contrast, seed), dtype=torch.float32, device=device)
        networks = NetworkBatch(self.networks, [BITS, *self.widths, 2], self.activation, seed).to(device)
        optimizer = torch.optim.Adam(networks.parameters(), self.learning_rate)
        generator = torch.Generator().manual_seed(seed)
        for step in range(self.steps):
            rows = torch.randint(self.items, (self.batch_size,), generator=generator).to(device)
            counted = weights[rows].clone()
            if contrast == "order" and step < self.steps // 2:
                counted[:, 1] = 0
            logits = networks(x[rows])
            loss = functional.binary_cross_entropy_with_logits(logits, y[rows].expand_as(logits), reduction="none")
            optimizer.zero_grad(set_to_none=True)
            ((loss * counted).sum() / self.batch_size).backward()
            optimizer.step()
            advance(1)
        with torch.no_grad():
            *hidden, logits = (one[:, self.items :].cpu().numpy() for one in networks.layers(x))
        fit, score = slice(0, self.items), slice(self.items, None)
        truth = features[self.items :]
        accuracy = ((logits > 0) == (truth == 1))[:, score].mean(axis=1)
        explained = [
            [variance_explained(own[fit], truth[fit], own[score], truth[score]) for own in layer] for layer in hidden
        ]
        pooled, per_sample, joint = (
            np.array([[getattr(one, name) for one in layer] for layer in explained])
            for name in ("pooled", "per_sample", "joint_pooled")
        )
        return Trained(accuracy, pooled, per_sample, joint)

    def _weights(self, contrast: str, seed: int) -> np.ndarray:
        """Return how much each feature of each training item counts in the loss ``(n, 2)``."""
        weights = np.ones((self.items, 2))
        if contrast == "prevalence":
            weights[:, 1] = np.random.default_rng(seed).random(self.items) < self.rare
        return weights


def factorial_items(contrast: str, n: int, parity: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return drawn bits ``(n, 16)`` and both features ``(n, 2)``, all 0 or 1, fair and independent of each other."""
    bits = np.random.default_rng(seed).integers(0, 2, (n, BITS))
    second = bits[:, 1 : 1 + parity].sum(axis=1) % 2 if contrast == "difficulty" else bits[:, 1]
    return bits, np.stack([bits[:, 0], second], axis=1)


def _layer(contrast: str, layer: int, trained: Trained) -> list[Any]:
    own = trained.pooled[layer, trained.learned]
    both, apart = over_networks(own), over_networks(own[:, 0] - own[:, 1])
    parts = [float(np.asarray(end)[k]) for k in range(2) for end in (both.estimate, both.low, both.high)]
    ends = [float(end) for end in (apart.estimate, apart.low, apart.high)]
    joint = float(over_networks(trained.joint[layer, trained.learned]).estimate)
    return [contrast, layer + 1, *parts, *ends, joint, int((own[:, 0] > own[:, 1]).sum()), len(own)]


def _network_rows(found: Mapping[str, Trained]) -> list[list[Any]]:
    return [
        [contrast, network, layer + 1, *trained.accuracy[network].tolist(), *trained.pooled[layer, network].tolist(),
         *trained.per_sample[layer, network].tolist(), float(trained.joint[layer, network])]
        for contrast, trained in found.items()
        for network in range(len(trained.accuracy))
        for layer in range(len(trained.pooled))
    ]  # fmt: skip


def _plot(found: Mapping[str, Trained]) -> Plot:
    series = []
    for contrast, trained in found.items():
        bounds = over_networks(trained.pooled[:, trained.learned].swapaxes(0, 1))
        x = [f"layer {layer + 1}" for layer in range(len(trained.pooled))]
        for number, name in enumerate(CONTRASTS[contrast]):
            value, low, high = (
                np.asarray(end)[:, number].tolist() for end in (bounds.estimate, bounds.low, bounds.high)
            )
            series.append(Series(name, x, value, low, high, contrast))
    return Plot("explained", "Variance explained by layer", "layer", "share of variance", series, "lines", EXPLAINED)


def _notes(found: Mapping[str, Trained], networks: int) -> Sequence[str]:
    notes = []
    for contrast, trained in found.items():
        left = networks - int(trained.learned.sum())
        if left:
            notes.append(
                f"{contrast}: {left} of {networks} networks did not learn both features to {LEARNED:.0%}; they are "
                "left out, for features can only be compared where both are computed. More steps may mend it."
            )
    return notes


LAYER_COLUMNS = [
    "contrast", "layer", "first", "first low", "first high", "second", "second low", "second high", "difference", "low",
    "high", "joint", "first is more", "networks",
]  # fmt: skip
NETWORK_COLUMNS = [
    "contrast", "network", "layer", "accuracy first", "accuracy second", "pooled first", "pooled second",
    "per sample first", "per sample second", "joint",
]  # fmt: skip
EXPLAINED = (
    "R2 of a layer's units from one feature, pooled over items that neither training nor fit saw. First and second are "
    "easy and hard, early and late, frequent and rare, one and other. Means and 95 % t intervals over networks that "
    "compute both features."
)
