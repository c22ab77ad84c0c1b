"""Boxes as distances from a point to their four sides, and how central the point lies (FCOS, GFL).

Boxes are xyxy; distances are left, top, right, bottom, positive where the point lies inside.
Source: Tian et al., FCOS: Fully Convolutional One-Stage Object Detection, Eq. 1 and 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from codetr.ops.boxes import widened


def centres(boxes: Tensor) -> Tensor:
    """(..., 2) x and y of boxes (..., 4)."""
    return (boxes[..., :2] + boxes[..., 2:]) * 0.5


def distances(points: Tensor, boxes: Tensor) -> Tensor:
    """(..., 4) from points (..., 2) to the sides of boxes (..., 4)."""
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1)


def boxes_at(points: Tensor, distances: Tensor) -> Tensor:
    """The boxes (..., 4) with their sides at `distances` (..., 4) from points (..., 2), in at least float32."""
    points, distances = widened(points), widened(distances)
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], dim=-1)


def centerness_target(priors: Tensor, boxes: Tensor) -> Tensor:
    """How central the centre of a prior lies in its ground truth: 1 in the middle, 0 at a side; xyxy, centre inside."""
    centre = centres(priors)
    low, high = centre - boxes[..., :2], boxes[..., 2:] - centre
    ratio = torch.minimum(low, high) / torch.maximum(low, high)
    return ratio.prod(-1).sqrt()
