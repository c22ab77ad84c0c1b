"""Overlaps of boxes and losses made of them in PyTorch's operations, for any device: the specification.

Boxes are xyxy unless a name says otherwise. Half-precision input is widened to float32, because areas of pixel boxes
overflow float16 and lose whole pixels in bfloat16; float64 stays float64. A degenerate box (width or height <= 0) has
area 0 and IoU 0 with everything, itself included. Areas and squared lengths that divide are at least 1e-7.

Sides are bounded by `relu`, whose gradient at 0 is 0; that of `clamp` depends on the version of torch.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor

BoxFormat: TypeAlias = Literal["xyxy", "cxcywh"]
Kind: TypeAlias = Literal["iou", "giou", "diou", "ciou"]

EPS = 1e-7
"""The least union, hull and squared diagonal, and the longest side of a box without an aspect ratio."""


def widened(x: Tensor) -> Tensor:
    """The tensor in at least single precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) centre, width, height to corners."""
    centre, half = boxes[..., :2], boxes[..., 2:] * 0.5
    return torch.cat([centre - half, centre + half], dim=-1)


def area(boxes: Tensor) -> Tensor:
    """(..., 4) to (...); 0 for a degenerate box."""
    boxes = widened(boxes)
    return (boxes[..., 2] - boxes[..., 0]).relu() * (boxes[..., 3] - boxes[..., 1]).relu()


def _overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection and union (at least 1e-7) of broadcast boxes."""
    width = torch.minimum(a[..., 2], b[..., 2]) - torch.maximum(a[..., 0], b[..., 0])
    height = torch.minimum(a[..., 3], b[..., 3]) - torch.maximum(a[..., 1], b[..., 1])
    intersection = width.relu() * height.relu()
    return intersection, (area(a) + area(b) - intersection).clamp(min=EPS)


def _hull(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Width and height of the smallest box around both; negative only if both are inverted."""
    width = torch.maximum(a[..., 2], b[..., 2]) - torch.minimum(a[..., 0], b[..., 0])
    height = torch.maximum(a[..., 3], b[..., 3]) - torch.minimum(a[..., 1], b[..., 1])
    return width, height


def aligned_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of broadcast (..., 4) boxes, one by one."""
    intersection, union = _overlap(widened(a), widened(b))
    return intersection / union


def aligned_giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU in [-1, 1] of broadcast (..., 4) boxes, one by one.

    Two degenerate boxes at the same place give 0.

    Source: Rezatofighi et al., Generalized Intersection over Union, Algorithm 1.
    """
    a, b = widened(a), widened(b)
    intersection, union = _overlap(a, b)
    width, height = _hull(a, b)
    hull = (width.relu() * height.relu()).clamp(min=EPS)
    return intersection / union - (hull - union) / hull


def pairwise_iou_reference(a: Tensor, b: Tensor, *, box_format: BoxFormat = "xyxy") -> Tensor:
    """`codetr_kernels.pairwise_iou`."""
    a, b = corners(a, box_format), corners(b, box_format)
    return aligned_iou(a.unsqueeze(-2), b.unsqueeze(-3))


def pairwise_giou_reference(a: Tensor, b: Tensor, *, box_format: BoxFormat = "xyxy") -> Tensor:
    """`codetr_kernels.pairwise_giou`."""
    a, b = corners(a, box_format), corners(b, box_format)
    return aligned_giou(a.unsqueeze(-2), b.unsqueeze(-3))


def box_loss_reference(prediction: Tensor, target: Tensor, *, kind: Kind, box_format: BoxFormat = "xyxy") -> Tensor:
    """The loss `kind` of `codetr_kernels`, of broadcast (..., 4) boxes."""
    prediction, target = corners(prediction, box_format), corners(target, box_format)
    if kind == "giou":
        return 1 - aligned_giou(prediction, target)
    iou = aligned_iou(prediction, target)
    if kind == "iou":
        return 1 - iou
    loss = 1 - iou + _distance(prediction, target)
    return loss if kind == "diou" else loss + _aspect(prediction, target, iou.detach())


def corners(boxes: Tensor, box_format: BoxFormat) -> Tensor:
    """xyxy boxes in at least single precision."""
    boxes = widened(boxes)
    return cxcywh_to_xyxy(boxes) if box_format == "cxcywh" else boxes


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared distance of the centres in units of the squared diagonal of the hull.

    Source: Zheng et al., Distance-IoU Loss, Eq. 6.
    """
    width, height = _hull(a, b)
    diagonal = (width.square() + height.square()).clamp(min=EPS)
    offset = ((a[..., :2] + a[..., 2:]) - (b[..., :2] + b[..., 2:])) * 0.5
    return offset.square().sum(-1) / diagonal


def _aspect(a: Tensor, b: Tensor, iou: Tensor) -> Tensor:
    """The term of the aspect ratios, its weight a constant; 0 where a side of a box is at most 1e-7.

    Source: Zheng et al., Distance-IoU Loss, Eq. 8 to 11.
    """
    side_a, side_b = torch.broadcast_tensors(a[..., 2:] - a[..., :2], b[..., 2:] - b[..., :2])
    proper = (torch.minimum(side_a, side_b) > EPS).all(-1)
    angles = [torch.atan2(*side.masked_fill(~proper.unsqueeze(-1), 1.0).unbind(-1)) for side in (side_a, side_b)]
    difference = (4 / math.pi**2) * (angles[1] - angles[0]).square()
    weight = difference.detach() / (1 - iou + difference.detach()).clamp(min=EPS)
    return weight * difference
