"""The matching cost in plain PyTorch: the specification that the kernels are held to."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

INVALID_COST = 2.0**14
"""Of a query that may not be matched: costs of a model in training are below a hundred. Not more, because a float32
solver that must use such a query compares sums with it: to 0.001 here, to 0.06 with a million."""

EPS = 1e-7
"""Least area of a union and of a hull."""


def matching_cost_reference(
    logits: Tensor,
    boxes: Tensor,
    labels: Tensor,
    target_boxes: Tensor,
    num_objects: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    class_cost: Literal["focal", "softmax"] = "focal",
    class_weight: float,
    l1_weight: float,
    giou_weight: float,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Tensor:
    """Arguments and result as in `matching_cost`; every row is written, those of no object too."""
    dtype = compute_dtype(logits, boxes, target_boxes)
    num_layers = len(logits)
    logit, labels = logits.to(dtype).flatten(0, 1), labels.clamp(0, logits.shape[-1] - 1).repeat(num_layers, 1)
    # Coordinate by coordinate, each contiguous: on a CPU faster than torch.cdist, and nothing has four times the pairs.
    query = boxes.to(dtype).flatten(0, 1).movedim(2, 0).contiguous().unsqueeze(2)
    target = target_boxes.to(dtype).repeat(num_layers, 1, 1).movedim(2, 0).contiguous().unsqueeze(3)
    if class_cost == "softmax":
        logit = logit - logit.logsumexp(-1, keepdim=True)
    chosen = logit.transpose(1, 2).gather(1, labels.unsqueeze(2).expand(-1, -1, logit.shape[1]))
    by_class = -chosen.exp() if class_cost == "softmax" else _focal(chosen, alpha, gamma)
    total = class_weight * by_class + l1_weight * _distance(query, target) - giou_weight * _giou(query, target)
    if valid is not None:
        total = total.masked_fill(~valid.repeat(num_layers, 1).unsqueeze(1), INVALID_COST)
    return total


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """Of the arithmetic and the result: float32, or float64 where an input is."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def _focal(logit: Tensor, alpha: float, gamma: float) -> Tensor:
    """Focal loss of a yes less that of a no."""
    score = logit.sigmoid()
    positive = alpha * (1 - score) ** gamma * F.softplus(-logit)
    return positive - (1 - alpha) * score**gamma * F.softplus(logit)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Sum of the differences of the four coordinates; a (4, P, 1, N), b (4, P, M, 1)."""
    total = (a[0] - b[0]).abs()
    for coordinate in range(1, 4):
        total = total + (a[coordinate] - b[coordinate]).abs()
    return total


def _giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of boxes cxcywh; a (4, P, 1, N), b (4, P, M, 1). A box of no width or height has no area.

    Source: Rezatofighi et al., Generalized Intersection over Union, Algorithm 1.
    """
    (left_a, right_a), (top_a, bottom_a) = _sides(a)
    (left_b, right_b), (top_b, bottom_b) = _sides(b)
    overlap = _area(
        torch.minimum(right_a, right_b) - torch.maximum(left_a, left_b),
        torch.minimum(bottom_a, bottom_b) - torch.maximum(top_a, top_b),
    )
    hull = _area(
        torch.maximum(right_a, right_b) - torch.minimum(left_a, left_b),
        torch.maximum(bottom_a, bottom_b) - torch.minimum(top_a, top_b),
    ).clamp(min=EPS)
    areas = _area(right_a - left_a, bottom_a - top_a) + _area(right_b - left_b, bottom_b - top_b)
    union = (areas - overlap).clamp(min=EPS)
    return overlap / union - (hull - union) / hull


def _sides(box: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The low and the high end of both axes."""
    return [(box[axis] - 0.5 * box[2 + axis], box[axis] + 0.5 * box[2 + axis]) for axis in range(2)]


def _area(width: Tensor, height: Tensor) -> Tensor:
    return width.clamp(min=0) * height.clamp(min=0)
