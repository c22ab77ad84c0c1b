"""A small pyramid and batches of objects for the one-to-many heads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from codetr.structures import Pyramid, Targets

STRIDES = (8, 16, 32, 64)


@pytest.fixture
def pyramid() -> Pyramid:
    """A batch of two images of 64 x 96, the second valid to 48 x 72; 32 channels."""
    maps = tuple(torch.randn(2, 32, -(-64 // s), -(-96 // s), requires_grad=True) for s in STRIDES)
    return Pyramid(maps, STRIDES, torch.tensor([[64.0, 96.0], [48.0, 72.0]]))


@pytest.fixture
def objects() -> Callable[[str], Targets]:
    """Objects in `both` images, in the first `one`, or in `none`; padded by one more."""

    def make(which: str) -> Targets:
        boxes = torch.tensor(
            [[[8.0, 8, 50, 56], [60, 4, 80, 30], [0, 0, 0, 0]], [[4, 4, 60, 44], [0, 0, 0, 0], [0, 0, 0, 0]]]
        )
        labels = torch.tensor([[1, 3, 0], [2, 0, 0]])
        counts = {"both": (2, 1), "one": (2, 0), "none": (0, 0)}[which]
        valid = torch.arange(3) < torch.tensor(counts).unsqueeze(1)
        return Targets(boxes * valid.unsqueeze(2), labels * valid, valid, counts)

    return make
