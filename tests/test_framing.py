"""Where the patches of a model lie in a picture, told by its own transform."""

from __future__ import annotations

import pytest
from tiny_clip import write_clip

from vlsae.models import CLIP
from vlsae.models.framing import Framing, framing
from vlsae.reporting.gallery import Sources, card_of
from vlsae.reporting.privacy import Privacy
from vlsae.reporting.token_marks import Marks


class Transformed:
    """A model of which only the transform of pictures counts."""

    def __init__(self, transform):
        self.transform = transform

    def prepare(self, images=None, texts=None):
        import torch
        from PIL import Image

        from vlsae.models import Batch

        return Batch(vision=torch.stack([self.transform(Image.fromarray(one)) for one in images]))


@pytest.mark.parametrize(("mode", "expected"), [("shortest", Framing(True, 1.0)), ("squash", Framing(False, 1.0))])
def test_a_transform_is_told_by_what_it_keeps(tmp_path, mode, expected):
    model = CLIP(checkpoint=f"path:{write_clip(tmp_path, preprocess={'resize_mode': mode})}")
    assert framing(model) == pytest.approx(expected, abs=0.03)


def test_a_crop_within_the_middle_square_has_its_share():
    from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor

    last = [ToTensor(), Normalize([0.5, 0.4, 0.3], [0.2, 0.25, 0.3])]
    seen = framing(Transformed(Compose([Resize(128), CenterCrop(112), *last])))
    assert seen == pytest.approx(Framing(True, 0.875), abs=0.02)
    assert framing(Transformed(Compose([Resize((64, 32)), *last]))) is None


@pytest.mark.parametrize(("marks", "cut", "margin"), [({}, True, 0), ({"cut": False, "share": 0.8}, False, 0.5)])
def test_patches_lie_within_what_is_seen(marks, cut, margin):
    patches = [[1.0, 0.0, 0.0, 0.0]] * 4
    item = {"pair_id": "a", "path": None, "act": 2.0}
    statistics = {"freq_v": 0.1, "mean_v": 0.1, "dead_v": False, "freq_l": None, "mean_l": None, "dead_l": None}
    lists = {"mean_activation": 0.1, "images": [item], "texts": [], "density_v": [1], "density_l": None}
    concept = {"id": 0, "name": None, **statistics, **lists}
    card = card_of(concept, None, Sources({"a": b"\x89PNG"}), Marks({}, {"a": patches}, **marks), Privacy())
    picture = card.pictures[0][1][0]
    assert (picture.patches, picture.cut, picture.margin) == (patches, cut, margin)
