"""Formats, units, overlaps and the delta code."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou, generalized_box_iou

from codetr.ops import boxes as ops

UNIT = torch.tensor([[0.0, 0.0, 10.0, 10.0]])


def random_boxes(*shape: int) -> Tensor:
    corner = torch.rand(*shape, 2, dtype=torch.float64) * 80
    return torch.cat([corner, corner + 1 + torch.rand(*shape, 2, dtype=torch.float64) * 40], dim=-1)


def test_formats() -> None:
    xyxy = torch.tensor([[10.0, 20.0, 30.0, 60.0]])
    cxcywh = torch.tensor([[20.0, 40.0, 20.0, 40.0]])
    assert torch.equal(ops.xyxy_to_cxcywh(xyxy), cxcywh)
    assert torch.equal(ops.cxcywh_to_xyxy(cxcywh), xyxy)


def test_normalise_divides_by_the_valid_size_of_each_image() -> None:
    boxes = torch.tensor([[[10.0, 20.0, 30.0, 60.0]], [[10.0, 20.0, 30.0, 60.0]]])
    sizes = torch.tensor([[80.0, 100.0], [40.0, 20.0]])  # height, width
    expected = torch.tensor([[[0.2, 0.5, 0.2, 0.5]], [[1.0, 1.0, 1.0, 1.0]]])
    torch.testing.assert_close(ops.normalise(boxes, sizes), expected)
    torch.testing.assert_close(ops.denormalise(expected, sizes), boxes)


def test_normalise_takes_any_number_of_dimensions() -> None:
    boxes, sizes = random_boxes(2, 3, 5), torch.tensor([[80.0, 100.0], [40.0, 20.0]], dtype=torch.float64)
    assert torch.equal(ops.normalise(boxes, sizes)[:, 1], ops.normalise(boxes[:, 1], sizes))


def test_clip() -> None:
    boxes = torch.tensor([[[-5.0, -5.0, 500.0, 500.0]], [[5.0, 5.0, 15.0, 15.0]]])
    sizes = torch.tensor([[80.0, 100.0], [10.0, 20.0]])
    assert ops.clip(boxes, sizes).tolist() == [[[0, 0, 100, 80]], [[5, 5, 15, 10]]]


@pytest.mark.parametrize(
    ("other", "iou", "giou"),
    [
        ([0, 0, 10, 10], 1, 1),
        ([5, 0, 15, 10], 1 / 3, 1 / 3),  # hull = union
        ([5, 5, 15, 15], 25 / 175, 25 / 175 - 50 / 225),
        ([20, 0, 30, 10], 0, -100 / 300),
        ([4, 4, 4, 8], 0, 0),  # no width, inside
        ([8, 8, 2, 2], 0, 0),  # inverted, counts as empty
    ],
)
def test_overlap_literals(other: list[float], iou: float, giou: float) -> None:
    box = torch.tensor([other], dtype=torch.float32)
    assert ops.pairwise_iou(UNIT, box).item() == pytest.approx(iou)
    assert ops.pairwise_giou(UNIT, box).item() == pytest.approx(giou)
    assert ops.aligned_iou(box, UNIT).item() == pytest.approx(iou)
    assert ops.aligned_giou(box, UNIT).item() == pytest.approx(giou)


def test_two_empty_boxes_at_one_place_overlap_by_nothing() -> None:
    point = torch.zeros(1, 4)
    assert ops.aligned_iou(point, point).item() == 0
    assert ops.aligned_giou(point, point).item() == 0


def test_overlaps_equal_torchvision() -> None:
    a, b = random_boxes(2, 7), random_boxes(2, 5)
    for ours, theirs in ((ops.pairwise_iou, box_iou), (ops.pairwise_giou, generalized_box_iou)):
        expected = torch.stack([theirs(x, y) for x, y in zip(a, b, strict=True)])
        torch.testing.assert_close(ours(a, b), expected)
    torch.testing.assert_close(ops.pairwise_iou(a[0], b), torch.stack([box_iou(a[0], y) for y in b]))


def test_half_precision_is_widened() -> None:
    big = torch.tensor([[0.0, 0.0, 1000.0, 1000.0]], dtype=torch.float16)  # its area overflows float16
    assert ops.aligned_giou(big, big).dtype == torch.float32
    assert ops.aligned_giou(big, big).item() == 1
    assert ops.area(big).item() == 1_000_000


def test_giou_gradient() -> None:
    a, b = random_boxes(6).requires_grad_(), random_boxes(6)
    assert torch.autograd.gradcheck(lambda x: ops.aligned_giou(x, b), (a,))


def test_coder_literal() -> None:
    coder = ops.DeltaCoder(stds=(0.1, 0.1, 0.2, 0.2))
    prior = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
    box = torch.tensor([[1.0, 0.0, 21.0, 10.0]])  # centre (11, 5), size (20, 10); the prior's: (5, 10), (10, 20)
    deltas = torch.tensor([[6.0, -2.5, math.log(2) / 0.2, -math.log(2) / 0.2]])
    torch.testing.assert_close(coder.encode(prior, box), deltas)
    torch.testing.assert_close(coder.decode(prior, deltas), box)


def test_coder_subtracts_means() -> None:
    coder = ops.DeltaCoder(means=(0.5, 0.0, 0.0, 0.0))
    assert coder.encode(UNIT, UNIT).tolist() == [[-0.5, 0, 0, 0]]


def test_coder_round_trip() -> None:
    priors, boxes = random_boxes(50), random_boxes(50)
    coder = ops.DeltaCoder(means=(0.1, 0.2, 0.3, 0.4), stds=(0.1, 0.1, 0.2, 0.2))
    torch.testing.assert_close(coder.decode(priors, coder.encode(priors, boxes)), boxes)


def test_coder_bounds_growth_and_shrinkage() -> None:
    wild = torch.tensor([[0.0, 0.0, 50.0, -50.0]])
    box = ops.DeltaCoder().decode(UNIT, wild)
    torch.testing.assert_close(ops.xyxy_to_cxcywh(box), torch.tensor([[5.0, 5.0, 625.0, 0.16]]))


def test_coder_of_degenerate_boxes_is_finite() -> None:
    empty = torch.zeros(1, 4)
    assert ops.DeltaCoder().encode(UNIT, empty).isfinite().all()
    assert ops.DeltaCoder().encode(empty, UNIT).isfinite().all()
