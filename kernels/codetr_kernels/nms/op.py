"""Non-maximum suppression as operators of torch: opaque to fake tensors, `torch.compile` and `torch.export`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from codetr_kernels.backend import runs_triton
from codetr_kernels.nms.reference import batched_nms_reference, soft_nms_reference


@torch.library.custom_op("codetr_kernels::batched_nms", mutates_args=())
def batched_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, iou_threshold: float, limit: int
) -> tuple[Tensor, Tensor]:
    """`codetr_kernels.batched_nms` by what the device has."""
    if not runs_triton(boxes, scores):
        return batched_nms_reference(boxes, scores, groups, valid, iou_threshold=iou_threshold, limit=limit)
    from codetr_kernels.nms.triton import launch

    return launch.batched_nms(boxes, scores, groups, valid, iou_threshold=iou_threshold, limit=limit)


@torch.library.custom_op("codetr_kernels::soft_nms", mutates_args=())
def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    valid: Tensor,
    method: str,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    limit: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """`codetr_kernels.soft_nms` by what the device has."""
    settings: dict[str, Any] = {
        "method": method,
        "iou_threshold": iou_threshold,
        "sigma": sigma,
        "min_score": min_score,
        "limit": limit,
    }
    if not runs_triton(boxes, scores):
        return soft_nms_reference(boxes, scores, groups, valid, **settings)
    from codetr_kernels.nms.triton import launch

    return launch.soft_nms(boxes, scores, groups, valid, **settings)


def _size(boxes: Tensor, limit: int) -> tuple[int, int | torch.SymInt]:
    return boxes.shape[0], torch.sym_min(limit, boxes.shape[1])


@batched_nms.register_fake
def _(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, iou_threshold: float, limit: int
) -> tuple[Tensor, Tensor]:
    size = _size(boxes, limit)
    return groups.new_empty(size), valid.new_empty(size)


@soft_nms.register_fake
def _(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, method: str, *settings: Any
) -> tuple[Tensor, Tensor, Tensor]:
    size = _size(boxes, settings[-1])
    return groups.new_empty(size), scores.new_empty(size), valid.new_empty(size)
