"""probe=feature_bias: how much of each layer two features explain that a network computes equally well.

After Lampinen et al. (2024, arXiv 2405.05847). Shapes: B networks, n items, L hidden layers, 2 features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from vlsae.bounds import OneOf, Range
from vlsae.errors import UserError
from vlsae.probes.base import Probe, Representations
from vlsae.probes.over_networks import measure_over_networks, over_networks
from vlsae.probes.targets import Targets
from vlsae.probes.variance import variance_explained
from vlsae.progress import progress
from vlsae.result import Measure, Plot, Result, Series, Table

if TYPE_CHECKING:
    from vlsae.probes.module_batch import ModuleBatch
    from vlsae.probes.network_batch import NetworkBatch

#: The names of both features of each contrast. The first is the one that the paper finds to explain more.
CONTRASTS = {
    "difficulty": ("easy", "hard"),
    "order": ("early", "late"),
    "prevalence": ("frequent", "rare"),
    "equal": ("one", "other"),
    "position": ("decoded first", "decoded last"),
}

#: The contrast that only a network has which decodes its outputs one after the other.
POSITION = "position"

#: Bits of an input: five of the features and others that say nothing.
BITS = 16

#: Hidden layers where none are named: units, channels, or the width of a sequence.
WIDTHS = {"mlp": (64,) * 4, "cnn": (16,) * 3, "residual_cnn": (16,) * 3, "transformer": (32,) * 2}

#: Bits that a decoding network reads and writes.
READ, WRITTEN = 12, 4

#: Items whose layers are held at once on the device.
ROWS = 1024

#: A feature is learned from this accuracy on items that were not trained on.
LEARNED = 0.99


@dataclass(frozen=True)
class Trained:
    """Networks of one contrast: ``accuracy (B, 2)`` on held-out items; ``pooled``, ``per_sample (L, B, 2)`` of each
    feature and ``joint (L, B)`` of all, variance explained on items that neither training nor fit saw. Where a side
    has several features its numbers are their means, its accuracy the least; ``each (L, B, q)`` is of every feature."""

    accuracy: np.ndarray
    pooled: np.ndarray
    per_sample: np.ndarray
    joint: np.ndarray
    each: np.ndarray

    @property
    def learned(self) -> np.ndarray:
        """Which networks compute both features ``(B,)``."""
        return np.asarray((self.accuracy >= LEARNED).all(axis=1))


class FeatureBias(Probe):
    """Variance of each hidden layer that two features explain, in networks trained here to compute both.

    Inputs are 16 fair bits. ``difficulty``: a bit against the parity of ``parity`` others; ``order``: two bits, one of
    which is trained alone for the first half; ``prevalence``: two bits, one of which counts in a share ``rare`` of the
    items; ``equal``: two bits alike, the control; ``position``: four of twelve bits, decoded one after the other by a
    transformer, the first two against the last two. ``architecture`` ``cnn`` sees the bits as a picture,
    ``transformer`` as a sequence. ``networks`` seeds are trained side by side.
    """

    reads = "nothing"

    def __init__(
        self,
        *,
        architecture: Annotated[str, OneOf("mlp", "cnn", "residual_cnn", "transformer")] = "mlp",
        contrasts: list[Annotated[str, OneOf("difficulty", "order", "prevalence", "equal", "position")]] | None = None,
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
        possible = [one for one in CONTRASTS if one != POSITION or architecture == "transformer"]
        self.architecture, self.contrasts = architecture, list(dict.fromkeys(contrasts or possible))
        if not set(self.contrasts) <= set(possible):
            raise UserError(
                f"probe.contrasts names position, and a network of probe.architecture={architecture} decodes nothing.",
                "Use probe.architecture=transformer.",
            )
        self.widths = list(widths or WIDTHS[architecture])
        if architecture == "transformer" and (len(set(self.widths)) > 1 or self.widths[0] % 2):
            raise UserError(f"probe.widths={self.widths}: a transformer's layers have one even width.", "Use [32, 32].")
        self.parity, self.rare, self.activation = parity, rare, activation
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
        if POSITION in found:
            tables.append(
                Table("positions", "By place in the output", POSITION_COLUMNS, _position_rows(found[POSITION]))
            )
        headline = [f"difference/{contrast}/layer {len(self.widths)}" for contrast in found]
        return Result(metrics, tables, [_plot(found)], _notes(found, self.networks), headline)

    def _train(self, contrast: str, seed: int, device: str, advance: Any) -> Trained:
        import torch
        from torch.nn import functional

        if contrast == POSITION:
            return self._train_position(seed, device, advance)
        inputs, features = factorial_items(contrast, 3 * self.items, self.parity, seed)
        x = torch.tensor(2.0 * inputs - 1, dtype=torch.float32, device=device)
        y = torch.tensor(features, dtype=torch.float32, device=device)
        weights = torch.tensor(self._weights(contrast, seed), dtype=torch.float32, device=device)
        networks = self._networks(seed).to(device)
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
            parts = [networks.layers(x[rows]) for rows in torch.arange(self.items, 3 * self.items).split(ROWS)]
        *hidden, logits = (np.concatenate([one.cpu().numpy() for one in layer], axis=1) for layer in zip(*parts))
        truth = np.broadcast_to(features[self.items :], logits.shape)
        return explained(hidden, logits, truth, self.items, [[0], [1]])

    def _networks(self, seed: int) -> NetworkBatch | ModuleBatch:
        from vlsae.probes.feature_networks import ConvolutionalNetwork, SequenceNetwork
        from vlsae.probes.module_batch import ModuleBatch
        from vlsae.probes.network_batch import NetworkBatch

        widths, activation = self.widths, self.activation
        if self.architecture == "mlp":
            return NetworkBatch(self.networks, [BITS, *widths, 2], activation, seed)
        if self.architecture == "transformer":
            return ModuleBatch(self.networks, lambda: SequenceNetwork(BITS, widths[0], len(widths), 2), seed)
        residual = self.architecture == "residual_cnn"
        return ModuleBatch(self.networks, lambda: ConvolutionalNetwork(widths, 2, activation, residual), seed)

    def _train_position(self, seed: int, device: str, advance: Any) -> Trained:
        """Train networks that write four of twelve bits, which of them being drawn for each network."""
        import torch
        from torch.nn import functional

        from vlsae.probes.feature_networks import DecodingNetwork
        from vlsae.probes.module_batch import ModuleBatch

        draws = np.random.default_rng(seed)
        bits = draws.integers(0, 2, (3 * self.items, READ))
        order = np.stack([draws.permutation(READ)[:WRITTEN] for _ in range(self.networks)])
        features = bits[:, order].swapaxes(0, 1)
        x = torch.tensor(2.0 * bits - 1, dtype=torch.float32, device=device)
        x = x.expand(self.networks, *x.shape)
        y = torch.tensor(features, dtype=torch.long, device=device)
        width, depth = self.widths[0], len(self.widths)
        networks = ModuleBatch(self.networks, lambda: DecodingNetwork(READ, width, depth, WRITTEN), seed).to(device)
        optimizer = torch.optim.Adam(networks.parameters(), self.learning_rate)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(self.steps):
            rows = torch.randint(self.items, (self.batch_size,), generator=generator).to(device)
            logits = networks(x[:, rows], y[:, rows], own=True)
            loss = functional.binary_cross_entropy_with_logits(logits, y[:, rows].float(), reduction="sum")
            optimizer.zero_grad(set_to_none=True)
            (loss / self.batch_size).backward()
            optimizer.step()
            advance(1)
        with torch.no_grad():
            held = torch.arange(self.items, 3 * self.items).split(ROWS)
            parts = [networks.layers(x[:, rows], y[:, rows], own=True) for rows in held]
        *hidden, logits = (np.concatenate([one.cpu().numpy() for one in layer], axis=1) for layer in zip(*parts))
        half = WRITTEN // 2
        return explained(hidden, logits, features[:, self.items :], self.items, [range(half), range(half, WRITTEN)])

    def _weights(self, contrast: str, seed: int) -> np.ndarray:
        """Return how much each feature of each training item counts in the loss ``(n, 2)``."""
        weights = np.ones((self.items, 2))
        if contrast == "prevalence":
            weights[:, 1] = np.random.default_rng(seed).random(self.items) < self.rare
        return weights


def explained(
    hidden: Sequence[np.ndarray], logits: np.ndarray, truth: np.ndarray, n: int, sides: Sequence[Sequence[int]]
) -> Trained:
    """Return what features ``truth (B, 2n, q)`` explain of layers ``(B, 2n, w)``, fitted on the first n items.

    ``logits (B, 2n, q)`` tell which are computed; ``sides`` names the features of both sides of a contrast.
    """
    fit, score = slice(0, n), slice(n, None)
    right = ((logits > 0) == (truth == 1))[:, score].mean(axis=1)
    found = [
        [variance_explained(own[fit], f[fit], own[score], f[score]) for own, f in zip(layer, truth)] for layer in hidden
    ]
    pooled, per_sample, joint = (
        np.array([[getattr(one, name) for one in layer] for layer in found])
        for name in ("pooled", "per_sample", "joint_pooled")
    )
    accuracy = np.stack([right[:, list(side)].min(axis=1) for side in sides], axis=1)
    halves = [np.stack([one[..., list(side)].mean(axis=-1) for side in sides], axis=-1) for one in (pooled, per_sample)]
    return Trained(accuracy, halves[0], halves[1], joint, pooled)


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


def _position_rows(trained: Trained) -> list[list[Any]]:
    return [
        [layer + 1, network, place + 1, float(trained.each[layer, network, place])]
        for layer, network, place in np.ndindex(*trained.each.shape)
    ]


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
POSITION_COLUMNS = ["layer", "network", "place", "pooled"]
EXPLAINED = (
    "R2 of a layer's units from one feature, pooled over items that neither training nor fit saw. First and second are "
    "easy and hard, early and late, frequent and rare, one and other, decoded first and last. Means and 95 % t "
    "intervals over networks that compute both features."
)
