"""Distances from points to the sides of boxes."""

from __future__ import annotations

import math

import pytest
import torch

from codetr.models.parts.distances import boxes_at, centerness_target, centres, distances

BOX = torch.tensor([2.0, 4, 12, 10])


def test_literals() -> None:
    assert centres(BOX).tolist() == [7, 7]
    assert distances(torch.tensor([4.0, 5]), BOX).tolist() == [2, 1, 8, 5]
    assert distances(torch.tensor([0.0, 5]), BOX).tolist() == [-2, 1, 12, 5]
    assert boxes_at(torch.tensor([4.0, 5]), torch.tensor([2.0, 1, 8, 5])).tolist() == BOX.tolist()


def test_there_and_back_in_any_shape() -> None:
    points, low = torch.rand(3, 1, 2), torch.rand(3, 5, 2)
    boxes = torch.cat([low, low + torch.rand(3, 5, 2)], -1)
    torch.testing.assert_close(boxes_at(points, distances(points, boxes)), boxes)


def test_half_precision_is_widened() -> None:
    found = boxes_at(torch.tensor([1000.0, 1000]), torch.ones(4, dtype=torch.bfloat16))
    assert found.tolist() == [999, 999, 1001, 1001] and found.dtype == torch.float32


def test_centerness_literals() -> None:
    gt = torch.tensor([0.0, 0.0, 10.0, 20.0])
    middle, off, edge = torch.tensor([[0.0, 0, 10, 20], [-3, 0, 8, 20], [-5, 0, 5, 20]])
    assert centerness_target(middle, gt).item() == 1
    assert centerness_target(off, gt).item() == pytest.approx(math.sqrt(2.5 / 7.5))
    assert centerness_target(edge, gt).item() == 0
