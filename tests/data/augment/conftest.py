"""Samples written out as drawings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from codetr.data.augment.objects import tight_boxes
from codetr.data.coco import Sample
from codetr.structures import ImageInfo

Drawing = Sequence[str]
Draw = Callable[..., Sample]


@pytest.fixture
def draw() -> Draw:
    """Makes a sample of a drawing: each letter is an object, its label the place of the letter in `names`.

    The pixels of letter number n are n + 1 in all channels, plus `base`; those of `.` are `base`.
    """

    def make(drawing: Drawing, names: str = "ABCDEFGH", *, base: int = 0, masks: bool = True) -> Sample:
        grid = torch.tensor([[ord(letter) for letter in row] for row in drawing])
        letters = [letter for letter in names if any(letter in row for row in drawing)]
        image = torch.full((3, *grid.shape), base, dtype=torch.uint8)
        for letter in letters:
            image[:, grid == ord(letter)] = base + 1 + names.index(letter)
        found = torch.stack([grid == ord(letter) for letter in letters]) if letters else torch.zeros(0, *grid.shape)
        found = found.bool()
        labels = torch.tensor([names.index(letter) for letter in letters], dtype=torch.int64)
        size = (grid.shape[0], grid.shape[1])
        info = ImageInfo(1, "x.png", size)
        return Sample(image, tight_boxes(found), labels, torch.zeros(0, 4), found if masks else None, info)

    return make


@pytest.fixture
def drawn() -> Callable[[Sample], list[list[str]]]:
    """The masks of a sample as drawings of # and dots, one for each object."""

    def show(sample: Sample) -> list[list[str]]:
        assert sample.masks is not None
        return [["".join(".#"[pixel] for pixel in row) for row in mask] for mask in sample.masks.int().tolist()]

    return show
