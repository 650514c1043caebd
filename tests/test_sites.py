"""Words for places in a model."""

from __future__ import annotations

import pytest

from vlsae.errors import UserError
from vlsae.models import Site, expand_sites
from vlsae.models.base import Model
from vlsae.models.sites import layers_of


def names(stream: str, layers: int) -> list[str]:
    found = [f"{stream}.0"]
    for layer in range(1, layers + 1):
        found += [f"{stream}.{layer}.attention", f"{stream}.{layer}.mlp", f"{stream}.{layer}"]
    return [*found, f"{stream}.embedding"]


class TwoTowers(Model):
    """Sites alone: three vision layers, two language layers."""

    def sites(self):
        return {name: Site(4, name) for name in (*names("vision", 3), *names("language", 2))}

    digest = load = prepare = represent = edit = lambda self, *_: None


MODEL = TwoTowers()


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("embedding", ["vision.embedding", "language.embedding"]),
        ("2", ["vision.2", "language.2"]),
        (2, ["vision.2", "language.2"]),
        (0, ["vision.0", "language.0"]),
        ("vision.3", ["vision.3"]),
        ("last", ["vision.3", "language.2"]),
        ("vision.last", ["vision.3"]),
        ("1.mlp", ["vision.1.mlp", "language.1.mlp"]),
        ("vision.all", ["vision.0", "vision.1", "vision.2", "vision.3", "vision.embedding"]),
        (["language.embedding", "vision.2", 2], ["vision.2", "language.2", "language.embedding"]),
        ("language.1, vision.0", ["vision.0", "language.1"]),
    ],
)
def test_words_mean_sites_in_the_order_of_the_model(wanted, expected):
    assert expand_sites(MODEL, wanted) == expected


def test_all_means_layers_and_embeddings_without_parts():
    found = expand_sites(MODEL, "all")
    assert len(found) == 4 + 3 + 2
    assert not any("mlp" in site or "attention" in site for site in found)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("-1", "negative"),
        ("vision.-1", "negative"),
        ("3", "language has layers 0…2"),
        ("vision.4", "vision has layers 0…3"),
        ("vision.2.attn", "a block's parts are attention and mlp"),
        ("embeding", "vision.embedding"),
        ("vison.2", "no site 'vison.2'.*\n.*vision.2"),
        ([], "No site"),
        ("", "There is no site"),
    ],
)
def test_what_means_nothing_is_refused_with_what_would(wanted, expected):
    with pytest.raises(UserError, match=expected):
        expand_sites(MODEL, wanted)


def test_layers_are_numbered_from_the_input_of_the_first_block():
    assert layers_of(MODEL.sites(), "vision") == [0, 1, 2, 3]
