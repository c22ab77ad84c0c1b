from __future__ import annotations

import numpy as np
import torch

from codetr.data.coco import Sample
from codetr.data.collate import collate
from codetr.data.preview import BRIGHT, DARK, caption, picture
from codetr.data.transforms import normalise
from codetr.structures import Batch, ImageInfo


def _batch(*, masks: bool = True) -> Batch:
    """A blue image with an object and a crowd region, and a larger one without anything."""
    blue = torch.tensor([0, 0, 200], dtype=torch.uint8)[:, None, None].expand(3, 500, 600).contiguous()
    box = torch.tensor([[100.0, 50, 300, 250]])
    found = torch.zeros(1, 500, 600, dtype=torch.bool)
    found[0, 50:250, 100:300] = True
    crowd = torch.tensor([[400.0, 300, 500, 400]])
    first = Sample(
        normalise(blue), box, torch.tensor([1]), crowd, found if masks else None, ImageInfo(1, "a/b.jpg", (50, 60))
    )
    none = torch.zeros(0, 4)
    empty = torch.zeros(0, 520, 640, dtype=torch.bool) if masks else None
    second = Sample(
        normalise(torch.zeros(3, 520, 640, dtype=torch.uint8)),
        none,
        torch.zeros(0, dtype=torch.int64),
        none,
        empty,
        ImageInfo(2, "c.jpg", (52, 64)),
    )
    return collate([first, second])


def test_pixels_are_those_before_normalisation_and_padding_is_striped() -> None:
    pixels = np.asarray(picture(_batch(), 0, ("cat", "dog")))
    assert pixels.shape == (520, 640, 3)
    assert pixels[10, 10].tolist() == [0, 0, 200]
    assert set(np.unique(pixels[505:, :])) == set(np.unique(pixels[:, 605:])) == {DARK, BRIGHT}
    assert (np.asarray(picture(_batch(), 1, ("cat", "dog"))) == 0).all()


def test_objects_masks_and_crowd_regions_are_drawn() -> None:
    pixels = np.asarray(picture(_batch(), 0, ("cat", "dog")))
    plain = np.asarray(picture(_batch(masks=False), 0, ("cat", "dog")))
    assert (pixels[50, 150] != [0, 0, 200]).any() and (plain[50, 150] != [0, 0, 200]).any()  # the box
    assert (pixels[150, 200] != [0, 0, 200]).any() and plain[150, 200].tolist() == [0, 0, 200]  # the mask
    assert len(set(pixels[350, 400].tolist())) == 1  # the crowd's frame is grey
    assert pixels[350, 450].tolist() == [0, 0, 200]


def test_caption() -> None:
    assert caption(_batch(), 0) == "b.jpg  60 x 50 to 600 x 500"
