"""Assignment of points to objects whose middle they lie in."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.fcos import FCOS

from codetr.assigners.contract import Priors
from codetr.assigners.fcos import FCOSAssigner, size_ranges
from codetr.models.parts.priors import AnchorGrid
from codetr.structures import Pyramid, Targets

MakeTargets = Callable[..., Targets]


def points(*, images: int = 1) -> Priors:
    """Levels of 4 x 4 and 2 x 2 points, strides 8 and 16."""
    maps = (torch.zeros(images, 1, 4, 4), torch.zeros(images, 1, 2, 2))
    sizes = torch.tensor([[32.0, 32.0]]).repeat(images, 1)
    sizes[-1, 1] = 32.0 if images == 1 else 16.0
    return AnchorGrid(scale=8, offset=0.5).priors(Pyramid(maps, (8, 16), sizes))


def test_ranges_are_the_paper_s() -> None:
    assert size_ranges((8, 16, 32, 64, 128)) == ((-1, 64), (64, 128), (128, 256), (256, 512), (512, math.inf))
    assert size_ranges((4, 8)) == ((-1, 32), (32, math.inf))


def test_literal(make_targets: MakeTargets) -> None:
    """Points at 4, 12, 20, 28: within 12 of the centre 16 are the two in the middle, 4 and 28 are on the border."""
    index = FCOSAssigner((8, 16)).assign(points(), make_targets([[0.0, 0, 32, 32]]))
    assert index.shape == (1, 20)
    assert index[0, :16].view(4, 4).tolist() == [[-1] * 4, [-1, 0, 0, -1], [-1, 0, 0, -1], [-1] * 4]
    assert index[0, 16:].tolist() == [-1] * 4  # sides of at most 24 are no sizes for the second level


def test_the_whole_box(make_targets: MakeTargets) -> None:
    index = FCOSAssigner((8, 16), radius=None).assign(points(), make_targets([[0.0, 0, 32, 32]]))
    assert index[0, :16].tolist() == [0] * 16


def test_sizes_choose_the_level(make_targets: MakeTargets) -> None:
    """A side 100 away is no size for the first level, whose largest is 64."""
    index = FCOSAssigner((8, 16)).assign(points(), make_targets([[-76.0, -76, 108, 108]]))
    assert index.tolist() == [[-1] * 16 + [0] * 4]
    narrow = FCOSAssigner((8, 16), ranges=((64.0, 200.0), (200.0, 300.0)))
    index = narrow.assign(points(), make_targets([[-76.0, -76, 108, 108]]))
    assert index[0, 16:].tolist() == [-1] * 4 and (index[0, :16] == 0).sum() == 4


def test_the_smallest_object_then_the_first(make_targets: MakeTargets) -> None:
    large, small = [0.0, 0, 32, 32], [8.0, 8, 24, 24]
    index = FCOSAssigner((8, 16)).assign(points(), make_targets([large, small, small]))
    assert index[0, :16].view(4, 4)[1:3, 1:3].tolist() == [[1, 1], [1, 1]]


def test_images_without_objects_and_padding(make_targets: MakeTargets) -> None:
    index = FCOSAssigner((8, 16)).assign(points(images=2), make_targets([], [[0.0, 0, 32, 32]]))
    assert index[0].tolist() == [-1] * 20
    assert index[1, :16].view(4, 4).tolist() == [
        [-1, -1, -2, -2],
        [-1, 0, -2, -2],
        [-1, 0, -2, -2],
        [-1, -1, -2, -2],
    ]


def matched_by_torchvision(targets: Targets, anchors: Tensor, level_sizes: tuple[int, ...]) -> Tensor:
    """(B, P) of its FCOS: -1 where there is none. Its anchors are squares of one stride round the points."""

    def matches(_targets: Any, _outputs: Any, _anchors: Any, matched_idxs: list[Tensor]) -> Tensor:
        return torch.stack(matched_idxs)

    model = SimpleNamespace(center_sampling_radius=1.5, head=SimpleNamespace(compute_loss=matches))
    real = [{"boxes": boxes[valid]} for boxes, valid in zip(targets.boxes, targets.valid, strict=True)]
    found: Tensor = FCOS.compute_loss(model, real, {}, [anchors] * len(real), list(level_sizes))
    return found


@pytest.mark.parametrize("whole_pixels", [False, True])
def test_equals_torchvision(make_targets: MakeTargets, whole_pixels: bool) -> None:
    """Of whole sides some areas are equal, and some points lie on the border of a middle: both agree on these.

    Its ranges leave out their ends, ours have them; no distance from a point to a side, half a pixel off, is an end.
    """
    strides = (8, 16, 32)
    maps = tuple(torch.zeros(3, 1, 256 // s, 256 // s) for s in strides)
    priors = AnchorGrid(scale=1, offset=0.5).priors(Pyramid(maps, strides, torch.full((3, 2), 256.0)))
    corner, side = torch.rand(3, 40, 2, dtype=torch.float64) * 150, 4 + torch.rand(3, 40, 2, dtype=torch.float64) * 250
    if whole_pixels:
        corner, side = corner.floor() + 0.5, side.round()
    boxes = torch.cat([corner, corner + side], dim=2)
    targets = make_targets(*boxes.tolist(), padding=1, dtype=torch.float64)
    ours = FCOSAssigner(strides).assign(priors, targets)
    theirs = matched_by_torchvision(targets, priors.boxes.double(), priors.level_sizes)
    assert torch.equal(ours, theirs)
    assert all((level >= 0).sum() > 10 for level in ours.split(priors.level_sizes, dim=1))
