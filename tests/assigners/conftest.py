"""Priors and targets from plain lists."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from codetr.assigners.contract import Priors
from codetr.structures import Targets

MakeTargets = Callable[..., Targets]
MakePriors = Callable[..., Priors]


@pytest.fixture
def make_targets() -> MakeTargets:
    """Ground truths of each image, a list of boxes, padded; their labels count up."""

    def make(*images: list[list[float]], padding: int = 0, dtype: torch.dtype = torch.float32) -> Targets:
        most = max(1, *(len(image) for image in images)) + padding
        boxes = torch.zeros(len(images), most, 4, dtype=dtype)
        for row, image in zip(boxes, images, strict=True):
            row[: len(image)] = torch.tensor(image, dtype=dtype).view(-1, 4)
        counts = tuple(len(image) for image in images)
        valid = torch.arange(most) < torch.tensor(counts).unsqueeze(1)
        return Targets(boxes, torch.arange(most).expand(len(images), most) * valid, valid, counts)

    return make


@pytest.fixture
def make_priors() -> MakePriors:
    """Priors that are all valid, on one level unless told otherwise."""

    def make(boxes: Tensor, *, images: int = 1, level_sizes: tuple[int, ...] | None = None) -> Priors:
        valid = torch.ones(images, boxes.shape[-2], dtype=torch.bool)
        return Priors(boxes, valid, level_sizes or (boxes.shape[-2],))

    return make
