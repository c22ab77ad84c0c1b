"""Padded non-maximum suppression."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from codetr.ops.nms import nms


def run(
    boxes: Tensor, scores: Tensor, groups: Tensor | None = None, valid: Tensor | None = None, *, limit: int = 10
) -> list[list[int]]:
    groups = torch.zeros_like(scores, dtype=torch.long) if groups is None else groups
    valid = torch.ones_like(scores, dtype=torch.bool) if valid is None else valid
    index, kept = nms(boxes, scores, groups, valid, iou_threshold=0.5, limit=limit)
    assert index.shape == kept.shape == (len(boxes), min(limit, boxes.shape[1]))
    return [row[keep].tolist() for row, keep in zip(index, kept, strict=True)]


# 1 overlaps 0 by 0.9, 2 by 0.5 (which is not more than the threshold); 3 lies apart.
BOXES = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 5], [50, 50, 60, 60]])


def test_literal() -> None:
    assert run(BOXES[None], torch.tensor([[0.9, 0.8, 0.7, 0.95]])) == [[3, 0, 2]]


def test_other_groups_do_not_suppress() -> None:
    assert run(BOXES[None], torch.tensor([[0.9, 0.8, 0.7, 0.95]]), torch.tensor([[0, 5, 5, 0]])) == [[3, 0, 1]]


def test_padding_is_neither_kept_nor_suppresses() -> None:
    valid = torch.tensor([[False, True, True, True], [False, False, False, False]])
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.95]] * 2)
    assert run(BOXES.expand(2, 4, 4), scores, valid=valid) == [[3, 1], []]


def test_equal_scores_keep_their_order() -> None:
    assert run(BOXES[None], torch.full((1, 4), 0.5)) == [[0, 2, 3]]


def test_limit() -> None:
    assert run(BOXES[None], torch.tensor([[0.9, 0.8, 0.7, 0.95]]), limit=2) == [[3, 0]]


def test_looks_beyond_the_first_boxes_when_they_suppress_each_other() -> None:
    boxes = torch.cat([BOXES[:1].expand(40, 4), BOXES[3:]])
    scores = torch.linspace(1, 0.1, 41)
    assert run(boxes[None], scores[None], limit=2) == [[0, 40]]


def test_no_boxes() -> None:
    assert run(torch.zeros(2, 0, 4), torch.zeros(2, 0)) == [[], []]


def test_equals_torchvision() -> None:
    corner = torch.rand(3, 200, 2) * 60
    boxes = torch.cat([corner, corner + 5 + torch.rand(3, 200, 2) * 40], dim=-1)
    scores, groups = torch.rand(3, 200), torch.randint(0, 4, (3, 200))
    expected = [batched_nms(b, s, g, 0.5).tolist() for b, s, g in zip(boxes, scores, groups, strict=True)]
    assert run(boxes, scores, groups, limit=200) == expected
    assert run(boxes, scores, groups, limit=5) == [row[:5] for row in expected]
