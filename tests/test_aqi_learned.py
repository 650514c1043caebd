"""Learning weights of layers: finds the layer that separates, is not fooled by norms, says when it learns nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vlsae.aqi.learned import class_pairs, learn_weights
from vlsae.aqi.pooling import rms_scaled


def layers(signal=2, n=60, width=16):
    """Six layers of norms 1, 2, 4, …, 32, of which one tells the classes apart."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(n, 6, width, generator=generator, dtype=torch.float64)
    labels = torch.arange(n) % 2
    hidden[:, signal, 0] += 4.5 * labels
    return hidden * 2.0 ** torch.arange(6)[:, None], labels


def test_raw_hinge_follows_the_largest_norm_and_must_be_allowed():
    hidden, labels = layers()
    with pytest.raises(ValueError, match="AQI-L03"):
        learn_weights(hidden, labels)
    found = learn_weights(hidden, labels, allow_raw=True)
    assert int(found.weights.argmax()) == 5


@pytest.mark.parametrize("loss", ["hinge_push_pull", "fisher"])
@pytest.mark.parametrize("kind", ["softmax", "sparsemax", "entmax15"])
def test_scaled_rows_lead_to_the_layer_with_the_signal(loss, kind):
    hidden, labels = layers()
    found = learn_weights(rms_scaled(hidden), labels, loss=loss, kind=kind)
    assert found.status == "ok"
    assert int(found.weights.argmax()) == 2
    assert float(found.weights.sum()) == pytest.approx(1)


def test_push_alone_is_met_by_any_layer_that_varies_by_itself():
    """Averaging independent layers shortens rows, so weight on a few of them lengthens all pairs, signal or none."""
    hidden, labels = layers()
    found = learn_weights(rms_scaled(hidden), labels, loss="hinge_push")
    assert found.losses[0] > 0.1
    assert found.losses[-1] == 0
    assert int(found.weights.argmax()) != 2


def test_fisher_finds_it_at_any_scale():
    hidden, labels = layers()
    assert float(learn_weights(hidden, labels, loss="fisher").weights[2]) > 0.8


def test_nothing_to_learn_is_said():
    hidden, labels = layers()
    uniform = [1 / 6] * 6
    found = learn_weights(rms_scaled(hidden), labels, margin=0.0)
    assert (found.status, found.weights.tolist()) == ("margin_inactive", pytest.approx(uniform))
    same = torch.cat([hidden, hidden])
    found = learn_weights(same, torch.arange(120) // 60, loss="fisher")
    assert (found.status, found.weights.tolist()) == ("no_signal", pytest.approx(uniform))


def test_pairs_of_large_sets_are_drawn_evenly_over_strata():
    labels, strata = np.arange(1000) % 2, (np.arange(1000) < 50).astype(int)
    across, same = class_pairs(labels, 500, strata)
    assert across.shape == (500, 2)
    assert (labels[across[:, 0]] == 0).all()
    assert (labels[across[:, 1]] == 1).all()
    assert strata[across.numpy()].mean() == pytest.approx(0.5, abs=0.06)
    assert (labels[same[:, 0]] == labels[same[:, 1]]).all()
    assert (same[:, 0] != same[:, 1]).all()
    assert torch.equal(class_pairs(labels, 500, strata)[0], across)
    assert len(class_pairs(labels[:20])[0]) == 100


def test_wrong_input_is_named():
    hidden, labels = layers()
    with pytest.raises(ValueError, match="loss 'hinge'"):
        learn_weights(hidden, labels, loss="hinge")
    with pytest.raises(ValueError, match="'hardmax'"):
        learn_weights(hidden, labels, kind="hardmax")
    with pytest.raises(ValueError, match="two classes; got 1"):
        learn_weights(rms_scaled(hidden), labels * 0)
    with pytest.raises(ValueError, match=r"hidden has shape \(60, 6\)"):
        learn_weights(hidden[:, :, 0], labels)
