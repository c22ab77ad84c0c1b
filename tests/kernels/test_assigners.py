"""The one-to-many assigners: what they say, and the rules in plain loops. With TRITON_INTERPRET=1 by the kernels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from assigner_scenes import (
    SCENES,
    STRIDES,
    of_images,
    plain_atss,
    plain_fcos,
    plain_max_iou,
    plain_mixture,
    random_objects,
    scene,
)
from codetr_kernels import atss_assign, fcos_assign, max_iou_assign, paa_assign
from codetr_kernels.backend import interpreted
from samples import DEVICE
from torch import Tensor

pytestmark = [pytest.mark.literal, pytest.mark.usefixtures("garbage")]

RANGES = ((-1.0, 12.0), (12.0, 20.0), (20.0, math.inf))
SETTINGS = {
    "low quality": {"positive": 0.7, "negative": 0.3, "low_quality": 0.125},
    "any best": {"positive": 0.1, "negative": 0.1, "low_quality": 0.0},
    "thresholds only": {"positive": 0.5, "negative": 0.4},
}


def boxes(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, device=DEVICE).view(len(rows), -1)


def mask(*rows: list[int]) -> Tensor:
    return torch.tensor(rows, device=DEVICE).bool()


def test_max_iou_literal() -> None:
    """IoU with the first object 1, 0.8, 0.5, 0.2; two priors have 0.5 with the second. The third object is padding."""
    priors = boxes(
        [0.0, 0, 10, 10],
        [0, 0, 10, 8],
        [0, 0, 10, 5],
        [0, 0, 10, 2],
        [20, 20, 30, 30],
        [20, 30, 30, 40],
        [0, 0, 10, 10],
    )
    objects = boxes([0.0, 0, 10, 10], [20, 20, 30, 40], [0, 0, 10, 10])[None]
    inputs = (priors, mask([1, 1, 1, 1, 1, 1, 0]), objects, mask([1, 1, 0]))
    for low_quality, expected in (
        (None, [0, 0, -2, -1, -2, -2, -2]),
        (0.3, [0, 0, -2, -1, 1, 1, -2]),  # all that tie for the best of an object
        (0.6, [0, 0, -2, -1, -2, -2, -2]),  # its best is not good enough
    ):
        found = max_iou_assign(*inputs, positive=0.7, negative=0.3, low_quality=low_quality)
        assert found.tolist() == [expected], low_quality
        assert found.dtype == torch.int64


def test_max_iou_ties() -> None:
    """Equal overlaps go to the first object; a prior that is the best of two objects, 0.5 and 0.4, to the last one."""
    prior, one = boxes([0.0, 0, 10, 10]), mask([1])
    twice = boxes([0.0, 0, 10, 10], [0, 0, 10, 10])[None]
    assert max_iou_assign(prior, one, twice, mask([1, 1]), positive=0.7, negative=0.3).tolist() == [[0]]
    two = boxes([0.0, 0, 10, 20], [0, 0, 10, 4])[None]
    found = max_iou_assign(prior, one, two, mask([1, 1]), positive=0.7, negative=0.3, low_quality=0.3)
    assert found.tolist() == [[1]]


def test_iou_is_rounded_once() -> None:
    """A prior that is its object has the IoU 1, whatever the area: 49 times the rounded 1 / 49 is less."""
    prior = torch.arange(1.0, 60, device=DEVICE).view(-1, 1) * boxes([0.0, 0, 1, 7])
    one = torch.ones(1, 59, dtype=torch.bool, device=DEVICE)
    for row in (6, 30):
        found = max_iou_assign(prior, one, prior[None, row : row + 1], one[:, :1], positive=1.0, negative=1.0)
        assert (found[0] == 0).nonzero().tolist() == [[row]]


def test_atss_literal() -> None:
    """A row of anchors (8 i, 0) of side 8. Candidates of IoU 0, 1, 0: threshold 0.91, one positive. Of 1/4: all."""
    case = scene(np.array([[12.0, -4, 20, 4]]), np.array([[-4.0, -4, 28, 4]]), shapes=((1, 4),), strides=(8,), side=8)
    for grid in (case.grid, None):
        found = atss_assign(*case.inputs(), level_sizes=(4,), topk=4, grid=grid)
        assert found.tolist() == [[-1, -1, 0, -1], [0, 0, 0, 0]]
        # The first object's centre is between two anchors, whose centres are on its sides; the second has one for it.
        exact = scene(np.array([[8.0, -4, 16, 4], [4, -4, 12, 4]]), shapes=((1, 4),), strides=(8,), side=8)
        found = atss_assign(*exact.inputs(), level_sizes=(4,), topk=3, grid=grid and exact.grid)
        assert found.tolist() == [[-1, 1, -1, -1]]


def test_fcos_literal() -> None:
    """Points at 4, 12, 20, 28 of stride 8; the second object is smaller, the third wrong in size."""
    points = boxes([4.0, 4], [12, 4], [20, 4], [28, 4])
    objects = boxes([0.0, 0, 32, 8], [8, 0, 24, 8], [0, 0, 900, 900])[None]
    inputs = (points, mask([1, 1, 1, 0]), objects, mask([1, 1, 1]))
    settings = {"level_sizes": (4,), "strides": (8.0,), "ranges": ((-1.0, 64.0),)}
    assert fcos_assign(*inputs, **settings, radius=None).tolist() == [[0, 1, 1, -2]]
    assert fcos_assign(*inputs, **settings, radius=1.0).tolist() == [[-1, 1, 1, -2]]  # 4 is 12 from the centre 16
    assert fcos_assign(*inputs, **settings, radius=0.5).tolist() == [[-1, -1, -1, -2]]  # 12 is 4 from it: outside
    narrow = {**settings, "ranges": ((12.0, 20.0),)}  # The farthest side of the first object is 28, 20, 20, 28 away.
    assert fcos_assign(*inputs, **narrow, radius=None).tolist() == [[-1, 1, 1, -2]]
    assert fcos_assign(*inputs, **{**settings, "ranges": ((13.0, 20.0),)}, radius=None).tolist() == [[-1, 0, 0, -2]]


def test_paa_literal() -> None:
    """Two clear groups of losses; the positives end at the likeliest of the good ones, whose mean is 0.11."""
    losses = boxes([0.10, 5.1, 0.11, 5.0, 0.12, 5.2, 0.3, 9.0])
    gt_index = torch.tensor([[0, 0, 0, 0, 0, 0, 1, -2]], device=DEVICE)
    found = paa_assign(losses, gt_index, num_gts=3, level_sizes=(4, 4), topk=3)
    assert found.tolist() == [[0, -1, 0, -1, -1, -1, -1, -2]]  # a single candidate is none


def test_paa_candidates_are_the_best_of_each_level() -> None:
    """With one candidate a level, the losses 0.2 and 4 remain: 0.2 is good, 0.3 no candidate."""
    losses = boxes([0.3, 0.2, 4.0, 6.0, float("nan")])
    gt_index = torch.zeros(1, 5, dtype=torch.int64, device=DEVICE)
    assert paa_assign(losses, gt_index, num_gts=1, level_sizes=(2, 3), topk=1).tolist() == [[-1, 0, -1, -1, -1]]


@pytest.mark.parametrize("name", SCENES)
def test_max_iou_is_the_plain_loop(name: str) -> None:
    case = SCENES[name]()
    for settings in SETTINGS.values():
        found = max_iou_assign(*case.inputs(), **settings)
        assert found.tolist() == [plain_max_iou(*image, **settings) for image in of_images(case)]


@pytest.mark.parametrize("name", SCENES)
def test_atss_is_the_plain_loop(name: str) -> None:
    case = SCENES[name]()
    sizes = case.grid.level_sizes
    found = atss_assign(*case.inputs(), level_sizes=sizes, grid=case.grid).tolist()
    expected = [plain_atss(*image, sizes, 9) for image in of_images(case)]
    assert any(image is not None for image in expected)
    assert all(wanted is None or image == wanted for image, wanted in zip(found, expected, strict=True))


@pytest.mark.parametrize("radius", [None, 1.5])
@pytest.mark.parametrize("name", SCENES)
def test_fcos_is_the_plain_loop(name: str, radius: float | None) -> None:
    case = SCENES[name]()
    points = case.points()
    settings = {
        "level_sizes": case.grid.level_sizes,
        "strides": case.grid.strides,
        "ranges": RANGES[-len(case.grid.strides) :],
        "radius": radius,
    }
    found = fcos_assign(*points, **settings).tolist()
    assert found == [plain_fcos(*image, *settings.values()) for image in of_images(case, points[0])]


@pytest.mark.parametrize("spread", [0.02, 0.6])
def test_paa_is_the_plain_loop(spread: float) -> None:
    """All priors are candidates. Losses in two groups, near or far, of every share; the last object has one only."""
    sizes = torch.tensor([2, 3, 9, 12, 1])
    gt_index = torch.repeat_interleave(torch.arange(5), sizes).expand(2, -1).contiguous()
    bad = torch.rand(2, 27) < 0.5
    losses = torch.where(bad, 2.0 + torch.randn(2, 27) * spread, 0.5 + torch.randn(2, 27).abs() * spread)
    losses[1, -4:] = 1.25  # equal losses
    found = paa_assign(losses.to(DEVICE), gt_index.to(DEVICE), num_gts=6, level_sizes=(27,), topk=20).cpu()
    for image in range(2):
        for number in range(5):
            mine = gt_index[image] == number
            wanted = plain_mixture(losses[image, mine].double().numpy())
            assert (found[image, mine] == number).tolist() == wanted.tolist(), (image, number)
    assert (found >= 0).sum() > 10


def test_a_thousand_objects() -> None:
    """A hundred in the interpreter, which takes a tenth of a second for ten of them."""
    count = 100 if interpreted() else 1000
    case = scene(random_objects(count, low=0, high=40), shapes=((2, 3),), strides=(16,), padding=24)
    (image,) = of_images(case)
    found = max_iou_assign(*case.inputs(), positive=0.5, negative=0.4, low_quality=0.3)
    assert found.tolist() == [plain_max_iou(*image, 0.5, 0.4, 0.3)]
    assert len(set(found[0].tolist())) >= 3


def test_priors_of_each_image() -> None:
    case = scene(random_objects(4), random_objects(3, seed=1))
    own = torch.stack([case.priors, case.priors + 3])
    found = max_iou_assign(own, *case.inputs()[1:], positive=0.3, negative=0.3)
    for image in range(2):
        alone = (tensor[image : image + 1] for tensor in case.inputs()[1:])
        expected = max_iou_assign(own[image], *alone, positive=0.3, negative=0.3)
        assert torch.equal(found[image : image + 1], expected)
    settings = {"level_sizes": case.grid.level_sizes, "grid": case.grid}
    both = atss_assign(case.priors.expand(2, -1, -1), *case.inputs()[1:], **settings)
    assert torch.equal(both, atss_assign(*case.inputs(), **settings))


def test_no_priors_and_no_images() -> None:
    for batch, count in ((1, 0), (0, 3)):
        priors = torch.zeros(count, 4, device=DEVICE)
        valid = torch.ones(batch, count, dtype=torch.bool, device=DEVICE)
        objects = torch.rand(batch, 2, 4, device=DEVICE)
        real = torch.ones(batch, 2, dtype=torch.bool, device=DEVICE)
        inputs = (priors, valid, objects, real)
        assert max_iou_assign(*inputs, positive=0.5, negative=0.5, low_quality=0.1).shape == (batch, count)
        assert atss_assign(*inputs, level_sizes=(count,)).shape == (batch, count)
        levels = {"level_sizes": (count,), "strides": (8,), "ranges": ((0, 1),)}
        assert fcos_assign(priors[:, :2], *inputs[1:], **levels).shape == (batch, count)
        index = torch.zeros(batch, count, dtype=torch.int64, device=DEVICE)
        assert paa_assign(index.float(), index, num_gts=2, level_sizes=(count,)).shape == (batch, count)


def test_sixteen_bits_are_widened() -> None:
    case = scene(random_objects(5, low=0))
    priors, valid, objects, real = case.inputs()
    settings = {"positive": 0.5, "negative": 0.4, "low_quality": 0.2}
    wide = max_iou_assign(priors, valid, objects.bfloat16().float(), real, **settings)
    assert torch.equal(max_iou_assign(priors, valid, objects.bfloat16(), real, **settings), wide)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, in the interpreter
def test_no_numbers_are_no_objects_but_no_harm() -> None:
    """Boxes that are no numbers end in some assignment; the other objects' counts stay in bounds."""
    case = scene(random_objects(4))
    case.gt_boxes[0, 1] = float("nan")
    case.gt_boxes[0, 2] = float("inf")
    case.gt_boxes[0, 3] = torch.tensor([-1e30, -1e30, 1e30, 1e30])
    sizes = case.grid.level_sizes
    levels = {"level_sizes": sizes, "strides": STRIDES, "ranges": RANGES}
    for found in (
        max_iou_assign(*case.inputs(), positive=0.5, negative=0.4, low_quality=0.1),
        atss_assign(*case.inputs(), level_sizes=sizes, grid=case.grid),
        fcos_assign(*case.points(), **levels),
    ):
        assert found.min() >= -2 and found.max() < 4
    losses = torch.tensor([[float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 0.0]], device=DEVICE)
    index = torch.zeros(1, 6, dtype=torch.int64, device=DEVICE)
    found = paa_assign(losses, index, num_gts=1, level_sizes=(6,))
    assert set(found.flatten().tolist()) <= {0, -1} and found[0, :3].tolist() == [-1] * 3
